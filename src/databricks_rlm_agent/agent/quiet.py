"""Libraries that talk when not asked: to the log, to standard output, and to the internet."""

from __future__ import annotations

import logging
import os
import warnings

from databricks_rlm_agent.logs import keep_off_root


def quiet_adk() -> None:
    """Keep google-adk off the root logger.

    It logs every model error with its traceback, where a key may stand; we record each one, redacted, in the
    run. Who wants its log adds a handler to ``google_adk``.
    """
    keep_off_root("google_adk")
    # google-genai makes such a class at its first call (_api_client.py), which would fail under -W error.
    warnings.filterwarnings(
        "ignore",
        message="Inheritance class AiohttpClientSession from ClientSession is discouraged",
        category=DeprecationWarning,
    )


def quiet_litellm() -> None:
    """Import LiteLLM without its price-list download, its .env file and its advice on standard output."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
    import litellm

    litellm.suppress_debug_info = True  # it prints advice on standard output, where our JSON goes
    litellm.telemetry = False
    for name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router"):
        logging.getLogger(name).handlers.clear()  # google-adk points them at standard output
        keep_off_root(name)

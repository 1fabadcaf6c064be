"""Entry points of wheel tasks: what Job A calls."""

from __future__ import annotations

import logging
import sys

from databricks_rlm_agent.cli.main import main


def orchestrator() -> int:
    """``rlm-orchestrator``: the continuous control plane. It takes the parameters of ``orchestrate``.

    Its log is read by machines and long after the fact: JSON lines at INFO, unless told otherwise.
    """
    code = main(["orchestrate", *sys.argv[1:]], log_format="json", log_level=logging.INFO)
    if code:
        sys.exit(code)  # a wheel task counts as failed by its exit code only
    return code

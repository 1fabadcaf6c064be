"""From the model setting to models that can be asked."""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from databricks_rlm_agent.errors import ConfigError, SecretsMissing
from databricks_rlm_agent.logs import hide, keep_off_root
from databricks_rlm_agent.models import VARIABLES, ModelSpec, Price, parse_models, required_secrets
from databricks_rlm_agent.planner.script import Script
from databricks_rlm_agent.planner.spending import Prices
from databricks_rlm_agent.secrets import Secret, redact

if TYPE_CHECKING:
    from google.adk.models import BaseLlm

    from databricks_rlm_agent.planner.chain import ChainModel, Meter


def configure_adk_logging() -> None:
    """Keep google-adk off the root logger.

    It logs every model error with its traceback, where a key may stand; we record each one, redacted, in the
    run. Whoever wants its log adds a handler to ``google_adk``.
    """
    keep_off_root("google_adk")
    # google-genai makes such a class at its first call (_api_client.py), which would fail under -W error.
    warnings.filterwarnings(
        "ignore",
        message="Inheritance class AiohttpClientSession from ClientSession is discouraged",
        category=DeprecationWarning,
    )


def import_litellm() -> None:
    """Import LiteLLM without its price-list download, its .env file and its advice on standard output."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
    import litellm

    litellm.suppress_debug_info = True  # it prints advice on standard output, where our JSON goes
    litellm.telemetry = False
    for name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router"):
        logging.getLogger(name).handlers.clear()  # google-adk points them at standard output
        keep_off_root(name)


class Models:
    """The models of one setting. Opened for each conversation, so that a script knows where it is.

    ``secrets`` (by key, as in models.py) is read at each opening: a mapping that hands out fresh
    tokens keeps a long-lived controller going. ``prices`` are by model name. Raises ConfigError for an
    unknown form or a missing package, SecretsMissing for a missing key, UsageError for a script that cannot
    be used.
    """

    def __init__(
        self,
        setting: str,
        *,
        secrets: Mapping[str, Secret],
        prices: Mapping[str, Price] | None = None,
    ) -> None:
        self.name = setting.strip()
        self.prices = Prices(prices)
        self._specs = parse_models(setting)
        self._secrets = secrets
        self._gemini: dict[str, BaseLlm] = {}
        self._script = Script.read(self._specs[0].name) if self._specs[0].provider == "scripted" else None
        if any(spec.needs_litellm for spec in self._specs):
            _need_litellm()
        _need_keys(setting, secrets)

    def has_reply(self, role: str, iter_n: int, *, objective: str) -> bool:
        """Return whether there is a reply: a script may have none for a role in an iteration."""
        return self._script is None or self._script.has(role, iter_n, objective=objective)

    def redact(self, text: str) -> str:
        """Remove the models' keys from ``text``, both given ones and those of the environment."""
        keys = [key for key in VARIABLES if key != "databricks-host"]  # a host is no secret
        given = [self._secrets[key] for key in keys if key in self._secrets]
        return redact(text, given + [Secret(os.environ.get(VARIABLES[key], "")) for key in keys])

    @property
    def scripted(self) -> bool:
        """Return whether the replies come from a script."""
        return self._script is not None

    def unpriced(self) -> list[str]:
        """The models whose price is not known."""
        names = [self.name] if self._script else [spec.name for spec in self._specs]
        return [name for name in names if self.prices.of(name) is None]

    def open(self, *, role: str, iter_n: int, meter: Meter, objective: str) -> ChainModel:
        """The chain for one conversation of the run with that objective."""
        configure_adk_logging()
        from databricks_rlm_agent.planner.chain import ChainModel

        links = [self._link(spec, role, iter_n, objective) for spec in self._specs]
        return ChainModel(model=self.name, links=links, meter=meter)

    def _link(self, spec: ModelSpec, role: str, iter_n: int, objective: str) -> BaseLlm:
        if self._script is not None:
            from databricks_rlm_agent.planner.chain import ScriptedModel

            return ScriptedModel(
                model=self.name, script=self._script, role=role, iter_n=iter_n, objective=objective
            )
        return self._lite_llm(spec) if spec.needs_litellm else self._native(spec)

    def _native(self, spec: ModelSpec) -> BaseLlm:
        if spec.name not in self._gemini:  # its client is costly to make, and safe to share on one loop
            from google.adk.models import Gemini
            from google.genai import types

            key = self._value("google-api-key")  # None: the client reads its environment
            self._gemini[spec.name] = Gemini(
                model=spec.name,
                client_kwargs={"api_key": key} if key else None,
                retry_options=types.HttpRetryOptions(attempts=1),  # retry.py decides alone
            )
        return self._gemini[spec.name]

    def _lite_llm(self, spec: ModelSpec) -> BaseLlm:
        import_litellm()
        from google.adk.models.lite_llm import LiteLlm

        arguments: dict[str, object] = {
            "drop_params": True,
            "max_retries": 0,  # retry.py decides alone
            # Without this LiteLLM 1.106 imports its MCP gateway for every request that has tools, and fails
            # where the package mcp is not installed (litellm/main.py, completion).
            "_skip_mcp_handler": True,
        }
        if spec.provider == "databricks":
            host, key = self._value("databricks-host"), self._value("databricks-token")
            if host and key:
                arguments["api_base"] = f"{_with_scheme(host)}/serving-endpoints"
        else:
            key = self._value(f"{spec.provider}-api-key")
        if key:
            arguments["api_key"] = key
        return LiteLlm(model=spec.name, **arguments)

    def _value(self, key: str) -> str | None:
        secret = self._secrets.get(key)
        if secret is None:
            return None
        if key != "databricks-host":
            hide(secret)  # from here on a library has it, and may log it
        return secret.reveal()


def _with_scheme(host: str) -> str:
    return (host if "://" in host else f"https://{host}").rstrip("/")


def _need_keys(setting: str, secrets: Mapping[str, Secret]) -> None:
    # The variables too, since the libraries read them when they are given no key.
    missing = [k for k in required_secrets(setting) if k not in secrets and not os.environ.get(VARIABLES[k])]
    if missing:
        names = ", ".join(f"{key} ({VARIABLES[key]})" for key in missing)
        raise SecretsMissing(
            f"The model {setting!r} needs secrets that are missing: {names}.",
            fix="Set the variable, or see: rlm-agent secrets check",
        )


def _need_litellm() -> None:
    if importlib.util.find_spec("litellm") is None:
        raise ConfigError(
            "Models of databricks/…, openai/… and anthropic/… need a package that is not installed.",
            where="RLM_MODEL",
            fix="Run: pip install 'databricks-rlm-agent[litellm]'",
        )

"""Settings: read once at start-up, frozen, handed down. Nothing else reads the environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from databricks_rlm_agent.attempts.manifest import Compute, existing_cluster, serverless
from databricks_rlm_agent.errors import ConfigError
from databricks_rlm_agent.intake.mapping import WorkMapping, default_mapping, parse_mapping, with_table
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.models import Price
from databricks_rlm_agent.runs.parsing import Document


def work_from_environment(environ: Mapping[str, str], namespace: Namespace) -> WorkMapping | None:
    """The work table to poll, None for ``RLM_WORK_TABLE=none``; raise ConfigError for nonsense.

    ``RLM_WORK_TABLE`` is a full table name (default: our ``work_items``); ``RLM_WORK_MAPPING`` is a mapping
    in JSON, or ``@FILE`` with one. Where both name a table, ``RLM_WORK_TABLE`` counts.
    """
    table, text = environ.get("RLM_WORK_TABLE") or "", environ.get("RLM_WORK_MAPPING") or ""
    if table.lower() == "none":
        return None
    if not text:
        return default_mapping(table or namespace.table("work_items"))
    mapping = parse_mapping(_text_of(text, "RLM_WORK_MAPPING"), where="RLM_WORK_MAPPING")
    return with_table(mapping, table) if table else mapping


def _text_of(value: str, variable: str) -> str:
    """The text of a variable, or of the file that it names with an ``@``."""
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{variable} names a file that is not readable: {error}.", where=value[1:]
        ) from None


_Amount = Annotated[float, Field(ge=0, lt=1_000_000, allow_inf_nan=False, strict=True)]
# What ``auto`` means for each key.
DEFAULT_MODELS = {
    "GOOGLE_API_KEY": "gemini-2.5-pro",
    "OPENAI_API_KEY": "openai/gpt-5",
    "ANTHROPIC_API_KEY": "anthropic/claude-sonnet-4-5",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be configured. Times are in seconds."""

    namespace: Namespace
    secret_scope: str
    model: str
    warehouse_http_path: str | None
    profile: str | None
    compute: Compute
    prices: Mapping[str, Price] = field(default_factory=dict)
    # The table that tasks are taken from, if any.
    work: WorkMapping | None = None
    # Renewed while its holder works: how long the runs of a controller that died lie still.
    lease_s: float = 60.0
    program_timeout_s: int = 3600
    # A job without a result is asked of the Jobs API only after this time; until then the ledger is enough.
    suspect_after_s: float = 10.0
    # Runs that a controller holds at a time, and those of them that it works on at once: to hold many more
    # would only keep them from other controllers.
    batch: int = 48
    planners: int = 16
    # What programs may ask: a serving endpoint (none: that of the planner, if it is one), how many calls at
    # once and per minute in a whole run, seconds for one call, the longest reply in tokens.
    sub_model: str | None = None
    sub_concurrency: int = 64
    sub_per_minute: int | None = None
    sub_timeout_s: float = 120.0
    sub_reply_tokens: int = 4_096
    # Schemas that generated code may write to ("catalog.schema", "catalog.*" or "*"); None: as the mode says.
    write_targets: tuple[str, ...] | None = None


def from_environment(
    environ: Mapping[str, str], *, model: str | None = None, profile: str | None = None
) -> Settings:
    """The settings that an environment asks for; raise ConfigError or UsageError for nonsense.

    Variables: ``ADK_DELTA_CATALOG``, ``ADK_DELTA_SCHEMA``, ``ADK_SECRET_SCOPE``, ``RLM_VOLUME``,
    ``RLM_MODEL``, ``RLM_WAREHOUSE_HTTP_PATH``, ``RLM_COMPUTE``, ``RLM_TIMEOUT_S``, ``RLM_LEASE_S``,
    ``RLM_SUSPECT_AFTER_S``, ``RLM_MODEL_PRICES``, ``RLM_WORK_TABLE``, ``RLM_WORK_MAPPING``,
    ``RLM_SUB_MODEL``, ``RLM_SUB_CONCURRENCY``, ``RLM_SUB_PER_MINUTE``, ``RLM_SUB_TIMEOUT_S``,
    ``RLM_SUB_REPLY_TOKENS``, ``RLM_WRITE_TARGETS``.
    Host and credentials follow the SDK's own unified configuration.
    """
    namespace = Namespace(
        catalog=environ.get("ADK_DELTA_CATALOG") or "main",
        schema=environ.get("ADK_DELTA_SCHEMA") or "rlm",
        volume=environ.get("RLM_VOLUME") or "artifacts",
    )
    return Settings(
        namespace=namespace,
        secret_scope=environ.get("ADK_SECRET_SCOPE") or "adk-secrets",
        model=model or environ.get("RLM_MODEL") or "",
        warehouse_http_path=environ.get("RLM_WAREHOUSE_HTTP_PATH") or None,
        profile=profile,
        compute=parse_compute(environ.get("RLM_COMPUTE") or "serverless"),
        work=work_from_environment(environ, namespace),
        prices=parse_prices(environ.get("RLM_MODEL_PRICES") or "{}"),
        lease_s=_number(environ, "RLM_LEASE_S", 60.0),
        program_timeout_s=max(1, int(_number(environ, "RLM_TIMEOUT_S", 3600))),
        suspect_after_s=_number(environ, "RLM_SUSPECT_AFTER_S", 10.0),
        sub_model=environ.get("RLM_SUB_MODEL") or None,
        sub_concurrency=max(1, int(_number(environ, "RLM_SUB_CONCURRENCY", 64, unit="calls"))),
        sub_per_minute=_whole_or_none(environ, "RLM_SUB_PER_MINUTE"),
        sub_timeout_s=_number(environ, "RLM_SUB_TIMEOUT_S", 120.0),
        sub_reply_tokens=max(1, int(_number(environ, "RLM_SUB_REPLY_TOKENS", 4_096, unit="tokens"))),
        write_targets=_names(environ.get("RLM_WRITE_TARGETS")),
    )


def choose_model(setting: str, environ: Mapping[str, str]) -> str:
    """The model setting itself; for ``auto`` or nothing, the first whose key is there; else ConfigError."""
    if setting and setting != "auto":
        return setting
    for variable, model in DEFAULT_MODELS.items():
        if environ.get(variable):
            return model
    raise ConfigError(
        "No model is chosen, and there is no key to choose one by.",
        where="RLM_MODEL or --model",
        fix=f"Set RLM_MODEL, or one of {', '.join(DEFAULT_MODELS)}; --model scripted:FILE needs no key.",
    )


def parse_compute(text: str) -> Compute:
    """``serverless``, ``cluster:<id>`` or ``@FILE`` with a JSON ``new_cluster``; else ConfigError."""
    if text == "serverless":
        return serverless()
    if text.startswith("cluster:") and len(text) > len("cluster:"):
        return existing_cluster(text.removeprefix("cluster:"))
    if text.startswith("@"):
        try:
            cluster = json.loads(_text_of(text, "RLM_COMPUTE"))
        except ValueError as error:
            raise ConfigError(
                f"RLM_COMPUTE names a file that is not JSON: {error}.", where=text[1:]
            ) from None
        return Compute(task={"new_cluster": cluster})
    raise ConfigError(
        f"RLM_COMPUTE is {text!r}.",
        fix="Use 'serverless', 'cluster:<id>' or '@FILE' with a new_cluster in JSON.",
    )


class _ListPrice(Document, extra="forbid"):
    input: _Amount
    output: _Amount


def parse_prices(text: str) -> dict[str, Price]:
    """Prices by model name, from JSON or ``@FILE``; raise ConfigError that says where and in which form."""
    where = text[1:] if text.startswith("@") else "RLM_MODEL_PRICES"
    try:
        table = _PRICES.validate_json(_text_of(text, "RLM_MODEL_PRICES"))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, problem["loc"])) or "its beginning"
        raise ConfigError(
            f"The table of prices is wrong: {problem['msg']} at {place}.",
            where=where,
            fix='Write {"gemini-2.5-pro": {"input": USD, "output": USD}, …}, dollars per million tokens.',
        ) from None
    return {name: Price(input_usd=each.input, output_usd=each.output) for name, each in table.items()}


_PRICES = TypeAdapter(dict[str, _ListPrice])


def _names(text: str | None) -> tuple[str, ...] | None:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else None


def _whole_or_none(environ: Mapping[str, str], name: str) -> int | None:
    return max(1, int(_number(environ, name, 1, unit="calls"))) if environ.get(name) else None


def _number(environ: Mapping[str, str], name: str, default: float, *, unit: str = "seconds") -> float:
    text = environ.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise ConfigError(f"{name} is {text!r}.", fix=f"Give a positive number of {unit}.")
    return value

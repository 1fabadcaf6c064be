"""The work table's settings: ``RLM_WORK_TABLE`` and ``RLM_WORK_MAPPING``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from databricks_rlm_agent.domain.layout import Namespace
from databricks_rlm_agent.domain.work import WorkMapping, default_mapping, parse_mapping, with_table
from databricks_rlm_agent.errors import ConfigError


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
    mapping = parse_mapping(_content(text), where="RLM_WORK_MAPPING")
    return with_table(mapping, table) if table else mapping


def _content(text: str) -> str:
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"RLM_WORK_MAPPING names a file that cannot be read: {error}.", where=text[1:]
        ) from None

"""Identifiers: the only strings that may reach a path or a statement unquoted."""

from __future__ import annotations

import re

from databricks_rlm_agent.errors import UsageError

ID_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_NAME_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")


def check_id(value: str, *, what: str = "id") -> str:
    """Return ``value`` if it is a valid id; raise UsageError otherwise."""
    if not ID_PATTERN.fullmatch(value):
        raise UsageError(
            f"{value[:80]!r} is not a valid {what}.",
            fix="Use 1 to 64 of a-z, 0-9, '_' and '-', starting with a letter or digit.",
        )
    return value


def check_name(value: str, *, what: str) -> str:
    """Return ``value`` if it is a plain catalog, schema, volume or table name; raise UsageError otherwise."""
    if not _NAME_PATTERN.fullmatch(value):
        raise UsageError(
            f"{value[:80]!r} is not a valid {what} name.",
            fix="Use letters, digits and '_', starting with a letter.",
        )
    return value


def check_table_name(value: str) -> str:
    """Return a three-level table name if each of its parts is a plain name; raise UsageError otherwise."""
    parts = value.split(".")
    if len(parts) != 3:
        raise UsageError(f"{value[:200]!r} is not a full table name.", fix="Write catalog.schema.table.")
    for part, what in zip(parts, ("catalog", "schema", "table"), strict=True):
        check_name(part, what=what)
    return value


def quoted_table(value: str) -> str:
    """A three-level table name as a statement may hold it; raise UsageError as ``check_table_name`` does."""
    return ".".join(f"`{part}`" for part in check_table_name(value).split("."))

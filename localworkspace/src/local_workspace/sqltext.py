"""The statement that a request carries, for the fault control and the request log."""

from __future__ import annotations

import json
from typing import Any

_THRIFT = "/sql/1.0/warehouses/"
_STATEMENTS = "/api/2.0/sql/statements"


def carries_sql(method: str, path: str) -> bool:
    """Whether requests of this kind may have a SQL statement in their body."""
    return method == "POST" and (path.startswith(_THRIFT) or path.rstrip("/") == _STATEMENTS)


def statement_of(path: str, body: bytes) -> str | None:
    """The SQL text in a request's body, or None (another call of the protocol, or not readable)."""
    if path.startswith(_THRIFT):
        from local_workspace.warehouse import sql_of

        return sql_of(body)
    try:
        document: Any = json.loads(body)
    except ValueError:
        return None
    statement = document.get("statement") if isinstance(document, dict) else None
    return statement if isinstance(statement, str) else None

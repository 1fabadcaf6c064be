"""Between the Statement Execution API's strings and typed values."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
from collections.abc import Callable
from typing import Any

from local_workspace.errors import invalid
from local_workspace.web import Json

_READERS: dict[str, Callable[[str], Any]] = {
    "STRING": str,
    "BOOLEAN": lambda text: {"true": True, "false": False}[text.lower()],
    "DOUBLE": float,
    "FLOAT": float,
    "DECIMAL": decimal.Decimal,
    "DATE": datetime.date.fromisoformat,
    "TIMESTAMP": datetime.datetime.fromisoformat,
    "TIMESTAMP_NTZ": datetime.datetime.fromisoformat,
    "VOID": lambda _text: None,
    **dict.fromkeys(("INT", "BIGINT", "LONG", "SMALLINT", "SHORT", "TINYINT", "BYTE"), int),
}


def bound(parameters: Any) -> dict[str, Any] | None:
    """Named parameters as Python values. Raises ApiError (400) for what cannot be read."""
    if not parameters:
        return None
    values: dict[str, Any] = {}
    for item in parameters:
        kind = str(item.get("type") or "STRING").upper()
        reader = _READERS.get(kind.partition("(")[0])
        if reader is None:
            raise invalid(f"Parameter {item.get('name')}: unknown type {kind}")
        text = item.get("value")
        try:
            values[str(item["name"])] = None if text is None else reader(str(text))
        except (KeyError, ValueError, ArithmeticError):
            raise invalid(f"Parameter {item.get('name')}: {text!r} is not a {kind}") from None
    return values


def columns(schema: Any) -> list[Json]:
    """Column descriptions for an Arrow schema."""
    return [
        {
            "name": item.name,
            "position": at,
            "type_text": text,
            "type_name": text.partition("(")[0].partition("<")[0],
        }
        for at, item in enumerate(schema)
        for text in [_type_text(item.type)]
    ]


_ARROW_NAMES = {
    "int8": "TINYINT", "int16": "SMALLINT", "int32": "INT", "int64": "BIGINT", "float": "FLOAT",
    "double": "DOUBLE", "bool": "BOOLEAN", "string": "STRING", "large_string": "STRING",
    "string_view": "STRING",
    "binary": "BINARY", "large_binary": "BINARY", "date32[day]": "DATE", "null": "VOID",
}  # fmt: skip


def _type_text(kind: Any) -> str:
    text = str(kind)
    if text.startswith("timestamp"):
        return "TIMESTAMP" if "tz=" in text else "TIMESTAMP_NTZ"
    if text.startswith("decimal"):
        return f"DECIMAL({kind.precision},{kind.scale})"
    for prefix, name in (("list", "ARRAY"), ("large_list", "ARRAY"), ("struct", "STRUCT"), ("map", "MAP")):
        if text.startswith(prefix):
            return name
    return _ARROW_NAMES.get(text, text.upper())


def rows(table: Any) -> list[list[str | None]]:
    """All values of an Arrow table as strings, NULL as None."""
    values = [[_text(value) for value in column.to_pylist()] for column in table.columns]
    return [list(row) for row in zip(*values, strict=True)] if values else []


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime):
        text = value.astimezone(datetime.UTC).replace(tzinfo=None) if value.tzinfo else value
        return text.isoformat(timespec="milliseconds") + ("Z" if value.tzinfo else "")
    if isinstance(value, list | dict | tuple):
        return json.dumps(value, default=_text, ensure_ascii=False)
    return str(value)

"""Values of the Statement Execution API: parameters from text, columns and rows as JSON_ARRAY has them."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable
from typing import Any

from databricks.sdk.service import sql as shapes

from local_workspace.engine.intervals import interval_name, is_interval, readable
from local_workspace.engine.texts import is_variant, text_of
from local_workspace.errors import invalid

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


def parameters_of(parameters: Any) -> dict[str, Any] | list[Any] | None:
    """Parameters as Python values: by name, or in order where they have none, as drivers send them.

    Raises ApiError (400) for what cannot be read.
    """
    if not parameters:
        return None
    values: dict[str, Any] = {}
    for position, item in enumerate(parameters):
        kind = str(item.get("type") or "STRING").upper()
        reader = _READERS.get(kind.partition("(")[0])
        if reader is None:
            raise invalid(f"Parameter {item.get('name')}: unknown type {kind}")
        text = item.get("value")
        try:
            values[str(item.get("name") or position)] = None if text is None else reader(str(text))
        except (KeyError, ValueError, ArithmeticError):
            raise invalid(f"Parameter {item.get('name')}: {text!r} is not a {kind}") from None
    return values if any(item.get("name") for item in parameters) else list(values.values())


# By Arrow's name: the type's text in SQL, and the API's name where that is another.
_TYPES = {
    "int8": ("TINYINT", "BYTE"), "int16": ("SMALLINT", "SHORT"), "int32": ("INT", "INT"),
    "int64": ("BIGINT", "LONG"), "float": ("FLOAT", "FLOAT"), "double": ("DOUBLE", "DOUBLE"),
    "bool": ("BOOLEAN", "BOOLEAN"), "string": ("STRING", "STRING"), "large_string": ("STRING", "STRING"),
    "string_view": ("STRING", "STRING"), "binary": ("BINARY", "BINARY"), "large_binary": ("BINARY", "BINARY"),
    "date32[day]": ("DATE", "DATE"), "null": ("VOID", "NULL"),
}  # fmt: skip


def columns_of(schema: Any) -> list[shapes.ColumnInfo]:
    """Column descriptions for an Arrow schema."""
    columns = []
    for position, column in enumerate(schema):
        text, name = _type(column.type)
        exact = name == "DECIMAL"
        columns.append(
            shapes.ColumnInfo(
                name=column.name,
                position=position,
                type_text=text,
                type_name=shapes.ColumnInfoTypeName(name),
                type_precision=column.type.precision if exact else None,
                type_scale=column.type.scale if exact else None,
                type_interval_type=interval_name(column.type) if name == "INTERVAL" else None,
            )
        )
    return columns


def _type(kind: Any) -> tuple[str, str]:
    """The text of an Arrow type in SQL, and its name in the API (databricks-sdk, sql.ColumnInfoTypeName)."""
    import pyarrow.types as is_a

    if is_a.is_timestamp(kind):
        return "TIMESTAMP" if kind.tz else "TIMESTAMP_NTZ", "TIMESTAMP"
    if is_a.is_decimal(kind):
        return f"DECIMAL({kind.precision},{kind.scale})", "DECIMAL"
    if is_a.is_map(kind):
        return f"MAP<{_type(kind.key_type)[0]}, {_type(kind.item_type)[0]}>", "MAP"
    if is_variant(kind):
        return "VARIANT", "USER_DEFINED_TYPE"  # the API's list of names has none for it
    if is_a.is_struct(kind):
        return f"STRUCT<{', '.join(f'{item.name}: {_type(item.type)[0]}' for item in kind)}>", "STRUCT"
    if is_a.is_nested(kind):
        return f"ARRAY<{_type(kind.value_type)[0]}>", "ARRAY"
    if is_interval(kind):
        return f"INTERVAL {interval_name(kind)}", "INTERVAL"
    return _TYPES.get(str(kind)) or (str(kind).upper(), "USER_DEFINED_TYPE")


def rows_of(table: Any) -> list[list[str | None]]:
    """All values of an Arrow table as strings, NULL as None."""
    columns = [
        [text_of(value, field.type) for value in column.to_pylist()]
        for column, field in zip(readable(table).itercolumns(), table.schema, strict=True)
    ]
    return [list(row) for row in zip(*columns, strict=True)] if columns else []

"""Arrow types by their SQL names."""

from __future__ import annotations

from typing import Any

_SIMPLE = {
    "int8": "tinyint",
    "int16": "smallint",
    "int32": "int",
    "int64": "bigint",
    "uint8": "smallint",
    "uint16": "int",
    "uint32": "bigint",
    "uint64": "decimal(20,0)",
    "float": "float",
    "double": "double",
    "bool": "boolean",
    "string": "string",
    "large_string": "string",
    "string_view": "string",
    "binary": "binary",
    "large_binary": "binary",
    "binary_view": "binary",
    "date32[day]": "date",
    "null": "void",
}


def arrow_sql_type(kind: Any) -> str:
    """The SQL name of a pyarrow type."""
    import pyarrow.types as is_a

    simple = _SIMPLE.get(str(kind))
    if simple is not None:
        return simple
    if is_a.is_timestamp(kind):
        return "timestamp" if kind.tz else "timestamp_ntz"
    if is_a.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if is_a.is_struct(kind):
        return "struct<" + ",".join(f"{f.name}:{arrow_sql_type(f.type)}" for f in kind) + ">"
    if is_a.is_map(kind):
        return f"map<{arrow_sql_type(kind.key_type)},{arrow_sql_type(kind.item_type)}>"
    if is_a.is_list(kind) or is_a.is_large_list(kind):
        return f"array<{arrow_sql_type(kind.value_type)}>"
    if is_a.is_duration(kind) or is_a.is_interval(kind):
        return "interval day to second"
    return "string"

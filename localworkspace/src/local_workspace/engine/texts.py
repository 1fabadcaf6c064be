"""Values of a result as Databricks sends them: as texts (of arrays, maps, structs: JSON), and in Arrow."""

from __future__ import annotations

import base64
import ctypes
import datetime
import decimal
import json
import math
import struct
from typing import Any

import pyarrow as pa
import pyarrow.types as is_a

_MONTH_TYPE = "month_interval"  # which pyarrow's own test leaves out


def is_variant(kind: Any) -> bool:
    """Return whether an Arrow type is that of Spark's VARIANT: two binaries, of which one says so."""
    if not is_a.is_struct(kind) or [item.name for item in kind] != ["value", "metadata"]:
        return False
    return b"variant" in (kind.field(1).metadata or {})


def text_of(value: Any, kind: Any) -> str | None:
    """A value's text; of arrays, maps and structs their JSON."""
    if value is None:
        return None
    if is_a.is_nested(kind):
        return _json(value, kind)
    if is_interval(kind):
        return interval_text(value, kind)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float(value, single=str(kind) == "float")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime):
        text = value.astimezone(datetime.UTC).replace(tzinfo=None) if value.tzinfo else value
        unit = "microseconds" if text.microsecond % 1000 else "milliseconds"
        return text.isoformat(timespec=unit) + ("Z" if value.tzinfo else "")
    return str(value)


def _json(value: Any, kind: Any) -> str:
    """A value as JSON, with all digits of a decimal; what JSON has no type for (dates, NaN) as a text."""
    if value is None:
        return "null"
    if is_variant(kind):
        from pyspark.sql.variant_utils import VariantUtils

        return str(VariantUtils.to_json(value["value"], value["metadata"]))
    if is_a.is_map(kind):
        pairs = (
            f"{_quoted(text_of(key, kind.key_type))}:{_json(item, kind.item_type)}" for key, item in value
        )
        return "{" + ",".join(pairs) + "}"
    if is_a.is_struct(kind):
        pairs = (f"{_quoted(item.name)}:{_json(value[item.name], item.type)}" for item in kind)
        return "{" + ",".join(pairs) + "}"
    if is_a.is_nested(kind):
        return "[" + ",".join(_json(item, kind.value_type) for item in value) + "]"
    text = text_of(value, kind)
    if is_interval(kind):
        return _quoted(text)
    number = isinstance(value, int | decimal.Decimal) or (isinstance(value, float) and math.isfinite(value))
    return str(text) if number else _quoted(text)


def _quoted(text: str | None) -> str:
    return json.dumps(text, ensure_ascii=False)


def _float(value: float, *, single: bool) -> str:
    """A number as Java writes it: 1.0E10, NaN, Infinity."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    text = repr(value)
    if single:  # the shortest text that means the same 32 bits
        digits = (f"{value:.{number}g}" for number in range(1, 10))
        text = repr(
            float(next(item for item in digits if struct.pack("f", float(item)) == struct.pack("f", value)))
        )
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return text
    sign, figures, exponent = decimal.Decimal(text).normalize().as_tuple()
    assert isinstance(exponent, int)
    first, rest = figures[0], "".join(map(str, figures[1:])) or "0"
    return f"{'-' if sign else ''}{first}.{rest}E{exponent + len(figures) - 1}"


def presentable(table: Any) -> Any:
    """`table` in the Arrow types that Databricks sends: no large and view types, intervals as text."""
    fields = [_marked(field).with_type(_plain(field.type)) for field in table.schema]
    schema = pa.schema(fields)
    if schema.types == table.schema.types:
        return table
    columns = [
        _cast(column, was.type, field.type)
        for column, was, field in zip(readable(table).itercolumns(), table.schema, fields, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _marked(field: Any) -> Any:
    """Return a field with the name of its SQL type where Arrow's does not tell it."""
    return field.with_metadata({"Spark:DataType:SqlName": "VARIANT"}) if is_variant(field.type) else field


def _cast(column: Any, was: Any, kind: Any) -> Any:
    if is_interval(was) or is_variant(was):
        texts = [text_of(value, was) for value in column.to_pylist()]
        return pa.chunked_array([pa.array(texts, kind)])
    return column if column.type == kind else column.cast(kind)


def _plain(kind: Any) -> Any:
    if is_a.is_large_string(kind) or str(kind) == "string_view":
        return pa.string()
    if is_a.is_large_binary(kind) or str(kind) == "binary_view":
        return pa.binary()
    if is_interval(kind) or is_variant(kind):
        return pa.string()
    if is_a.is_unsigned_integer(kind):
        return {8: pa.int16(), 16: pa.int32(), 32: pa.int64()}.get(kind.bit_width, pa.decimal128(20, 0))
    return kind


# --- intervals: `1-2`, and `1 02:03:04.500000000`


def is_interval(kind: Any) -> bool:
    """Return whether an Arrow type is one of the engine's intervals."""
    return bool(is_a.is_duration(kind) or is_a.is_interval(kind) or str(kind) == _MONTH_TYPE)


def interval_name(kind: Any) -> str:
    """The fields of an interval's type in SQL."""
    return "DAY TO SECOND" if is_a.is_duration(kind) else "YEAR TO MONTH"


def interval_text(value: Any, kind: Any) -> str:
    """The text of a value of an interval type, as a table of `readable` has it."""
    if is_a.is_duration(kind):
        return _days(value)
    return _months(value if isinstance(value, int) else value.months)


class _Schema(ctypes.Structure):
    """ArrowSchema of Arrow's C data interface."""


_Schema._fields_ = [
    ("format", ctypes.c_char_p), ("name", ctypes.c_char_p), ("metadata", ctypes.c_void_p),
    ("flags", ctypes.c_int64), ("n_children", ctypes.c_int64),
    ("children", ctypes.POINTER(ctypes.POINTER(_Schema))), ("dictionary", ctypes.c_void_p),
    ("release", ctypes.c_void_p), ("private_data", ctypes.c_void_p),
]  # fmt: skip
_ARRAY_SIZE = 80  # bytes of an ArrowArray of the C data interface
_MONTHS, _INT32 = b"tiM", b"i"


def readable(table: Any) -> Any:
    """The table with months as integers: pyarrow has neither a Python value nor a cast for the interval.

    Both are 32 bits wide, so it is enough to call the type otherwise on the way through the C data interface.
    """
    if _MONTH_TYPE not in str(table.schema):
        return table
    batches = []
    for batch in table.to_batches():
        schema, array = _Schema(), ctypes.create_string_buffer(_ARRAY_SIZE)
        batch._export_to_c(ctypes.addressof(array), ctypes.addressof(schema))
        _call_integers(schema)
        batches.append(pa.RecordBatch._import_from_c(ctypes.addressof(array), ctypes.addressof(schema)))
    return pa.Table.from_batches(batches) if batches else table


def _call_integers(schema: Any) -> None:
    if schema.format == _MONTHS:
        schema.format = _INT32
    for index in range(schema.n_children):
        _call_integers(schema.children[index].contents)


def _months(value: int) -> str:
    years, months = divmod(abs(value), 12)
    return f"{'-' if value < 0 else ''}{years}-{months}"


def _days(value: datetime.timedelta) -> str:
    micros = value // datetime.timedelta(microseconds=1)
    seconds, fraction = divmod(abs(micros), 1_000_000)
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3600)
    return f"{'-' if micros < 0 else ''}{days} {hours:02}:{rest // 60:02}:{rest % 60:02}.{fraction * 1000:09}"

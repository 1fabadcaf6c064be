"""Intervals as Databricks writes them in results: `1-2`, and `1 02:03:04.500000000`."""

from __future__ import annotations

import ctypes
import datetime
from typing import Any

import pyarrow as pa
import pyarrow.types as is_a

_MONTH_TYPE = "month_interval"  # which pyarrow's own test leaves out


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
    ("format", ctypes.c_char_p),
    ("name", ctypes.c_char_p),
    ("metadata", ctypes.c_void_p),
    ("flags", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("children", ctypes.POINTER(ctypes.POINTER(_Schema))),
    ("dictionary", ctypes.c_void_p),
    ("release", ctypes.c_void_p),
    ("private_data", ctypes.c_void_p),
]
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

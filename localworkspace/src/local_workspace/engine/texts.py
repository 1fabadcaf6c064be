"""Values of a result as texts; of arrays, maps and structs as JSON."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
import struct
from typing import Any

from .intervals import interval_text, is_interval


def text_of(value: Any, kind: Any) -> str | None:
    """A value's text; of arrays, maps and structs their JSON."""
    import pyarrow.types as is_a

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
    import pyarrow.types as is_a

    if value is None:
        return "null"
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

"""Plain values as JSON text, and back as equal values of equal types. No code is run on reading.

What JSON has is JSON; the rest is an object with one key that begins with `$`. A dict that JSON cannot hold,
or whose keys could be taken for such a tag, is a list of pairs. References are not kept: what is one object
twice comes back as two.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

MAX_DEPTH = 100
_JSON_INT = 1 << 63  # beyond it decimal digits are slow, and Python limits how many it reads
_SURROGATE = re.compile("[\ud800-\udfff]")
_NUMPY_KINDS = "biufcmM"  # of scalars: numbers, truth values, times


class NotPlainError(TypeError):
    """A value that is not plain; `kind` is its type."""

    def __init__(self, value: object, why: str = "") -> None:
        kind = type(value)
        builtin = kind.__module__ == "builtins"
        self.kind = kind.__qualname__ if builtin else f"{kind.__module__}.{kind.__name__}"
        super().__init__(f"{self.kind}{': ' + why if why else ''}")


def dumps(value: object) -> str:
    """The text of a plain value; the same for equal content. Raises NotPlainError."""
    return json.dumps(_encoded(value, MAX_DEPTH), separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def loads(text: str | bytes) -> Any:
    """The value of a text that `dumps` made."""
    return json.loads(text, object_hook=_decoded)


def as_json(value: Any, depth: int = MAX_DEPTH) -> Any:
    """A value as JSON, for readers that need no way back; nothing of it is changed unseen.

    A Decimal is a number where a double gives it back exactly, else its text; so is a wide float of NumPy.
    Dates and times are ISO texts, nulls of pandas are null. Raises NotPlainError for what has no such form or
    is nested too deeply, ValueError for NaN, infinities, and two keys with one text.
    """
    if not isinstance(value, (dict, list, tuple)):
        return _scalar(value)
    if depth <= 0:
        raise NotPlainError(value, f"nested more than {MAX_DEPTH} deep, or within itself")
    if isinstance(value, (list, tuple)):
        return [as_json(item, depth - 1) for item in value]
    found = {_key(key): as_json(item, depth - 1) for key, item in value.items()}
    if len(found) < len(value):
        raise ValueError("two keys of a dict have the same text")
    return found


def _key(key: Any) -> str:
    found = _scalar(key)
    return found if isinstance(found, str) else json.dumps(found)


def _scalar(value: Any) -> Any:
    array = getattr(value, "dtype", None) if getattr(value, "ndim", None) == 0 else None
    if type(value).__name__ in {"NaTType", "NAType"}:
        return None
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if array is not None and array.kind in "mM":
        return str(value)  # as an item it could be a number of nanoseconds
    if array is not None:
        value = Decimal(str(value)) if array.kind == "f" and array.itemsize > 8 else value.item()
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if not isinstance(value, (float, Decimal)):
        raise NotPlainError(value)
    if not math.isfinite(value):
        raise ValueError(f"{value} is no number in JSON; None is null")
    if isinstance(value, float):
        return value
    if value == value.to_integral_value():
        return int(value)
    near = float(value)
    return near if Decimal(repr(near)) == value else format(value, "f")


def is_text(value: str) -> bool:
    """Return whether a text can be written as UTF-8: lone surrogates cannot."""
    return value.isascii() or not _SURROGATE.search(value)


def _encoded(value: Any, depth: int) -> Any:
    kind = type(value)
    if value is None or kind is bool:
        return value
    encode = _ENCODERS.get(kind)
    if encode is None:
        if kind.__module__ == "numpy" and getattr(getattr(value, "dtype", None), "kind", "") in _NUMPY_KINDS:
            return _numpy(value)
        raise NotPlainError(value)
    if depth <= 0:
        raise NotPlainError(value, f"nested more than {MAX_DEPTH} deep, or within itself")
    return encode(value, depth - 1)


def _numpy(value: Any) -> Any:
    if type(value).__name__ == "ndarray":
        raise NotPlainError(value, "an array within another value; assign it to a name of its own")
    return {"$numpy": [value.dtype.str, value.tobytes().hex()]}


def _list(value: Any, depth: int) -> list[Any]:
    return [_encoded(item, depth) for item in value]


def _set(value: Any, depth: int) -> list[Any]:
    # In an order of their content, so that the same set is the same text in every process
    return sorted((_encoded(item, depth) for item in value), key=json.dumps)


def _dict(value: dict[Any, Any], depth: int) -> Any:
    if all(type(key) is str and key[:1] != "$" and is_text(key) for key in value):
        return {key: _encoded(item, depth) for key, item in value.items()}
    return {"$dict": [[_encoded(key, depth), _encoded(item, depth)] for key, item in value.items()]}


def _moment(value: datetime | time) -> list[Any]:
    return [value.replace(tzinfo=None).isoformat(), value.fold, _zone(value.tzinfo)]


def _zone(zone: tzinfo | None) -> Any:
    if zone is None:
        return None
    if type(zone) is timezone:
        offset = zone.utcoffset(None)
        named = timezone(offset).tzname(None) != zone.tzname(None)
        return [offset // timedelta(microseconds=1), zone.tzname(None) if named else None]
    if type(zone) is ZoneInfo and zone.key:
        return zone.key
    raise NotPlainError(zone, "a time zone is kept if it is a zoneinfo.ZoneInfo or datetime.timezone")


_ENCODERS: dict[type, Callable[[Any, int], Any]] = {
    int: lambda value, _: value if -_JSON_INT <= value < _JSON_INT else {"$int": hex(value)},
    float: lambda value, _: value if math.isfinite(value) else {"$float": str(value)},
    # JSON's escapes would join two lone surrogates that stand side by side
    str: lambda value, _: value if is_text(value) else {"$str": value.encode("utf-8", "surrogatepass").hex()},
    bytes: lambda value, _: {"$bytes": base64.b64encode(value).decode("ascii")},
    list: _list,
    tuple: lambda value, depth: {"$tuple": _list(value, depth)},
    set: lambda value, depth: {"$set": _set(value, depth)},
    frozenset: lambda value, depth: {"$frozenset": _set(value, depth)},
    dict: _dict,
    datetime: lambda value, _: {"$datetime": _moment(value)},
    date: lambda value, _: {"$date": value.isoformat()},
    time: lambda value, _: {"$time": _moment(value)},
    timedelta: lambda value, _: {"$timedelta": [value.days, value.seconds, value.microseconds]},
    Decimal: lambda value, _: {"$decimal": str(value)},
}


def _decoded(found: dict[str, Any]) -> Any:
    if len(found) == 1:
        ((tag, content),) = found.items()
        if tag[:1] == "$":
            return _DECODERS[tag](content)
    return found


def _from_zone(zone: Any) -> tzinfo | None:
    if zone is None:
        return None
    if isinstance(zone, str):
        return ZoneInfo(zone)
    offset = timedelta(microseconds=zone[0])
    return timezone(offset) if zone[1] is None else timezone(offset, zone[1])


def _from_numpy(content: list[str]) -> Any:
    import numpy

    return numpy.frombuffer(bytes.fromhex(content[1]), dtype=content[0])[0]


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "$int": lambda content: int(content, 16),
    "$float": float,
    "$str": lambda content: bytes.fromhex(content).decode("utf-8", "surrogatepass"),
    "$bytes": base64.b64decode,
    "$tuple": tuple,
    "$set": set,
    "$frozenset": frozenset,
    "$dict": dict,
    "$datetime": lambda it: datetime.fromisoformat(it[0]).replace(fold=it[1], tzinfo=_from_zone(it[2])),
    "$date": date.fromisoformat,
    "$time": lambda it: time.fromisoformat(it[0]).replace(fold=it[1], tzinfo=_from_zone(it[2])),
    "$timedelta": lambda content: timedelta(*content),
    "$decimal": Decimal,
    "$numpy": _from_numpy,
}

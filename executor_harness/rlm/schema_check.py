"""JSON answers: read out of a reply, and checked against a JSON schema. Pure.

Checked are `type`, `enum`, `const`, `required`, `properties`, `additionalProperties: false`, `items`,
`minItems`, `maxItems`, `minimum`, `maximum` and `anyOf`; other keywords go to the model and are not checked.
"""

from __future__ import annotations

import json
import re
from typing import Any

_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL | re.IGNORECASE)
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


class SchemaMismatch(ValueError):  # noqa: N818 -- reads better by what happened
    """An answer that is not JSON, or not of the shape asked for. The message says where and what."""


def read(text: str, schema: dict[str, Any]) -> Any:
    """The JSON value in a reply, of that shape. Takes a fence (```json) off. Raises SchemaMismatch."""
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced.group(1) if fenced else text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise SchemaMismatch(f"it is not JSON: {error}") from None
    check(value, schema)
    return value


def check(value: Any, schema: Any, place: str = "the answer") -> None:
    """Raise SchemaMismatch unless the value has the shape that the schema asks for."""
    if not isinstance(schema, dict):
        return
    _check_type(value, schema.get("type"), place)
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        raise SchemaMismatch(f"{place} is {_short(value)}, not one of {_short(schema['enum'])}")
    if "const" in schema and not _same(value, schema["const"]):
        raise SchemaMismatch(f"{place} is {_short(value)}, not {_short(schema['const'])}")
    if "anyOf" in schema:
        _check_any(value, schema["anyOf"], place)
    if isinstance(value, dict):
        _check_object(value, schema, place)
    elif isinstance(value, list):
        _check_array(value, schema, place)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_bounds(value, schema.get("minimum"), schema.get("maximum"), place)


def _check_type(value: Any, kind: Any, place: str) -> None:
    kinds = kind if isinstance(kind, list) else [kind] if isinstance(kind, str) else []
    if kinds and not any(_is(value, one) for one in kinds):
        raise SchemaMismatch(f"{place} is {_short(value)}, not of type {' or '.join(map(str, kinds))}")


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()  # 1.0 is an integer in JSON schema
    return isinstance(value, _TYPES.get(kind, (object,)))


def _check_any(value: Any, choices: Any, place: str) -> None:
    for one in choices:
        try:
            check(value, one, place)
            return
        except SchemaMismatch:
            continue
    raise SchemaMismatch(f"{place} is {_short(value)}, which fits none of the shapes in anyOf")


def _check_object(value: dict[str, Any], schema: dict[str, Any], place: str) -> None:
    missing = [name for name in schema.get("required", ()) if name not in value]
    if missing:
        raise SchemaMismatch(f"{place} lacks {', '.join(map(repr, missing))}")
    known = schema.get("properties") or {}
    if schema.get("additionalProperties") is False and (more := sorted(set(value) - set(known))):
        raise SchemaMismatch(f"{place} has {', '.join(map(repr, more))}, which nobody asked for")
    for name, shape in known.items():
        if name in value:
            check(value[name], shape, f"{place}.{name}" if place != "the answer" else name)


def _check_array(value: list[Any], schema: dict[str, Any], place: str) -> None:
    _check_bounds(len(value), schema.get("minItems"), schema.get("maxItems"), f"the length of {place}")
    for at, item in enumerate(value):
        check(item, schema.get("items"), f"{place}[{at}]")


def _check_bounds(number: float, least: Any, most: Any, place: str) -> None:
    if isinstance(least, (int, float)) and number < least:
        raise SchemaMismatch(f"{place} is {number:g}, less than {least:g}")
    if isinstance(most, (int, float)) and number > most:
        raise SchemaMismatch(f"{place} is {number:g}, more than {most:g}")


def _same(value: Any, other: Any) -> bool:
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")

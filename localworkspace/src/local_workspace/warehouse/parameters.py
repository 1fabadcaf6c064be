"""Statement parameters of the connector, typed by name, as SQL literals."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from local_workspace.engine import EngineError
from local_workspace.engine.literals import RawLiteral, string_literal

_TYPE = re.compile(r"[A-Za-z_ ]+(\(\s*\d+\s*(,\s*\d+\s*)?\))?")
_INTEGER = re.compile(r"[+-]?\d+")


def values_of(parameters: Sequence[Any] | None) -> Mapping[str, RawLiteral] | list[RawLiteral] | None:
    """The literals of Thrift TSparkParameters: by name when they have names, in order when they have none."""
    if not parameters:
        return None
    if all(parameter.name for parameter in parameters):
        return {parameter.name: _literal(parameter) for parameter in parameters}
    return [_literal(parameter) for parameter in parameters]


def _literal(parameter: Any) -> RawLiteral:
    kind = (parameter.type or "STRING").upper()
    if kind.startswith("ARRAY"):
        return RawLiteral(f"array({', '.join(_literal(item) for item in parameter.arguments or [])})")
    if kind.startswith("MAP"):
        return RawLiteral(f"map({', '.join(_literal(item) for item in parameter.arguments or [])})")
    text = _text(parameter.value)
    if text is None or kind == "VOID":
        return RawLiteral("NULL")
    if kind == "STRING":
        return RawLiteral(string_literal(text))
    if not _TYPE.fullmatch(kind):
        raise EngineError.of("INVALID_PARAMETER_VALUE", f"{kind!r} is not a SQL type.", "22023")
    # A plain number may stand where a cast may not (LIMIT); -2147483648 is not a literal, its
    # absolute overflows.
    if kind == "INT" and _INTEGER.fullmatch(text) and abs(int(text)) < 2**31:
        return RawLiteral(str(int(text)))
    return RawLiteral(f"CAST({string_literal(text)} AS {kind})")


def _text(value: Any) -> str | None:
    """The value's text; Thrift parameters carry text, except from old clients."""
    if value is None or isinstance(value, str):
        return value
    if value.stringValue is not None:
        return str(value.stringValue)
    if value.booleanValue is not None:
        return "true" if value.booleanValue else "false"
    return None if value.doubleValue is None else repr(value.doubleValue)

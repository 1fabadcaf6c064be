"""Parameters into SQL text: the engine binds them in queries only, so commands get typed literals.

Values never touch the text as text: each becomes a literal whose spelling is fixed by its Python type.
"""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import EngineError
from .lexer import quote, tokenize

_ESCAPES = str.maketrans({"\\": "\\\\", "'": "\\'", "\0": "\\u0000", "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def string_literal(text: str) -> str:
    """`text` as a Spark SQL string literal."""
    return "'" + text.translate(_ESCAPES) + "'"


def literal(value: Any) -> str:
    """The SQL literal of a Python value; raises `EngineError` for a type that SQL has no literal for."""
    if value is None:
        return "NULL"
    for kind, spell in _SPELLINGS:
        if isinstance(value, kind):
            text: str = spell(value)
            return text
    raise EngineError.of(
        "INVALID_PARAMETER_VALUE", f"A parameter of type {type(value).__name__} has no SQL literal.", "22023"
    )


def _integer(value: int) -> str:
    if -(2**31) <= value < 2**31:
        return str(value)
    if -(2**63) < value < 2**63:
        return f"{value}L"
    return "CAST('-9223372036854775808' AS BIGINT)" if value == -(2**63) else f"{value}BD"


def _double(value: float) -> str:
    if math.isfinite(value):
        return f"{value!r}D"
    return f"CAST('{value}' AS DOUBLE)"


def _timestamp(value: datetime.datetime) -> str:
    kind = "TIMESTAMP" if value.tzinfo else "TIMESTAMP_NTZ"
    if value.tzinfo:
        value = value.astimezone(datetime.UTC)
    return f"{kind}'{value.isoformat(sep=' ')}'"


def _array(value: Sequence[Any]) -> str:
    return f"array({', '.join(map(literal, value))})"


def _map(value: Mapping[Any, Any]) -> str:
    return "map(" + ", ".join(f"{literal(key)}, {literal(item)}" for key, item in value.items()) + ")"


# bool before int and datetime before date: the first match wins, and the former are subclasses of the latter.
_SPELLINGS: tuple[tuple[Any, Any], ...] = (
    (bool, lambda value: "TRUE" if value else "FALSE"),
    (int, _integer),
    (float, _double),
    (str, string_literal),
    (decimal.Decimal, lambda value: f"{value:f}BD"),
    (datetime.datetime, _timestamp),
    (datetime.date, lambda value: f"DATE'{value.isoformat()}'"),
    ((bytes, bytearray), lambda value: f"X'{bytes(value).hex()}'"),
    (Mapping, _map),
    ((list, tuple), _array),
)


class RawLiteral(str):
    """SQL text of a literal that its maker has already spelled (a cast, for example)."""

    __slots__ = ()


def inline(sql: str, parameters: Mapping[str, Any] | Sequence[Any] | None) -> str:
    """Put `parameters` (by name for `:name`, by position for `?`) into `sql` as literals.

    Raises `EngineError` UNBOUND_SQL_PARAMETER when the text names a parameter that is not given.
    """
    if not parameters:
        return sql
    named = parameters if isinstance(parameters, Mapping) else {}
    positional = [] if isinstance(parameters, Mapping) else list(parameters)
    pieces: list[str] = []
    last = used = 0
    for token in tokenize(sql):
        if named and token.kind == "param":
            value = _named(named, token.text[1:])
        elif positional and token.text == "?" and token.kind == "symbol":
            if used >= len(positional):
                raise _unbound(f"position {used + 1}")
            value = positional[used]
            used += 1
        else:
            continue
        text = str(value) if isinstance(value, RawLiteral) else literal(value)
        pieces += [sql[last : token.start], f"({text})" if text.startswith("-") else text]
        last = token.end
    return "".join([*pieces, sql[last:]])


def _named(parameters: Mapping[str, Any], name: str) -> Any:
    if name not in parameters:
        raise _unbound(quote(name))
    return parameters[name]


def _unbound(what: str) -> EngineError:
    return EngineError.of(
        "UNBOUND_SQL_PARAMETER",
        f"Found the unbound parameter: {what}. Give it a value in `parameters`.",
        "42P02",
    )

"""Python values as SQL literals, and the literals of a large INSERT as Python values.

Sail binds parameters in queries only, so every statement gets typed literals. Values never touch the text as
text: each becomes a literal whose spelling is fixed by its Python type.

Sail plans each row that an INSERT writes out (about 1 ms a row), and a parser needs longer still. The rows of
a large INSERT are read here by a regular expression and go to Sail as a Parquet file of the same types. An
INSERT that has anything but plain literals in its rows stays as it is.
"""

from __future__ import annotations

import datetime
import decimal
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import EngineError
from .names import quote
from .statements import Statement, Token, tokenize, unquote_string

# In characters; Sail plans a shorter INSERT quickly enough.
LARGE_INSERT = 10_000

_ESCAPES = str.maketrans({"\\": "\\\\", "'": "\\'", "\0": "\\u0000", "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def string_literal(text: str) -> str:
    """`text` as a Spark SQL string literal."""
    return "'" + text.translate(_ESCAPES) + "'"


def literal(value: Any) -> str:
    """Return the SQL literal of a Python value; raises `EngineError` for a type that has none."""
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


def bind(statement: Statement, parameters: Mapping[str, Any] | Sequence[Any] | None) -> Statement:
    """Put `parameters` (by name for `:name`, by position for `?`) into a statement as literals.

    Raises `EngineError` UNBOUND_SQL_PARAMETER when the text names a parameter that is not given.
    """
    if not parameters:
        return statement
    pieces: list[str] = []
    tokens: list[Token] = []
    last = used = shift = 0
    for index, token in enumerate(statement.tokens):
        if token.start < last:  # the name after a colon
            continue
        if isinstance(parameters, Mapping) and _is_marker(statement, index):
            name, end = statement.tokens[index + 1].name, statement.tokens[index + 1].end
            if name not in parameters:
                raise _unbound(quote(name))
            text = _spelled(parameters[name])
        elif not isinstance(parameters, Mapping) and token.text == "?":
            used, end = used + 1, token.end
            if used > len(parameters):
                raise _unbound(f"position {used}")
            text = _spelled(parameters[used - 1])
        else:
            tokens.append(token._replace(start=token.start + shift, end=token.end + shift))
            continue
        at = token.start + shift
        tokens += (each._replace(start=each.start + at, end=each.end + at) for each in tokenize(text))
        pieces += [statement.text[last : token.start], text]
        shift += len(text) - (end - token.start)
        last = end
    return Statement("".join([*pieces, statement.text[last:]]), tokens)


def _spelled(value: Any) -> str:
    text = str(value) if isinstance(value, RawLiteral) else literal(value)
    return f"({text})" if text.startswith("-") else text


_BEFORE_PATH = re.compile(r"""[\w\])`:'"]""")  # `a:b` is a path into a JSON text


def _is_marker(statement: Statement, index: int) -> bool:
    """Tell whether a parameter marker begins at token `index`: `:name` or ``:`name` ``."""
    tokens = statement.tokens
    if tokens[index].text != ":" or index + 1 == len(tokens) or not tokens[index + 1].is_name:
        return False
    at = tokens[index].start
    return tokens[index + 1].start == at + 1 and not (at and _BEFORE_PATH.match(statement.text[at - 1]))


def _unbound(what: str) -> EngineError:
    return EngineError.of(
        "UNBOUND_SQL_PARAMETER",
        f"Found the unbound parameter: {what}. Give it a value in `parameters`.",
        "42P02",
    )


# Blanks and comments; `*+`, or each blank would double the time of what does not match.
GAP = r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/)*+"
_HEAD = re.compile(
    rf"(?P<head>{GAP}INSERT\s(?:(?!\bSELECT\b|\bVALUES\b)[^'\"(])*(?:\([^()]*\)\s*)?)VALUES{GAP}\(",
    re.I | re.S,
)
_VALUE = re.compile(
    rf"""{GAP}(?:
        (?P<constant>NULL|TRUE|FALSE)
      | (?P<type>DATE|TIMESTAMP)\s*(?P<time>'[^'\\]*'|"[^"\\]*")
      | (?P<number>-?\s*(?:\d+(?:\.\d+)?|\.\d+)(?:E[+-]?\d+)?[LD]?)
      | (?P<string>R?(?:'(?:[^'\\]|\\[ntr'"\\])*+'|"(?:[^"\\]|\\[ntr'"\\])*+"))
    ){GAP}(?P<end>[,)])""",
    re.I | re.S | re.X,
)
_NEXT_ROW = re.compile(rf"{GAP},{GAP}\(", re.S)
_END = re.compile(rf"{GAP}(?:;{GAP})*\Z", re.S)
_CONSTANTS = {"NULL": ("null", None), "TRUE": ("boolean", True), "FALSE": ("boolean", False)}


@contextmanager
def rows_in_a_file(sql: str) -> Iterator[str]:
    """Yield a large INSERT with its rows in a file; any other statement, and one in parts, as it is."""
    head = _HEAD.match(sql) if len(sql) > LARGE_INSERT else None
    columns = None if head is None else _columns(sql, head.end())
    if head is None or columns is None:
        yield sql
        return
    with tempfile.TemporaryDirectory(prefix="rows-") as folder:
        file = Path(folder) / "rows.parquet"
        items = _write(columns, file)
        yield f"{head['head']}SELECT {', '.join(items)} FROM parquet.{quote(str(file))}"  # noqa: S608 - a path of ours


def _columns(sql: str, at: int) -> list[tuple[str, list[Any]]] | None:
    """Return the kind and values of each column of `…), (…)` from `at` on; None if one is no literal."""
    columns: list[tuple[set[str], list[Any]]] = []
    width = place = 0
    while match := _VALUE.match(sql, at):
        kind, value = _read(match)
        if place == len(columns) and not width:
            columns.append((set(), []))
        if not kind or place >= len(columns):
            return None
        columns[place][0].add(kind)
        columns[place][1].append(value)
        place, at = place + 1, match.end()
        if match["end"] == ")":
            width = width or place
            following = _NEXT_ROW.match(sql, at)
            if place != width or (following is None and not _END.match(sql, at)):
                return None
            if following is None:
                return _typed(columns)
            place, at = 0, following.end()
    return None


def _typed(columns: Sequence[tuple[set[str], list[Any]]]) -> list[tuple[str, list[Any]]] | None:
    """Return one kind for each column; None where Sail must find the common type, or all are NULL."""
    found = []
    for kinds, values in columns:
        kinds.discard("null")
        if len(kinds) > 1 and kinds != {"int", "long"}:
            return None
        found.append(("long" if len(kinds) > 1 else next(iter(kinds), "null"), values))
    return None if all(kind == "null" for kind, _ in found) else found


def _read(match: re.Match[str]) -> tuple[str, Any]:
    """Return the kind and the value of a literal; no kind if Sail must read it."""
    if match["constant"]:
        return _CONSTANTS[match["constant"].upper()]
    if match["string"]:
        return "string", unquote_string(match["string"])
    if match["type"]:
        return match["type"].upper(), match["time"][1:-1]
    text = re.sub(r"\s", "", match["number"]).upper()
    if "E" in text or text[-1] == "D":
        return "double", float(text.rstrip("D"))
    if "." in text:
        return ("", None) if text[-1] == "L" else ("decimal", decimal.Decimal(text))
    value = int(text.rstrip("L"))
    if abs(value) >= 10**18:
        return "", None
    return ("int" if abs(value) < 2**31 and text[-1] != "L" else "long"), value


def _write(columns: Sequence[tuple[str, list[Any]]], file: Path) -> list[str]:
    """Write the columns to a Parquet file; return what to select from it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"int": pa.int32(), "long": pa.int64(), "double": pa.float64(), "boolean": pa.bool_()}
    arrays, items = {}, []
    for index, (kind, values) in enumerate(columns):
        name = f"_c{index}"
        if kind == "null":
            items.append(f"NULL AS {name}")
            continue
        arrays[name] = pa.array(values, None if kind == "decimal" else types.get(kind, pa.string()))
        items.append(f"CAST({name} AS {kind}) AS {name}" if kind in {"DATE", "TIMESTAMP"} else name)
    pq.write_table(pa.table(arrays), str(file))
    return items


def with_current_schema(statement: Statement, schema: str) -> Statement:
    """Return a statement with the current schema's name in place of the functions that tell it.

    For an engine that cannot have a schema as its current one that is not there yet.
    """
    for at in range(len(statement.tokens) - 3, -1, -1):
        name = statement.tokens[at].upper
        called = statement.starts("(", ")", at=at + 1) and name in {"CURRENT_SCHEMA", "CURRENT_DATABASE"}
        if called and (at == 0 or statement.tokens[at - 1].text != "."):
            alone = statement.starts("SELECT", at=at - 1) and len(statement.tokens) == at + 3
            alias = f" AS `{statement.tokens[at].text.lower()}()`" if alone else ""
            statement = statement.without(at, at + 3, f"{string_literal(schema)}{alias}")
    return statement

"""Many rows that an INSERT writes out: read here, for the engine plans each of them (about 1 ms a row).

They go to it as a Parquet file of the same types. What is not plainly a literal stays the engine's.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from .lexer import Token, quote, unquote_string
from .statements import Statement

# Tokens of the statement; with fewer it is quick as it is.
WORTH_IT = 2000
_INTEGER = re.compile(r"\d{1,18}L?", re.IGNORECASE)
_DECIMAL = re.compile(r"\d*\.\d+")
_DOUBLE = re.compile(r"\d*\.?\d+(E[+-]?\d+)?D|\d*\.?\d+E[+-]?\d+", re.IGNORECASE)
_RARE_ESCAPE = re.compile(r"""\\(?![ntr'"\\])""")
_WORDS = {"NULL": ("null", None), "TRUE": ("boolean", True), "FALSE": ("boolean", False)}


class Value(NamedTuple):
    """A literal: its kind, its value, and the token after it."""

    kind: str
    value: Any
    end: int


@contextmanager
def rows_in_a_file(statement: Statement, start: int) -> Iterator[Statement]:
    """An INSERT, whose table ends before token `start`, with its rows in a file; itself where it has few."""
    at = statement.find("VALUES", start=start) if len(statement.tokens) > WORTH_IT else None
    columns = None if at is None else _columns(statement.tokens, at + 1)
    if at is None or columns is None:
        yield statement
        return
    with tempfile.TemporaryDirectory(prefix="rows-") as folder:
        file = Path(folder) / "rows.parquet"
        items = _write(columns, file)
        query = f"SELECT {', '.join(items)} FROM parquet.{quote(str(file))}"  # noqa: S608 - names are quoted
        yield Statement.parse(f"{statement.source(0, at)} {query}")


def _columns(tokens: Sequence[Token], at: int) -> list[tuple[str, list[Any]]] | None:
    """The kind and values of each column of `(…), (…)` from token `at` on; None if one is no literal."""
    columns: list[tuple[set[str], list[Any]]] = []
    first = True
    while at < len(tokens):
        row = _row(tokens, at)
        if row is None or (not first and len(row) != len(columns)):
            return None
        if first:
            columns, first = [(set(), []) for _ in row], False
        for (kinds, values), each in zip(columns, row, strict=True):
            kinds.add(each.kind)
            values.append(each.value)
        at = row[-1].end + 1
        if at < len(tokens):
            if tokens[at].text != "," or at + 1 == len(tokens):
                return None
            at += 1
    found = [(_one_kind(kinds), values) for kinds, values in columns]
    known = [(kind, values) for kind, values in found if kind is not None]
    if len(known) < len(found) or all(kind == "null" for kind, _ in known):
        return None
    return known


def _row(tokens: Sequence[Token], at: int) -> list[Value] | None:
    """The literals of the row whose parenthesis is token `at`; the last one's end is the closing one."""
    row: list[Value] = []
    if tokens[at].text != "(":
        return None
    while True:
        found = _literal(tokens, at + 1)
        if found is None or found.end >= len(tokens) or tokens[found.end].text not in {",", ")"}:
            return None
        row.append(found)
        at = found.end
        if tokens[at].text == ")":
            return row


def _literal(tokens: Sequence[Token], at: int) -> Value | None:
    sign = at < len(tokens) and tokens[at].text == "-"
    at += sign
    if at >= len(tokens):
        return None
    token = tokens[at]
    if token.kind == "number":
        kind, value = _number(token.text)
        return Value(kind, -value if sign else value, at + 1) if kind else None
    if sign:
        return None
    if token.kind == "string":
        return (
            None if _RARE_ESCAPE.search(token.text) else Value("string", unquote_string(token.text), at + 1)
        )
    if token.upper in _WORDS:
        return Value(*_WORDS[token.upper], at + 1)
    if token.upper in {"DATE", "TIMESTAMP"} and at + 1 < len(tokens) and tokens[at + 1].kind == "string":
        return Value(token.upper, unquote_string(tokens[at + 1].text), at + 2)
    return None


def _number(text: str) -> tuple[str, Any]:
    if _INTEGER.fullmatch(text):
        value = int(text.rstrip("lL"))
        return ("int" if value < 2**31 and text[-1] not in "lL" else "long"), value
    if _DECIMAL.fullmatch(text):
        return "decimal", Decimal(text)
    if _DOUBLE.fullmatch(text):
        return "double", float(text.rstrip("dD"))
    return "", None


def _one_kind(kinds: set[str]) -> str | None:
    """What a column of these kinds is of; None where the engine must tell."""
    kinds = kinds - {"null"}
    if len(kinds) < 2:
        return next(iter(kinds), "null")
    return "long" if kinds == {"int", "long"} else None


def _write(columns: Sequence[tuple[str, list[Any]]], file: Path) -> list[str]:
    """Write the columns to a file; what to select of it."""
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

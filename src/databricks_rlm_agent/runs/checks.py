"""Acceptance checks of a task: what must hold before ``finish`` is believed. Pure.

As people write them, one after another (``--check``), or as a JSON object with the fields of ``Check``::

    sql: SELECT count(*) > 0 FROM main.nyc.delays            the one value that it returns is true
    sql: SELECT count(*) FROM main.nyc.delays => 42          … is 42; text may stand in quotes
    table: main.nyc.delays columns=carrier,delay rows>=10    it exists, has these columns, so many rows
    file: /Volumes/main/nyc/files/report.csv bytes>=100      it exists, and is no smaller (1 byte)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from databricks_rlm_agent.errors import InvalidData, UsageError
from databricks_rlm_agent.runs.parsing import Document, parse
from databricks_rlm_agent.sqltext.reader import parse_query, words_of
from databricks_rlm_agent.sqltext.split import split, tokens_of
from databricks_rlm_agent.values import check_table_name, check_volume_path, storable

if TYPE_CHECKING:
    from sqlglot import Token

_SELECTS = re.compile(r"(?:select|with)\b", re.IGNORECASE)
_FIX = "Write one SELECT (WITH … SELECT) that only reads."
# Functions of Databricks SQL with effects outside of the query: in the JVM, or in other services.
_EFFECTS = frozenset({"http_request", "java_method", "reflect", "try_reflect"})


@dataclass(frozen=True, kw_only=True)
class Query:
    """A query without comments around it or a semicolon after it, and what ``=>`` says it must return."""

    sql: str
    equals: str | None = None


def parse_check_query(text: str) -> Query:
    """Read ``SELECT …`` or ``SELECT … => VALUE``; raise UsageError for all that is not one reading query.

    The arrow counts only outside of parentheses: inside, it names an argument of a function.
    """
    tokens = tokens_of(text, "query")
    arrow = _arrow(tokens)
    if arrow is None:
        return Query(sql=_reading_query(text))
    rest = [token for token in tokens[arrow + 1 :] if token.token_type.name != "SEMICOLON"]
    if not rest:
        raise UsageError("There is nothing after the => of the query.", fix="Say what it must return.")
    value = text[rest[0].start : rest[-1].end + 1]
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return Query(sql=_reading_query(text[: tokens[arrow].start]), equals=value)


def _arrow(tokens: Sequence[Token]) -> int | None:
    """The place of the last arrow outside of parentheses."""
    found, depth = None, 0
    for place, token in enumerate(tokens):
        depth += {"L_PAREN": 1, "R_PAREN": -1}.get(token.token_type.name, 0)
        if token.token_type.name == "FARROW" and depth == 0:
            found = place
    return found


def _reading_query(text: str) -> str:
    """Return the one query of a text; raise UsageError for anything else."""
    statements = split(text, "query")
    words = [words_of(statement) for statement in statements]
    if not words or not _SELECTS.match(words[0]):
        raise UsageError(f"A check cannot run {text.strip()[:80]!r}.", fix=_FIX)
    sql = statements[0].text
    query = parse_query(words[0])
    if query.problem:
        raise UsageError(f"The query does not parse: {query.problem}.", fix=_FIX)
    if query.changes:
        raise UsageError(f"The query would change something: {sql[:80]!r}.", fix=_FIX)
    if len(statements) > 1 or not query.selects:
        raise UsageError(f"It is not one query: {text.strip()[:80]!r}.", fix=_FIX)
    if query.parameters:
        raise UsageError("The query has a parameter.", fix="Write its value out.")
    for *_, name in query.functions:
        if name in _EFFECTS:
            raise UsageError(f"The query calls {name}, which has effects.", fix=_FIX)
    return sql


MAX_CHECKS = 16
MAX_CHARS = 8_000  # of all checks of a task, as text
_CHECK_FIX = (
    "Write sql: SELECT …, sql: SELECT … => VALUE, table: c.s.t columns=a,b rows>=1 or file: /Volumes/… ."
)
_PLAIN = re.compile(r"[\w.+-]+")
_FORM = re.compile(r"\s*(sql|table|file)\s*:\s*(.*?)\s*", re.DOTALL)
_TABLE = re.compile(r"(?P<table>\S+)(?:\s+columns=(?P<columns>\S+))?(?:\s+rows>=(?P<rows>\d{1,18}))?")
_FILE = re.compile(r"(?P<path>.+?)(?:\s+bytes>=(?P<bytes>\d{1,18}))?")


class Check(Document, extra="forbid"):
    """One check. ``sql`` must return true, or ``equals``; a ``table`` must exist with these columns and at
    least so many rows; a ``file`` must exist with at least so many bytes.
    """

    kind: Literal["sql", "table", "file"]
    sql: str = ""
    equals: str | None = None
    table: str = ""
    columns: tuple[str, ...] = ()
    min_rows: int = Field(default=0, ge=0)
    path: str = ""
    min_bytes: int = Field(default=1, ge=0)

    def __str__(self) -> str:
        """The check as people write it."""
        if self.kind == "sql":
            return f"sql: {self.sql}" + ("" if self.equals is None else f" => {_quoted(self.equals)}")
        if self.kind == "file":
            return f"file: {self.path} bytes>={self.min_bytes}"
        columns = f" columns={','.join(self.columns)}" if self.columns else ""
        return f"table: {self.table}{columns}" + (f" rows>={self.min_rows}" if self.min_rows else "")


def _quoted(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    return f'"{value}"' if "'" in value else f"'{value}'"


def parse_checks(texts: Sequence[str]) -> list[Check]:
    """All checks of a task; raise UsageError that names the first one that is none."""
    if len(texts) > MAX_CHECKS:
        raise UsageError(
            f"There are {len(texts)} checks; a task may have {MAX_CHECKS}.",
            fix="Put several conditions in one query: SELECT a AND b FROM ….",
        )
    size = sum(map(len, texts))
    if size > MAX_CHARS:
        raise UsageError(
            f"The checks have {size:,} characters; the limit is {MAX_CHARS:,}.",
            fix="Put long queries in views, and check those.",
        )
    return [parse_check(text) for text in texts]


def parse_check(text: str) -> Check:
    """One check from its text or JSON; raise UsageError that says what is wrong with it."""
    if storable(text) != text:
        raise UsageError(f"The check {text[:80]!r} is not valid UTF-8.", fix="Check how it was typed.")
    try:
        return _of_json(text) if text.lstrip().startswith("{") else _of_text(text)
    except UsageError as error:
        raise UsageError(error.what, where=f"check {text.strip()[:120]!r}", fix=error.fix) from None


def _of_text(text: str) -> Check:
    form = _FORM.fullmatch(text)
    if form is None:
        raise UsageError("It is not an acceptance check.", fix=_CHECK_FIX)
    return _READERS[form[1]](form[2])


def _of_json(text: str) -> Check:
    try:
        given = parse(Check, text, what="It")
    except InvalidData as error:
        raise UsageError(error.what, fix=_CHECK_FIX) from None
    unused = given.model_fields_set - _FIELDS[given.kind] - {"kind"}
    if unused:
        raise UsageError(f"A check of kind {given.kind} has no {sorted(unused)[0]!r}.", fix=_CHECK_FIX)
    if given.kind == "sql":
        query = parse_check_query(given.sql)
        equals = given.equals if query.equals is None else query.equals
        return given.model_copy(update={"sql": query.sql, "equals": equals})
    if given.kind == "table":
        return _table(given.table, given.columns, given.min_rows)
    return given.model_copy(update={"path": check_volume_path(given.path)})


def _sql_text(text: str) -> Check:
    query = parse_check_query(text)
    return Check(kind="sql", sql=query.sql, equals=query.equals)


def _table_text(text: str) -> Check:
    found = _TABLE.fullmatch(text)
    if found is None:
        raise UsageError("A table's check is a name, columns and rows.", fix=_CHECK_FIX)
    columns = found["columns"].split(",") if found["columns"] else []
    return _table(found["table"], tuple(columns), int(found["rows"] or 0))


def _table(name: str, columns: tuple[str, ...], rows: int) -> Check:
    if not all(column.strip() for column in columns):
        raise UsageError("A column has no name.", fix=_CHECK_FIX)
    return Check(kind="table", table=check_table_name(name), columns=columns, min_rows=rows)


def _file_text(text: str) -> Check:
    found = _FILE.fullmatch(text)
    if found is None:
        raise UsageError("A file's check is a path and a size.", fix=_CHECK_FIX)
    return Check(kind="file", path=check_volume_path(found["path"]), min_bytes=int(found["bytes"] or 1))


_READERS: dict[str, Callable[[str], Check]] = {"sql": _sql_text, "table": _table_text, "file": _file_text}
_FIELDS = {
    "sql": {"sql", "equals"},
    "table": {"table", "columns", "min_rows"},
    "file": {"path", "min_bytes"},
}

"""Reads a file of SQL: its stage, its statements, and what they read and write together. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from databricks_rlm_agent.sqlflow.model import SqlFile
from databricks_rlm_agent.sqltext.names import ANYTHING, Name, quoted, unique
from databricks_rlm_agent.sqltext.reader import NameScope, read_statement
from databricks_rlm_agent.sqltext.split import split
from databricks_rlm_agent.sqltext.statement import Statement, StatementKind

# A number, perhaps with a letter: 01_graph, 2-merge, 03b.stats.
_PREFIX = re.compile(r"(\d+)[a-z]?(?=[_.\- ]|$)", re.IGNORECASE)


def stage_of(name: str) -> int | None:
    """Return the number that a file's name begins with; None if it has none."""
    found = _PREFIX.match(name)
    return int(found[1]) if found else None


def sql_file(name: str, text: str, *, catalog: str | None = None, schema: str | None = None) -> SqlFile:
    """Read a file whose variables are replaced; incomplete names are in ``catalog``, ``schema``.

    Raise UsageError, with file and line, if it cannot be split into statements.
    """
    session = NameScope(catalog=catalog, schema=schema)
    statements = []
    for piece in split(text, name):
        statement, session = read_statement(piece, name, session)
        statements.append(statement)
    return _file(name, _sha256(text), statements, views=session.views)


def joined_file(
    files: Sequence[SqlFile], *, catalog: str | None = None, schema: str | None = None
) -> SqlFile:
    """Return files as one that runs them in order and in one session; USE ends with each of them.

    Each can read the temporary views of the files before it.
    """
    if len(files) == 1:
        return files[0]
    statements: list[Statement] = []
    for file in files:
        if any(each.kind is StatementKind.USE for each in statements):
            statements += _restore_place(file.name, catalog, schema)
        statements += file.statements
    return replace(
        _file(
            " + ".join(file.name for file in files),
            _sha256("\n".join(file.sha256 for file in files)),
            statements,
            views=frozenset(view for file in files for view in file.views),
        ),
        parts=tuple(file.name for file in files),
    )


def _restore_place(name: str, catalog: str | None, schema: str | None) -> list[Statement]:
    """Return statements that undo USE: they go back to the workflow's catalog and schema."""
    places = {"CATALOG": catalog, "SCHEMA": schema}
    return [
        Statement(text=f"USE {what} {quoted((place,))}", file=name, line=1, kind=StatementKind.USE)
        for what, place in places.items()
        if place
    ]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _file(name: str, sha256: str, statements: Sequence[Statement], *, views: frozenset[str]) -> SqlFile:
    unclear = next((each for each in statements if each.problem), None)
    return SqlFile(
        name=name,
        stage=stage_of(name),
        sha256=sha256,
        statements=tuple(statements),
        reads=reads_of(statements),
        writes=unique(name for statement in statements for name in statement.writes),
        makes=_makes(statements),
        views=tuple(sorted(views)),
        problem=f"{unclear.file}:{unclear.line}: {unclear.problem}" if unclear else None,
    )


def reads_of(parts: Iterable[Statement | SqlFile]) -> tuple[Name, ...]:
    """Return what must exist before these, in their order: what one reads and none before it has made."""
    made: set[Name] = set()
    reads: list[Name] = []
    for part in parts:
        reads += [name for name in part.reads if name not in made]
        made = (made | set(part.makes)) - {ANYTHING}
    return unique(reads)


def _makes(statements: Iterable[Statement]) -> tuple[Name, ...]:
    made: dict[Name, None] = {}
    for statement in statements:
        for name in statement.drops:
            made.pop(name, None)
        made |= dict.fromkeys(statement.makes)
    return tuple(made)

"""A file of SQL, read: its stage, its statements, and what they read and write together. Pure."""

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

# A number, and a letter at most: 01_graph, 2-merge, 03b.stats.
_PREFIX = re.compile(r"(\d+)[a-z]?(?=[_.\- ]|$)", re.IGNORECASE)


def stage_of(name: str) -> int | None:
    """The number that a file's name begins with; None without one."""
    found = _PREFIX.match(name)
    return int(found[1]) if found else None


def sql_file(name: str, text: str, *, catalog: str | None = None, schema: str | None = None) -> SqlFile:
    """Read a file whose variables have been put in; names without a place are in ``catalog``, ``schema``.

    Raises UsageError, with file and line, where it cannot be split into statements.
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
    """Files that run as one, in order and in one session; what names mean is the same for each of them.

    Their temporary views see each other, as those of one file do.
    """
    statements: list[Statement] = []
    for file in files:
        if any(each.kind is StatementKind.USE for each in statements):
            statements += _back(file.name, catalog, schema)
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


def _back(name: str, catalog: str | None, schema: str | None) -> list[Statement]:
    """To the place that the workflow has, from wherever USE has led."""
    wanted = {"CATALOG": catalog, "SCHEMA": schema}
    return [
        Statement(text=f"USE {what} {quoted((place,))}", file=name, line=1, kind=StatementKind.USE)
        for what, place in wanted.items()
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
        reads=_reads(statements),
        writes=unique(name for statement in statements for name in statement.writes),
        makes=_makes(statements),
        views=tuple(sorted(views)),
        problem=f"{unclear.file}:{unclear.line}: {unclear.problem}" if unclear else None,
    )


def _reads(statements: Iterable[Statement]) -> tuple[Name, ...]:
    """What must be there before: all that is read, but for what the file has made itself by then."""
    made: set[Name] = set()
    reads = []
    for statement in statements:
        reads += [name for name in statement.reads if name not in made]
        made = (made | set(statement.makes)) - {ANYTHING}
    return unique(reads)


def _makes(statements: Iterable[Statement]) -> tuple[Name, ...]:
    made: dict[Name, None] = {}
    for statement in statements:
        for name in statement.drops:
            made.pop(name, None)
        made |= dict.fromkeys(statement.makes)
    return tuple(made)

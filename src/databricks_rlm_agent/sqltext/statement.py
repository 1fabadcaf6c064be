"""One SQL statement: its kind, and the tables that it reads and writes. Pure.

The kind comes from the first words: no parser of ours knows all of Databricks SQL, and the first words tell
enough of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from databricks_rlm_agent.sqltext.names import Name, parts_of


class StatementKind(StrEnum):
    """Kinds of statements, as far as running and repeating them goes."""

    USE = "use"  # changes what names mean, for the rest of the file
    SESSION = "session"  # SET, DECLARE, temporary views and functions: gone with the file's session
    QUERY = "query"  # reads only; SHOW and DESCRIBE too
    REPLACE = "replace"  # CREATE OR REPLACE, CREATE … IF NOT EXISTS, INSERT OVERWRITE, DROP … IF EXISTS
    CREATE = "create"  # fails if it is there already
    INSERT = "insert"  # adds rows: twice is twice
    MERGE = "merge"
    UPDATE = "update"
    DELETE = "delete"
    ALTER = "alter"
    DROP = "drop"  # fails if it is not there any more
    MAINTAIN = "maintain"  # OPTIMIZE, VACUUM, ANALYZE: changes no rows
    BLOCK = "block"  # BEGIN … END
    OTHER = "other"  # not known: cannot be parsed, or has effects outside of tables


_K = StatementKind
REPEATABLE = frozenset({_K.USE, _K.SESSION, _K.QUERY, _K.REPLACE, _K.DELETE, _K.MAINTAIN})
"""Kinds of statements that lead to the same tables when they are repeated, whatever is there."""
ROW_CHANGES = frozenset({_K.INSERT, _K.MERGE, _K.UPDATE, _K.DELETE})


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement, without comments around it and the semicolon after it.

    ``words`` are its first words, up to the first name, in capitals and with single spaces. ``makes`` are
    tables and views that it leaves under a name (a rename's new one), ``drops`` those that it takes away;
    both are among ``writes``. A schema is there as ``main.shop.*``, a function as ``main.shop.f()``.
    Temporary views and CTEs are neither reads nor writes.
    """

    text: str
    file: str
    line: int  # of its first word, from 1
    kind: StatementKind
    words: str = ""
    reads: tuple[Name, ...] = ()
    writes: tuple[Name, ...] = ()
    makes: tuple[Name, ...] = ()
    drops: tuple[Name, ...] = ()
    problem: str | None = None  # why its reads and writes are not known; they are then ``ANYTHING``

    @property
    def session_only(self) -> bool:
        """Return whether all its effects belong to the session of its file."""
        return self.kind in {StatementKind.USE, StatementKind.SESSION}

    @property
    def repeatable(self) -> bool:
        """Return whether running it again after an unknown outcome leads to the same tables.

        That depends on the text of a MERGE or UPDATE (``SET n = n + 1``), so they do not count.
        """
        return self.kind in REPEATABLE and not set(self.reads) & set(self.writes)


_NAME = r"(?P<name>(?:`[^`]*`|\w+)(?: ?\. ?(?:`[^`]*`|\w+))*)"
_NEW_NAME = _NAME.replace("name", "new")
_IF = r"(?:if (?:not )?exists )?"
_TABLE = r"(?:(?:materialized |recursive |streaming |external |live |metric )*(?:table|view))"
_PLACE = r"(?:schema|database|volume|connection|external location)"
Role = Literal[
    "",  # no name
    "make",
    "drop",
    "change",  # it must be there
    "read",
    "rename",
    "schemas",  # makes or drops a schema or volume
    "catalogs",
    "schema",  # chooses it for names that leave it out
    "catalog",
    "function",
    "view",  # of the session
    "file",  # a folder that is written
]
"""The use that a statement makes of the name in it."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """A form of statement. ``query``: its syntax tells what it reads."""

    kind: StatementKind
    role: Role = ""
    query: bool = False


@dataclass(frozen=True, kw_only=True)
class Head:
    """A statement's first words, and the names in them.

    ``words`` stand before the name, in capitals; ``written`` is the name as it is written, ``name`` and
    ``new_name`` are its parts in lower case. ``idempotent``: OR REPLACE, IF EXISTS or IF NOT EXISTS.
    """

    form: Form
    words: str
    written: str = ""
    name: tuple[str, ...] = ()
    new_name: tuple[str, ...] = ()
    idempotent: bool = False


# The first that matches counts. Of a text with single spaces and without comments.
_FORMS: tuple[tuple[str, StatementKind, Role, bool], ...] = (
    (rf"(?:use|set) catalog {_NAME}", _K.USE, "catalog", False),
    (rf"use (?:schema |database )?{_NAME}", _K.USE, "schema", False),
    (rf"create (?:or replace )?(?:global )?temp(?:orary)? view {_IF}{_NAME}", _K.SESSION, "view", True),
    (rf"create (?:or replace )?temp(?:orary)? table {_IF}{_NAME}", _K.SESSION, "view", True),
    (r"create (?:or replace )?temp(?:orary)? ", _K.SESSION, "", False),
    (r"(?:set|reset|declare|begin transaction|begin work|begin|commit|rollback)\b", _K.SESSION, "", False),
    (r"(?:clear cache|uncache|add|refresh(?! (?:materialized|streaming)))\b", _K.SESSION, "", False),
    (rf"cache (?:lazy )?table {_NAME}", _K.SESSION, "read", True),
    (rf"desc(?:ribe)? (?:(?:table |detail |history |extended |formatted )*){_NAME}", _K.QUERY, "read", False),
    (
        rf"show (?:create table|columns (?:in|from)|tblproperties|partitions) {_NAME}",
        *(_K.QUERY, "read", False),
    ),
    (r"(?:show|explain|list)\b", _K.QUERY, "", False),
    (
        rf"(?:optimize|vacuum|analyze table|(?:[mf]sck )?repair table|reorg table|comment on table) {_NAME}",
        *(_K.MAINTAIN, "change", False),
    ),
    (
        rf"(?:grant|revoke|deny)\b.* on (?:table |view |function |{_PLACE} |catalog )?{_NAME} (?:to|from)\b",
        *(_K.MAINTAIN, "read", False),
    ),
    (rf"drop catalog {_IF}{_NAME}", _K.DROP, "catalogs", False),
    (rf"drop {_PLACE} {_IF}{_NAME}", _K.DROP, "schemas", False),
    (rf"drop (?:function|procedure) {_IF}{_NAME}", _K.DROP, "function", False),
    (rf"drop {_TABLE} {_IF}{_NAME}", _K.DROP, "drop", False),
    (rf"truncate table {_NAME}", _K.DELETE, "change", False),
    (rf"alter {_TABLE} {_IF}{_NAME} rename to {_NEW_NAME}", _K.ALTER, "rename", False),
    (rf"alter {_TABLE} {_IF}{_NAME}", _K.ALTER, "change", False),
    (rf"(?:create|alter) catalog {_IF}{_NAME}", _K.CREATE, "catalogs", False),
    (rf"(?:create|alter) (?:external |foreign )?{_PLACE} {_IF}{_NAME}", _K.CREATE, "schemas", False),
    (rf"create (?:or replace )?(?:function|procedure) {_IF}{_NAME}", _K.CREATE, "function", True),
    (rf"(?:create (?:or (?:replace|refresh) )?|replace ){_TABLE} {_IF}{_NAME}", _K.CREATE, "make", True),
    (r"insert overwrite (?:local )?directory '(?P<name>[^']*)'", _K.OTHER, "file", False),
    (rf"insert overwrite (?:table )?(?!(?:local )?directory ){_NAME}", _K.REPLACE, "change", True),
    (rf"insert into (?:table )?{_NAME}", _K.INSERT, "change", True),
    (rf"merge (?:with schema evolution )?into {_NAME}", _K.MERGE, "change", True),
    (
        rf"(?:restore(?: table)?|undrop table|comment on (?:column|view)) (?!to ){_NAME}",
        *(_K.OTHER, "change", False),
    ),
    (rf"(?:convert to delta|load data\b.* into table) {_NAME}", _K.OTHER, "change", False),
    (rf"copy into {_NAME}", _K.MERGE, "change", False),
    (rf"update {_NAME}", _K.UPDATE, "change", True),
    (rf"delete +from {_NAME}", _K.DELETE, "change", True),
    (rf"refresh {_TABLE} {_NAME}", _K.OTHER, "change", False),
    (r"(?:select|with|from|values|table|map|reduce)\b|\(", _K.QUERY, "", True),
)
_PATTERNS = [
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), Form(kind=kind, role=role, query=query))
    for pattern, kind, role, query in _FORMS
]
_BLOCK = re.compile(r"(?:\w+ ?: ?)?begin (?!transaction\b|work\b)\S", re.IGNORECASE)
_IDEMPOTENT = re.compile(r"if (?:not )?exists|or replace|^replace", re.IGNORECASE)


def head_of(text: str) -> Head | None:
    """Read the first words; return None for a statement of a form that is not known here."""
    if _BLOCK.match(text):
        return Head(form=Form(kind=StatementKind.BLOCK), words="BEGIN")
    for pattern, form in _PATTERNS:
        if found := pattern.match(text):
            names = found.groupdict()
            written = names.get("name") or ""
            return Head(
                form=form,
                words=(text[: found.start("name")] if written else found[0]).strip(" '").upper(),
                written=written,
                name=parts_of(written),
                new_name=parts_of(names.get("new") or ""),
                idempotent=bool(_IDEMPOTENT.search(found[0])),
            )
    return None

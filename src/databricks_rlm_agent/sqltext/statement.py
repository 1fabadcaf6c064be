"""One SQL statement: its kind, and the tables that it reads and writes. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from databricks_rlm_agent.sqltext.names import Name, parts_of


class StatementKind(StrEnum):
    """What a statement is, as far as running and repeating it goes."""

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


_REPEATABLE = frozenset(
    {
        StatementKind.USE,
        StatementKind.SESSION,
        StatementKind.QUERY,
        StatementKind.REPLACE,
        StatementKind.DELETE,
        StatementKind.MAINTAIN,
    }
)


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement, without comments around it and the semicolon after it.

    ``makes`` are tables and views that it leaves under a name (a rename's new one), ``drops`` those that it
    takes away; both are among ``writes``. A schema is there as ``main.shop.*``, a function as
    ``main.shop.f()``. Temporary views and CTEs are neither reads nor writes.
    """

    text: str
    file: str
    line: int  # of its first word, from 1
    kind: StatementKind
    reads: tuple[Name, ...] = ()
    writes: tuple[Name, ...] = ()
    makes: tuple[Name, ...] = ()
    drops: tuple[Name, ...] = ()
    problem: str | None = None  # why its reads and writes are not known; they are then ``ANYTHING``

    @property
    def session_only(self) -> bool:
        """Whether all that it does belongs to the session of its file."""
        return self.kind in {StatementKind.USE, StatementKind.SESSION}

    @property
    def repeatable(self) -> bool:
        """Whether running it again, after an outcome that nobody knows, leads to the same tables.

        MERGE and UPDATE depend on what they say (``SET n = n + 1``), so they are not counted.
        """
        return self.kind in _REPEATABLE and not set(self.reads) & set(self.writes)


# Statements by their first words. No parser of ours knows all of Databricks SQL; the first words tell enough.
_NAME = r"(?P<name>(?:`[^`]*`|\w+)(?: ?\. ?(?:`[^`]*`|\w+))*)"
_IF = r"(?:if (?:not )?exists )?"
_TABLE = r"(?:(?:materialized |recursive |streaming |external |live |metric )*(?:table|view))"
_PLACE = r"(?:schema|database|volume|connection|external location)"


@dataclass(frozen=True, kw_only=True)
class Form:
    """What statements of a form do with the name in them.

    ``role``: ``make``, ``drop``, ``change`` (it must be there), ``read``, ``rename``; ``schemas`` and
    ``catalogs`` make or drop what holds tables, ``schema`` and ``catalog`` choose it; ``function``; ``view``
    of the session. ``query``: what it reads is told by its syntax.
    """

    kind: StatementKind
    role: str = ""
    query: bool = False


@dataclass(frozen=True, kw_only=True)
class Head:
    """A statement's form, and the parts of the names in it, in lower case."""

    form: Form
    name: tuple[str, ...] = ()
    new_name: tuple[str, ...] = ()
    idempotent: bool = False  # OR REPLACE, IF EXISTS, IF NOT EXISTS: doing it again is no error


# In this order; the first that fits counts. Of a text with single spaces and without comments.
_FORMS: list[tuple[str, Form]] = [
    (rf"(?:use|set) catalog {_NAME}", Form(kind=StatementKind.USE, role="catalog")),
    (rf"use (?:schema |database )?{_NAME}", Form(kind=StatementKind.USE, role="schema")),
    (
        rf"create (?:or replace )?(?:global )?temp(?:orary)? view {_IF}{_NAME}",
        Form(kind=StatementKind.SESSION, role="view", query=True),
    ),
    (
        rf"create (?:or replace )?temp(?:orary)? table {_IF}{_NAME}",
        Form(kind=StatementKind.SESSION, role="view", query=True),
    ),
    (r"create (?:or replace )?temp(?:orary)? ", Form(kind=StatementKind.SESSION)),
    (
        r"(?:set|reset|declare|begin transaction|begin work|begin|commit|rollback)\b",
        Form(kind=StatementKind.SESSION),
    ),
    (
        r"(?:clear cache|uncache|add|refresh(?! (?:materialized|streaming)))\b",
        Form(kind=StatementKind.SESSION),
    ),
    (rf"cache (?:lazy )?table {_NAME}", Form(kind=StatementKind.SESSION, role="read", query=True)),
    (
        rf"desc(?:ribe)? (?:(?:table |detail |history |extended |formatted )*){_NAME}",
        Form(kind=StatementKind.QUERY, role="read"),
    ),
    (
        rf"show (?:create table|columns (?:in|from)|tblproperties|partitions) {_NAME}",
        Form(kind=StatementKind.QUERY, role="read"),
    ),
    (r"(?:show|explain|list)\b", Form(kind=StatementKind.QUERY)),
    (
        r"(?:optimize|vacuum|analyze table|(?:msck |fsck )?repair table|reorg table|comment on table) "
        + _NAME,
        Form(kind=StatementKind.MAINTAIN, role="change"),
    ),
    (
        rf"(?:grant|revoke|deny)\b.* on (?:table |view |function |{_PLACE} |catalog )?{_NAME} (?:to|from)\b",
        Form(kind=StatementKind.MAINTAIN, role="read"),
    ),
    (rf"drop catalog {_IF}{_NAME}", Form(kind=StatementKind.DROP, role="catalogs")),
    (rf"drop {_PLACE} {_IF}{_NAME}", Form(kind=StatementKind.DROP, role="schemas")),
    (rf"drop (?:function|procedure) {_IF}{_NAME}", Form(kind=StatementKind.DROP, role="function")),
    (rf"drop {_TABLE} {_IF}{_NAME}", Form(kind=StatementKind.DROP, role="drop")),
    (rf"truncate table {_NAME}", Form(kind=StatementKind.DELETE, role="change")),
    (
        rf"alter {_TABLE} {_IF}{_NAME} rename to (?P<new>(?:`[^`]*`|\w+)(?: ?\. ?(?:`[^`]*`|\w+))*)",
        Form(kind=StatementKind.ALTER, role="rename"),
    ),
    (rf"alter {_TABLE} {_IF}{_NAME}", Form(kind=StatementKind.ALTER, role="change", query=False)),
    (rf"(?:create|alter) catalog {_IF}{_NAME}", Form(kind=StatementKind.CREATE, role="catalogs")),
    (
        rf"(?:create|alter) (?:external |foreign )?{_PLACE} {_IF}{_NAME}",
        Form(kind=StatementKind.CREATE, role="schemas"),
    ),
    (
        rf"create (?:or replace )?(?:function|procedure) {_IF}{_NAME}",
        Form(kind=StatementKind.CREATE, role="function", query=True),
    ),
    (
        rf"(?:create (?:or (?:replace|refresh) )?|replace ){_TABLE} {_IF}{_NAME}",
        Form(kind=StatementKind.CREATE, role="make", query=True),
    ),
    (
        rf"insert overwrite (?:table )?(?!(?:local )?directory ){_NAME}",
        Form(kind=StatementKind.REPLACE, role="change", query=True),
    ),
    (rf"insert into (?:table )?{_NAME}", Form(kind=StatementKind.INSERT, role="change", query=True)),
    (
        rf"merge (?:with schema evolution )?into {_NAME}",
        Form(kind=StatementKind.MERGE, role="change", query=True),
    ),
    (
        rf"(?:restore(?: table)?|undrop table|comment on (?:column|view)) (?!to ){_NAME}",
        Form(kind=StatementKind.OTHER, role="change"),
    ),
    (rf"copy into {_NAME}", Form(kind=StatementKind.MERGE, role="change")),
    (rf"update {_NAME}", Form(kind=StatementKind.UPDATE, role="change", query=True)),
    (rf"delete +from {_NAME}", Form(kind=StatementKind.DELETE, role="change", query=True)),
    (rf"refresh {_TABLE} {_NAME}", Form(kind=StatementKind.OTHER, role="change")),
    (r"(?:select|with|from|values|table|map|reduce)\b|\(", Form(kind=StatementKind.QUERY, query=True)),
]
_PATTERNS = [(re.compile(pattern, re.IGNORECASE | re.DOTALL), form) for pattern, form in _FORMS]
_BLOCK = re.compile(r"(?:\w+ ?: ?)?begin (?!transaction\b|work\b)\S", re.IGNORECASE)
_IDEMPOTENT = re.compile(r"if (?:not )?exists|or replace|^replace", re.IGNORECASE)


def head_of(text: str) -> Head | None:
    """What the first words say; None for a statement of no form that is known here."""
    if _BLOCK.match(text):
        return Head(form=Form(kind=StatementKind.BLOCK))
    for pattern, form in _PATTERNS:
        if found := pattern.match(text):
            names = found.groupdict()
            return Head(
                form=form,
                name=parts_of(names.get("name") or ""),
                new_name=parts_of(names.get("new") or ""),
                idempotent=bool(_IDEMPOTENT.search(found[0])),
            )
    return None

"""Statements by their first words: what they are, and what they are done to. Pure.

Much of what Databricks SQL can say no parser of ours knows; the first words tell enough of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from databricks_rlm_agent.sqltext.statement import StatementKind

_NAME = r"(?P<name>(?:`[^`]*`|\w+)(?: ?\. ?(?:`[^`]*`|\w+))*)"
_PART = re.compile(r"`([^`]*)`|(\w+)")
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
    spares: bool = False  # OR REPLACE, IF EXISTS, IF NOT EXISTS: doing it again is no error


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
_SPARES = re.compile(r"if (?:not )?exists|or replace|^replace", re.IGNORECASE)


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
                spares=bool(_SPARES.search(found[0])),
            )
    return None


def parts_of(name: str) -> tuple[str, ...]:
    """The parts of a name as it is written."""
    return tuple((quoted or plain).lower() for quoted, plain in _PART.findall(name))

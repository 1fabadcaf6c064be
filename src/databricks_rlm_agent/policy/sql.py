"""The effects of a SQL statement in a program, from what ``sqltext`` reads in it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.policy.effects import EffectKind, ProgramEffect, known
from databricks_rlm_agent.sqltext.names import UNKNOWN
from databricks_rlm_agent.sqltext.reader import parse_query, words_of
from databricks_rlm_agent.sqltext.split import StatementText, split
from databricks_rlm_agent.sqltext.statement import Head, StatementKind, head_of

_FLAGS = re.IGNORECASE | re.DOTALL
# Of a text that may as well be prose: the beginning of a statement that changes something.
_STATEMENT = re.compile(
    r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/|\()*+"
    r"(?:insert\s+(?:into|overwrite)|merge\s+into|update\s+\S+\s+set|delete\s+from|truncate\s+table|copy\s+into"
    r"|(?:create\s+(?:or\s+replace\s+)?|alter\s+|drop\s+)(?:table|view|schema|database|catalog|volume)"
    r"|grant\s.*\son\s|revoke\s.*\son\s|vacuum)\s+\S",
    _FLAGS,
)
# The first word of a statement that changes something, in a form that is not known or with unknown parts.
_CHANGES = re.compile(
    rf"(?:create|insert|update|delete|merge|truncate|alter|copy|execute|call|{UNKNOWN})", re.IGNORECASE
)
_INSIDE = re.compile(r"(?:with|from)\b.*\b(?:insert|update|delete|merge)\b", _FLAGS)
_UNKNOWN_WORD = re.compile(rf"^(create|drop|alter) {UNKNOWN} ", re.IGNORECASE)  # CREATE {or_replace} TABLE
_CLAUSE = re.compile(r" (?:IF (?:NOT )?EXISTS|OR (?:REPLACE|REFRESH))\b")
_RETAIN_NOTHING = re.compile(r"\bretain 0(?:\.0*)? hours?\b", re.IGNORECASE)
_ROLES = {"catalog": EffectKind.USE, "schema": EffectKind.USE, "file": EffectKind.PUT_FILE}
_ROWS = {StatementKind.DELETE, StatementKind.UPDATE}
_PART = re.compile(r"`([^`]*)`|(\w+)")
_FORMATS = {"delta", "parquet", "csv", "json", "orc", "text", "avro", "iceberg"}


def is_statement(text: str) -> bool:
    """Return whether a text begins as a statement that changes something does, rather than as prose."""
    return bool(_STATEMENT.match(text))


def effects_of_sql(text: str, *, line: int = 0) -> list[ProgramEffect]:
    """Return the effects of statements beside reading; UNCLEAR for those that cannot be followed."""
    try:
        statements = split(text, "SQL")
    except UsageError:  # a string or comment without an end
        return [_unclear(text, line)]
    return [effect for statement in statements for effect in _effects(statement, line)]


def _effects(statement: StatementText, line: int) -> Iterator[ProgramEffect]:
    words = _UNKNOWN_WORD.sub(r"\1 ", words_of(statement))
    head = head_of(words)
    if head is None or head.form.kind is StatementKind.BLOCK:
        if head or _CHANGES.match(words):
            yield _unclear(words, line)
        return
    what = _CLAUSE.sub("", head.words)
    truncates = what.startswith("TRUNCATE")
    if head.form.kind in _ROWS and not truncates:
        yield from _changes(words, line)
    elif head.form.kind is StatementKind.QUERY:
        if _INSIDE.match(words):  # WITH … INSERT INTO
            yield from _changes(words, line)
    elif kind := EffectKind.DESTROY if truncates else _kind(head, what, words):
        target = _target(head)
        yield _effect(kind, what, target, line)
        if head.new_name:  # of a rename
            new = tuple(map(known, head.new_name))
            yield _effect(kind, what, new if len(new) > 1 else (*target[:-1], *new), line)


def _kind(head: Head, what: str, words: str) -> EffectKind | None:
    """Return the effect of a statement with such first words on its name; None for no effect."""
    drops = head.form.kind is StatementKind.DROP
    match head.form.role:
        case "catalogs" | "schemas":
            if what.endswith(("CONNECTION", "LOCATION")):
                return EffectKind.UNCLEAR
            return EffectKind.DROP_SCHEMA if drops else EffectKind.MAKE_SCHEMA
        case "read":
            grants = head.form.kind is StatementKind.MAINTAIN
            return EffectKind.GRANT if grants else None
        case "drop" if what.endswith("TABLE"):
            return EffectKind.DESTROY
        case "drop" | "function" if drops and len(head.name) == 1:
            return None  # a view's or function's name alone is most often that of a temporary one
        case "make" if what.endswith("TABLE") and "IF NOT EXISTS" not in head.words:
            return EffectKind.CREATE  # what may have been there before is not the program's own
        case "change" if what == "ANALYZE TABLE":
            return None
        case "change" if what == "VACUUM" and _RETAIN_NOTHING.search(words):
            return EffectKind.DESTROY
        case "make" | "drop" | "change" | "rename" | "function":
            return EffectKind.WRITE
        case role:
            return _ROLES.get(role)


def _target(head: Head) -> tuple[str, ...]:
    if head.form.role == "file":
        return (known(head.written),)
    parts = tuple(known(quoted or plain) for quoted, plain in _PART.findall(head.written))
    if head.words.startswith("COMMENT ON COLUMN"):
        return parts[:-1]
    return (*parts, "default") if head.form.role == "catalog" else parts


def _changes(words: str, line: int) -> Iterator[ProgramEffect]:
    """The effects that depend on the whole syntax: a condition, a target after the first words."""
    query = parse_query(words)
    if query.problem:
        yield _unclear(words, line)
    for change in query.changes:
        verb = change.kind.upper()
        target = tuple(map(known, change.name))
        if change.all_rows is None:
            what = f"{verb} whose condition is put in later"
            yield ProgramEffect(kind=EffectKind.UNCLEAR, what=what, line=line)
        elif change.all_rows:
            yield _effect(EffectKind.DESTROY, f"{verb} without WHERE", target, line)
        else:
            yield _effect(EffectKind.WRITE, verb, target, line)


def _effect(kind: EffectKind, what: str, target: tuple[str, ...], line: int) -> ProgramEffect:
    path = len(target) == 2 and target[0].lower() in _FORMATS and "/" in target[1]
    if path and not what.startswith("DROP"):
        kind, target = EffectKind.PUT_FILE, target[1:]
    if kind is EffectKind.GRANT:
        what = what.partition(" ")[0]
    elif kind is EffectKind.DESTROY and what == "VACUUM":
        what = "VACUUM … RETAIN 0 HOURS"
    return ProgramEffect(kind=kind, what=what, target=target or ("*",), line=line)


def _unclear(text: str, line: int) -> ProgramEffect:
    what = f"SQL that cannot be followed: {known(text)[:80]!r}"
    return ProgramEffect(kind=EffectKind.UNCLEAR, what=what, line=line)

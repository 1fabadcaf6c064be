"""Effects of a program: what it does to which tables, files and secrets, as far as its SQL shows. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum, auto

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.runs.actions import RunSqlWorkflow
from databricks_rlm_agent.sqlflow.handover import source_of
from databricks_rlm_agent.sqlflow.plan.plan import plan_of
from databricks_rlm_agent.sqltext.names import UNKNOWN, parts_may_match, parts_of
from databricks_rlm_agent.sqltext.reader import parse_query, words_of
from databricks_rlm_agent.sqltext.split import StatementText, split
from databricks_rlm_agent.sqltext.statement import Head, StatementKind, head_of

FullName = tuple[str, str, str]
"""Catalog, schema and table in lower case; ``*`` stands for what is not known, and an empty part for what a
program leaves to its session.
"""


class EffectKind(StrEnum):
    """Kinds of effects: on tables (by name), schemas, paths, or the machine."""

    WRITE = auto()
    CREATE = auto()  # a table that was not there, or is replaced whole
    DESTROY = auto()  # drops or empties a table
    MAKE_SCHEMA = auto()
    DROP_SCHEMA = auto()  # or a catalog, or a volume
    GRANT = auto()
    USE = auto()  # changes what names without a schema mean
    PUT_FILE = auto()
    REMOVE_FILE = auto()
    SHELL = auto()
    SECRET = auto()
    UNCLEAR = auto()


@dataclass(frozen=True, kw_only=True)
class ProgramEffect:
    """One effect: ``what`` for people, ``target`` the parts of a name, or one path or command, and its line.
    What is not known before the program runs is ``*``.
    """

    kind: EffectKind
    what: str
    target: tuple[str, ...] = ()
    line: int = 0


def known(text: str) -> str:
    """``text`` with ``*`` for what is not known."""
    return text.replace(UNKNOWN, "*")


def may_be(name: str, other: str) -> bool:
    """Return whether a name with unknown parts may turn out to be another, or to fit a pattern."""
    return not name or parts_may_match(name, other)


def dotted(name: FullName) -> str:
    """A name as the program writes it."""
    return ".".join(part for part in name if part)


def may_be_same(name: FullName, other: FullName) -> bool:
    """Return whether two names may turn out to mean the same table."""
    return all(may_be(one, two) or not two for one, two in zip(name, other, strict=True))


def full_name(parts: tuple[str, ...], place: tuple[str, str]) -> FullName:
    """A table's whole name where names without one are in ``place`` (catalog, schema).

    A part that is entirely unknown may contain dots: what is left of it is unknown as well.
    """
    lower = tuple(part.lower() for part in parts)
    if not lower or len(lower) > 3 or (lower[0] == "*" and len(lower) < 3):
        known = lower[1:] if 1 < len(lower) <= 3 else ()
        lower = (*("*",) * (3 - len(known)), *known)
    catalog, schema, table = (*place[: 3 - len(lower)], *lower)
    return catalog, schema, table


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
            return EffectKind.GRANT if head.form.kind is StatementKind.MAINTAIN else None
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
    parts = tuple(map(known, parts_of(head.written, lower=False)))
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


@dataclass(frozen=True, kw_only=True)
class WorkflowEffects:
    """The effects of a workflow, by file. Each file begins in ``place`` (catalog, schema); ``made`` are the
    tables that the workflow creates: any of its files may drop them.
    """

    place: tuple[str, str]
    made: frozenset[FullName]
    files: dict[str, list[ProgramEffect]]


def workflow_effects(action: RunSqlWorkflow, namespace: Namespace) -> WorkflowEffects:
    """Read a workflow whose texts are complete; raise UsageError for one that cannot be planned."""
    place = ((action.catalog or namespace.catalog).lower(), (action.schema or namespace.schema).lower())
    plan = plan_of(source_of(action.files, variables=action.variables, catalog=place[0], schema=place[1]))
    files = {file.name: file.statements for step in plan.steps for file in step.files}
    made = {name for step in plan.steps for name in step.makes}
    made |= {name for statements in files.values() for each in statements for name in each.makes}
    return WorkflowEffects(
        place=place,
        made=frozenset((name[0], name[1], name[2]) for name in made if len(name) == 3),
        files={
            name: [effect for each in statements for effect in effects_of_sql(each.text, line=each.line)]
            for name, statements in files.items()
        },
    )

"""What one statement reads and writes, under the catalog and schema that its session has by then. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from databricks_rlm_agent.domain.workflow.model import Kind, Statement
from databricks_rlm_agent.domain.workflow.names import ANYTHING, Name, resolved, unique
from databricks_rlm_agent.domain.workflow.text.brief import STRING, brief
from databricks_rlm_agent.domain.workflow.text.queries import Parts, Reading, reading_of
from databricks_rlm_agent.domain.workflow.text.split import Piece
from databricks_rlm_agent.domain.workflow.text.words import Head, head_of

_IDENTIFIER = re.compile(r"\bidentifier ?\( ?(?:(['\"])([\w.`]+)\1|[^)]*) ?\)", re.IGNORECASE)
_CLONE = re.compile(
    r"^(create .*?) (?:deep |shallow )?clone ([\w`. -]+?)(?: (?:version|timestamp) as of .*)?$",
    re.IGNORECASE | re.DOTALL,
)
# Without any of these, rows are written out: there may be a million of them, and parsing would take minutes.
_QUERIES = re.compile(r"\b(?:select|from|table)\b", re.IGNORECASE)
_STRING = re.compile(STRING, re.DOTALL)
_UNKNOWN = "zzunknownzz"
_ROW_KINDS = {Kind.INSERT, Kind.MERGE, Kind.UPDATE, Kind.DELETE}
# SET VAR x = (SELECT …), ALTER VIEW … AS SELECT, EXPLAIN SELECT
_MAY_HIDE = {Kind.SESSION, Kind.ALTER, Kind.QUERY}
_SELECT = re.compile(r"\bselect\b", re.IGNORECASE)
_ALONE = {
    Kind.BLOCK: "what a BEGIN … END does is known when it runs",
    Kind.OTHER: "what it does is not known here",
}


@dataclass(frozen=True, kw_only=True)
class Session:
    """What names mean at a point of a file: its catalog and schema, and its temporary views."""

    catalog: str | None = None
    schema: str | None = None
    views: frozenset[str] = frozenset()

    def name(self, parts: Parts) -> Name:
        """A name in full, as far as it is known."""
        parts = tuple("*" if _UNKNOWN in part else part for part in parts)
        return ANYTHING if "*" in parts[-1:] or len(parts) > 3 else resolved(parts, self.catalog, self.schema)

    def has(self, parts: Parts) -> bool:
        """Whether a name means a temporary view."""
        return len(parts) == 1 and parts[0] in self.views


@dataclass(frozen=True, kw_only=True)
class _Effects:
    reads: tuple[Name, ...] = ()
    writes: tuple[Name, ...] = ()
    makes: tuple[Name, ...] = ()
    gone: tuple[Name, ...] = ()


def read_statement(piece: Piece, file: str, session: Session) -> tuple[Statement, Session]:
    """The statement, and the session after it."""
    text = brief(_IDENTIFIER.sub(lambda found: found[2] or _UNKNOWN, piece.plain))
    head = head_of(text)
    if head is None or (head.form.kind in _ALONE and not head.form.role):
        kind = head.form.kind if head else Kind.OTHER
        return _unclear(piece, file, kind, _ALONE[kind]), session
    if not head.form.query and head.form.kind in _MAY_HIDE and _SELECT.search(text):
        return _unclear(piece, file, head.form.kind, "it has a query inside"), _after(head, session)
    reads = head.form.query and (
        head.form.kind is not Kind.INSERT or _QUERIES.search(_STRING.sub("''", text))
    )
    reading = reading_of(_parseable(text)) if reads else Reading()
    if head.form.role == "function" and not _SELECT.search(text):  # bodies are of many languages
        reading = replace(reading, problem=None)
    effects = _effects(head, reading, session)
    dynamic = ANYTHING in (*effects.reads, *effects.writes)
    problem = reading.problem or ("it names a table that is known when it runs" if dynamic else None)
    statement = Statement(
        text=piece.text,
        file=file,
        line=piece.line,
        kind=_kind(head, reading),
        reads=(ANYTHING,) if problem else effects.reads,
        writes=unique([*effects.writes, ANYTHING]) if problem else effects.writes,
        makes=tuple(name for name in effects.makes if name != ANYTHING),
        gone=effects.gone,
        problem=problem,
    )
    return statement, _after(head, session)


def _parseable(text: str) -> str:
    """The same for a parser: what it does not know, but something that it knows reads alike."""
    text = re.sub(r"^replace (?=\w)", "create or replace ", text, flags=re.IGNORECASE)
    text = re.sub(r"^create or refresh ", "create or replace ", text, flags=re.IGNORECASE)
    text = re.sub(r"^merge with schema evolution into ", "merge into ", text, flags=re.IGNORECASE)
    text = _CLONE.sub(r"\1 as select * from \2", text)
    text = re.sub(r"\bas table (?=[\w`. ]+$)", "as select * from ", text, flags=re.IGNORECASE)
    return re.sub(r"^table (?=\w|`)", "select * from ", text, flags=re.IGNORECASE)


def _kind(head: Head, reading: Reading) -> Kind:
    if head.form.kind is Kind.QUERY and reading.changes:  # WITH … INSERT INTO
        return reading.changes[0][0]
    return Kind.REPLACE if head.spares and head.form.kind in {Kind.CREATE, Kind.DROP} else head.form.kind


def _unclear(piece: Piece, file: str, kind: Kind, why: str) -> Statement:
    return Statement(
        text=piece.text,
        file=file,
        line=piece.line,
        kind=kind,
        reads=(ANYTHING,),
        writes=(ANYTHING,),
        problem=why,
    )


def _effects(head: Head, reading: Reading, session: Session) -> _Effects:
    """What a statement of that form reads, writes, makes and takes away."""
    reads = [session.name(parts) for parts in reading.tables if not session.has(parts)]
    reads += [_function(session.name(parts)) for parts in reading.functions]
    if not head.name:  # WITH … INSERT INTO has its target further on
        writes = [session.name(parts) for kind, parts in reading.changes if kind in _ROW_KINDS]
        return _Effects(reads=unique(reads), writes=unique(writes))
    if head.form.role == "view" or session.has(head.name):
        return _Effects(reads=unique(reads))
    name = session.name(head.name)
    done = _Effects(reads=unique(reads), writes=(name,))
    match head.form.role:
        case "read":
            return replace(done, reads=unique([*reads, name]), writes=())
        case "rename":
            parts = head.new_name if len(head.new_name) > 1 else (*name[:-1], *head.new_name)
            new = session.name(parts)
            return replace(done, writes=(name, new), makes=(new,), gone=(name,))
        case "change":
            return done
        case "catalog" | "schema":
            return replace(done, writes=())
        case role:
            name = _whole(head, session) if role in {"schemas", "catalogs"} else name
            name = _function(name) if role == "function" else name
            gone = head.form.kind is Kind.DROP
            return replace(done, writes=(name,), makes=() if gone else (name,), gone=(name,) if gone else ())


def _whole(head: Head, session: Session) -> Name:
    """All tables of a schema or catalog that is made or dropped."""
    if head.form.role == "catalogs":
        return (*head.name, "*", "*")
    return (*resolved(head.name, None, session.catalog), "*")


def _function(name: Name) -> Name:
    """Functions have names of their own: those of tables do not clash with them."""
    return name if name == ANYTHING else (*name[:-1], f"{name[-1]}()")


def _after(head: Head, session: Session) -> Session:
    """The session after such a statement."""
    match head.form.role:
        case "catalog" | "schema" if _UNKNOWN in ".".join(head.name):
            return replace(session, catalog=None, schema=None)
        case "catalog":
            return replace(session, catalog=head.name[0], schema="default")
        case "schema":
            *catalog, schema = head.name
            return replace(session, catalog=catalog[0] if catalog else session.catalog, schema=schema)
        case "view":
            return replace(session, views=session.views | {head.name[-1]})
        case "drop" if session.has(head.name):
            return replace(session, views=session.views - {head.name[-1]})
    return session

"""What one statement reads and writes, under the catalog and schema that its session has by then. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from databricks_rlm_agent.sqltext.names import ANYTHING, Name, resolved, unique
from databricks_rlm_agent.sqltext.split import StatementText
from databricks_rlm_agent.sqltext.statement import Head, Statement, StatementKind, head_of

LONG = 20_000  # characters up to which parsing is quick
STRING = r"(?:'(?:[^'\\]|\\.|'')*+'|\"(?:[^\"\\]|\\.|\"\")*+\")"
_LITERAL = rf"(?:(?:timestamp |date |r |x )?{STRING}|(?:[-+] )?\d[\w.]*+|(?:null|true|false|default)\b)"
_LISTED = re.compile(rf"(?<=[(,] ){_LITERAL}(?= [,)])", re.IGNORECASE | re.DOTALL)
_ALONE = re.compile(rf"(?<![\w.`]){_LITERAL}", re.IGNORECASE | re.DOTALL)
_LIST = re.compile(r"(?<=[(,] )0(?: , 0){10,}+")
# What stands in parentheses, with calls in it up to so many deep; and the same again.
_CALL = r"[^()]*+"
for _ in range(6):
    _CALL = rf"[^()]*+(?:\({_CALL}\)[^()]*+)*+"
_REPEATED = re.compile(rf"(\({_CALL}\))(?: , \1)++")
# SELECT 1 , 'a' UNION ALL SELECT 1 , 'a' …
_UNITED = re.compile(r"(\bselect [^()]{1,2000}?)(?: union all \1(?= union all|$| \)))++", re.IGNORECASE)


def abbreviate(plain: str, *, long: int = LONG) -> str:
    """A statement, single spaces between its words, that reads and writes the same tables.

    Lists of literals become one literal, and rows that then are alike one row. Short ones stay as they are.
    """
    if len(plain) <= long:
        return plain
    text = _LIST.sub("0 , 0", _LISTED.sub("0", plain))
    text = _ALONE.sub(_alike, text)
    return _UNITED.sub(r"\1", _REPEATED.sub(r"\1", text))


def _alike(found: re.Match[str]) -> str:
    """Another literal of that kind, the same for all; of words there are few."""
    kind, quote, _ = found[0].partition(found[0][-1] if found[0][-1] in "'\"" else "'")
    return f"{kind}''" if quote else "0" if found[0][0] in "+-0123456789" else found[0]


Parts = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ParsedQuery:
    """What a statement reads: parts of names as it has them. ``changes`` are targets that no first word tells
    (``WITH … INSERT INTO t``). ``problem`` says why it cannot be told.
    """

    tables: tuple[Parts, ...] = ()
    functions: tuple[Parts, ...] = ()
    changes: tuple[tuple[StatementKind, Parts], ...] = ()
    problem: str | None = None


def parse_query(text: str) -> ParsedQuery:
    """Read one statement that may read tables."""
    tree = _tree(text)
    if isinstance(tree, str):
        return ParsedQuery(problem=tree)
    targets = list(_targets(tree))
    skipped = {id(table) for _, table in targets}
    tables = [_parts(table) for table in _tables(tree) if id(table) not in skipped]
    return ParsedQuery(
        tables=tuple(dict.fromkeys(tables)),
        functions=tuple(dict.fromkeys(_functions(tree))),
        changes=tuple((kind, _parts(table)) for kind, table in targets),
    )


def _tree(text: str) -> Any:
    """The syntax tree, or why there is none."""
    from sqlglot import exp, parse
    from sqlglot.errors import ParseError

    try:
        trees = [tree for tree in parse(text, dialect="databricks") if tree is not None]
    except ParseError as error:
        first = error.errors[0] if error.errors else {}
        near = f"{first.get('start_context', '')[-30:]}{first.get('highlight', '')}".strip()
        said = str(first.get("description", "")).partition(" but got <")[0].rstrip(".")
        return f"{said}, near {near!r}" if near else said or "it does not parse"
    except RecursionError:
        return "it is nested too deeply"
    except Exception as error:  # noqa: BLE001 - the parser has faults of its own; the reason is told
        return f"the parser does not know it ({type(error).__name__})"
    if len(trees) != 1 or trees[0].find(exp.Command) or isinstance(trees[0], exp.Alias | exp.Column):
        return "its syntax is not known here"
    return trees[0]


def _targets(tree: Any) -> Iterator[tuple[StatementKind, Any]]:
    """The tables that the statement and those inside it write to."""
    from sqlglot import exp

    kinds: tuple[tuple[Any, StatementKind], ...] = (
        (exp.Insert, StatementKind.INSERT),
        (exp.Merge, StatementKind.MERGE),
        (exp.Update, StatementKind.UPDATE),
        (exp.Delete, StatementKind.DELETE),
        (exp.Create, StatementKind.CREATE),
        (exp.Cache, StatementKind.SESSION),
    )
    for node in tree.walk():
        kind = next((kind for each, kind in kinds if isinstance(node, each)), None)
        table = node.this.find(exp.Table) if kind and isinstance(node.this, exp.Expr) else None
        if kind and table is not None:
            yield StatementKind.REPLACE if node.args.get("overwrite") else kind, table


def _tables(tree: Any) -> Iterator[Any]:
    """The tables in it that are neither CTEs nor functions."""
    from sqlglot import exp

    for table in tree.find_all(exp.Table):
        named = isinstance(table.this, exp.Identifier) and table.name
        if named and not (len(table.parts) == 1 and _is_cte(table)):
            yield table


def _parts(table: Any) -> Parts:
    return tuple(part.name.lower() for part in table.parts)


def _is_cte(table: Any) -> bool:
    """Whether a plain name means a CTE where it stands: one of a WITH around it, that comes before."""
    from sqlglot import exp

    inside, node = table, table.parent
    while node is not None:
        clause = node.args.get("with_") or node.args.get("with")
        if isinstance(node, exp.With):
            names = [each.alias.lower() for each in node.expressions]
            place = next((i for i, each in enumerate(node.expressions) if each is inside), len(names))
            # Of a recursive one, it sees itself as well.
            if table.name.lower() in names[: place + 1 if node.recursive else place]:
                return True
        elif clause is not None and clause is not inside:
            names = [each.alias.lower() for each in clause.expressions]
            if table.name.lower() in names:
                return True
        inside, node = node, node.parent
    return False


def _functions(tree: Any) -> Iterator[Parts]:
    """Functions that sqlglot does not know: they may be the workflow's own."""
    from sqlglot import exp

    for call in tree.find_all(exp.Anonymous):
        names = [str(call.this).lower()]
        node = call.parent
        while isinstance(node, exp.Dot):
            left = node.this
            found = left.expression if isinstance(left, exp.Dot) else left
            if isinstance(found, exp.Identifier):
                names.insert(0, found.name.lower())
            if isinstance(left, exp.Dot) and isinstance(left.this, exp.Identifier):
                names.insert(0, left.this.name.lower())
            node = node.parent
        if isinstance(node, exp.Table):
            names = [*(part.name.lower() for part in node.parts[:-1]), *names]
        yield tuple(names)


_IDENTIFIER = re.compile(r"\bidentifier ?\( ?(?:(['\"])([\w.`]+)\1|[^)]*) ?\)", re.IGNORECASE)
_CLONE = re.compile(
    r"^(create .*?) (?:deep |shallow )?clone ([\w`. -]+?)(?: (?:version|timestamp) as of .*)?$",
    re.IGNORECASE | re.DOTALL,
)
# Without any of these, rows are written out: there may be a million of them, and parsing would take minutes.
_QUERIES = re.compile(r"\b(?:select|from|table)\b", re.IGNORECASE)
_STRING = re.compile(STRING, re.DOTALL)
_UNKNOWN = "zzunknownzz"
_ROW_KINDS = {StatementKind.INSERT, StatementKind.MERGE, StatementKind.UPDATE, StatementKind.DELETE}
# SET VAR x = (SELECT …), ALTER VIEW … AS SELECT, EXPLAIN SELECT
_MAY_HIDE = {StatementKind.SESSION, StatementKind.ALTER, StatementKind.QUERY}
_SELECT = re.compile(r"\bselect\b", re.IGNORECASE)
_UNKNOWN_EFFECTS = {
    StatementKind.BLOCK: "what a BEGIN … END does is known when it runs",
    StatementKind.OTHER: "what it does is not known here",
}


@dataclass(frozen=True, kw_only=True)
class NameScope:
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
    drops: tuple[Name, ...] = ()


def read_statement(piece: StatementText, file: str, session: NameScope) -> tuple[Statement, NameScope]:
    """The statement, and the session after it."""
    text = abbreviate(_IDENTIFIER.sub(lambda found: found[2] or _UNKNOWN, piece.normalized))
    head = head_of(text)
    if head is None or (head.form.kind in _UNKNOWN_EFFECTS and not head.form.role):
        kind = head.form.kind if head else StatementKind.OTHER
        return _unclear(piece, file, kind, _UNKNOWN_EFFECTS[kind]), session
    if not head.form.query and head.form.kind in _MAY_HIDE and _SELECT.search(text):
        return _unclear(piece, file, head.form.kind, "it has a query inside"), _after(head, session)
    reads = head.form.query and (
        head.form.kind is not StatementKind.INSERT or _QUERIES.search(_STRING.sub("''", text))
    )
    reading = parse_query(_parseable(text)) if reads else ParsedQuery()
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
        drops=effects.drops,
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


def _kind(head: Head, reading: ParsedQuery) -> StatementKind:
    if head.form.kind is StatementKind.QUERY and reading.changes:  # WITH … INSERT INTO
        return reading.changes[0][0]
    return (
        StatementKind.REPLACE
        if head.idempotent and head.form.kind in {StatementKind.CREATE, StatementKind.DROP}
        else head.form.kind
    )


def _unclear(piece: StatementText, file: str, kind: StatementKind, why: str) -> Statement:
    return Statement(
        text=piece.text,
        file=file,
        line=piece.line,
        kind=kind,
        reads=(ANYTHING,),
        writes=(ANYTHING,),
        problem=why,
    )


def _effects(head: Head, reading: ParsedQuery, session: NameScope) -> _Effects:
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
            return replace(done, writes=(name, new), makes=(new,), drops=(name,))
        case "change":
            return done
        case "catalog" | "schema":
            return replace(done, writes=())
        case role:
            name = _whole(head, session) if role in {"schemas", "catalogs"} else name
            name = _function(name) if role == "function" else name
            dropped = head.form.kind is StatementKind.DROP
            return replace(
                done, writes=(name,), makes=() if dropped else (name,), drops=(name,) if dropped else ()
            )


def _whole(head: Head, session: NameScope) -> Name:
    """All tables of a schema or catalog that is made or dropped."""
    if head.form.role == "catalogs":
        return (*head.name, "*", "*")
    return (*resolved(head.name, None, session.catalog), "*")


def _function(name: Name) -> Name:
    """Functions have names of their own: those of tables do not clash with them."""
    return name if name == ANYTHING else (*name[:-1], f"{name[-1]}()")


def _after(head: Head, session: NameScope) -> NameScope:
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

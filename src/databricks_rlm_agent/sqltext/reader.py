"""Read one statement: its kind, and the tables and functions that it reads, writes, makes and drops. Pure.

The one reader of Databricks SQL here: for workflows, for the policy and for acceptance checks. Names are read
under the catalog and schema that the statement's session has by then (``NameScope``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from databricks_rlm_agent.sqltext.names import ANYTHING, UNKNOWN, Name, resolved, unique
from databricks_rlm_agent.sqltext.split import StatementText
from databricks_rlm_agent.sqltext.statement import ROW_CHANGES, Head, Statement, StatementKind, head_of

LONG = 20_000  # characters up to which parsing is quick
STRING = r"(?:'(?:[^'\\]|\\.|'')*+'|\"(?:[^\"\\]|\\.|\"\")*+\")"
_LITERAL = rf"(?:(?:timestamp |date |r |x )?{STRING}|(?:[-+] )?\d[\w.]*+|(?:null|true|false|default)\b)"
_LISTED = re.compile(rf"(?<=[(,] ){_LITERAL}(?= [,)])", re.IGNORECASE | re.DOTALL)
_ALONE = re.compile(rf"(?<![\w.`]){_LITERAL}", re.IGNORECASE | re.DOTALL)
_LIST = re.compile(r"(?<=[(,] )0(?: , 0){10,}+")
# The content of parentheses, with calls up to six deep; and the same again.
_CALL = r"[^()]*+"
for _ in range(6):
    _CALL = rf"[^()]*+(?:\({_CALL}\)[^()]*+)*+"
_REPEATED = re.compile(rf"(\({_CALL}\))(?: , \1)++")
# SELECT 1 , 'a' UNION ALL SELECT 1 , 'a' …
_UNITED = re.compile(r"(\bselect [^()]{1,2000}?)(?: union all \1(?= union all|$| \)))++", re.IGNORECASE)


def abbreviate(text: str, *, long: int = LONG) -> str:
    """Shorten a normalized statement that carries its data; it still reads and writes the same tables.

    Lists of literals become one literal, and rows that then are equal one row. Statements of up to ``long``
    characters are returned unchanged.
    """
    if len(text) <= long:
        return text
    text = _LIST.sub("0 , 0", _LISTED.sub("0", text))
    text = _ALONE.sub(_any_literal, text)
    return _UNITED.sub(r"\1", _REPEATED.sub(r"\1", text))


def _any_literal(found: re.Match[str]) -> str:
    """Another literal of that kind, the same for all; of words there are few."""
    kind, quote, _ = found[0].partition(found[0][-1] if found[0][-1] in "'\"" else "'")
    return f"{kind}''" if quote else "0" if found[0][0] in "+-0123456789" else found[0]


_IDENTIFIER = re.compile(r"\bidentifier ?\( ?(?:(['\"])([\w.`]+)\1|[^)]*) ?\)", re.IGNORECASE)
_CLONE = r"^(create .*?) (?:deep |shallow )?clone ([\w`. -]+?)(?: (?:version|timestamp) as of .*)?$"
# What the parser does not know, and something that it knows and that reads the same tables.
_REWRITES = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), text)
    for pattern, text in (
        (r"^replace (?=\w)", "create or replace "),
        (r"^create or refresh ", "create or replace "),
        (r"^merge with schema evolution into ", "merge into "),
        (_CLONE, r"\1 as select * from \2"),
        (r"\bas table (?=[\w`. ]+$)", "as select * from "),
        (r"^table (?=\w|`)", "select * from "),
    )
)


def words_of(source: StatementText) -> str:
    """A statement's text for ``head_of`` and ``parse_query``: ``IDENTIFIER('name')`` is that name, one that
    is known only when the statement runs is ``UNKNOWN``, and long data is abbreviated.
    """
    return abbreviate(_IDENTIFIER.sub(lambda found: found[2] or UNKNOWN, source.normalized))


Parts = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Change:
    """A table that a statement's syntax writes to; ``name`` is as it is written. ``all_rows``: a DELETE or
    UPDATE that no condition limits, None if the condition is put in when it runs.
    """

    kind: StatementKind
    name: Parts
    all_rows: bool | None = False


@dataclass(frozen=True, kw_only=True)
class ParsedQuery:
    """The contents of a statement's syntax. ``tables`` and ``functions`` are what it reads, in lower case;
    ``changes`` what it and the statements inside it write to; ``problem`` says why none of that is known.
    """

    tables: tuple[Parts, ...] = ()
    functions: tuple[Parts, ...] = ()
    changes: tuple[Change, ...] = ()
    selects: bool = False  # it is a query that returns columns
    parameters: bool = False  # it has :name or ?
    problem: str | None = None


def parse_query(words: str) -> ParsedQuery:
    """Parse one statement, as ``words_of`` gives it."""
    from sqlglot import exp

    for pattern, text in _REWRITES:
        words = pattern.sub(text, words)
    tree = _tree(words)
    if isinstance(tree, str):
        return ParsedQuery(problem=tree)
    targets = list(_targets(tree))
    skipped = {id(table) for _, table, _ in targets}
    read = (table.parts for table in _tables(tree) if id(table) not in skipped)
    tables = [tuple(part.name.lower() for part in parts) for parts in read]
    return ParsedQuery(
        tables=tuple(dict.fromkeys(tables)),
        functions=tuple(dict.fromkeys(_functions(tree))),
        changes=tuple(
            Change(kind=kind, name=tuple(part.name for part in table.parts), all_rows=all_rows)
            for kind, table, all_rows in targets
        ),
        selects=isinstance(tree, exp.Query) and bool(tree.selects),
        parameters=tree.find(exp.Placeholder, exp.Parameter) is not None,
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
        reason = str(first.get("description", "")).partition(" but got <")[0].rstrip(".")
        return f"{reason}, near {near!r}" if near else reason or "it does not parse"
    except RecursionError:
        return "it is nested too deeply"
    except Exception as error:  # noqa: BLE001 - the parser has faults of its own; the reason is reported
        return f"the parser does not know it ({type(error).__name__})"
    if len(trees) != 1 or trees[0].find(exp.Command) or isinstance(trees[0], exp.Alias | exp.Column):
        return "its syntax is not known here"
    return trees[0]


def _targets(tree: Any) -> Iterator[tuple[StatementKind, Any, bool | None]]:
    """The tables that the statement and those inside it write to."""
    from sqlglot import exp

    kinds: tuple[tuple[Any, StatementKind], ...] = (
        (exp.Insert, StatementKind.INSERT),
        (exp.Merge, StatementKind.MERGE),
        (exp.Update, StatementKind.UPDATE),
        (exp.Delete, StatementKind.DELETE),
        (exp.Create | exp.Into, StatementKind.CREATE),
        (exp.Cache, StatementKind.SESSION),
    )
    for node in tree.walk():
        kind = next((kind for each, kind in kinds if isinstance(node, each)), None)
        table = node.this.find(exp.Table) if kind and isinstance(node.this, exp.Expr) else None
        if kind and table is not None:
            limited = not isinstance(node, exp.Update | exp.Delete)
            all_rows = False if limited else _all_rows(node.args.get("where"), table)
            yield StatementKind.REPLACE if node.args.get("overwrite") else kind, table, all_rows


def _all_rows(where: Any, table: Any) -> bool | None:
    """Return whether a condition holds for every row: there is none, ``true``, ``1 = 1``."""
    from sqlglot import exp

    if where is None:
        return None if UNKNOWN in table.alias else True  # DELETE FROM t {where}
    condition = where.this
    if isinstance(condition, exp.EQ):
        literal = isinstance(condition.this, exp.Literal) and isinstance(condition.expression, exp.Literal)
        return literal and bool(condition.this == condition.expression)
    return isinstance(condition, exp.Boolean) and bool(condition.this)


def _tables(tree: Any) -> Iterator[Any]:
    """The tables in it that are neither CTEs nor functions."""
    from sqlglot import exp

    for table in tree.find_all(exp.Table):
        named = isinstance(table.this, exp.Identifier) and table.name
        if named and not (len(table.parts) == 1 and _is_cte(table)):
            yield table


def _is_cte(table: Any) -> bool:
    """Return whether a name means a CTE where it stands: one of a WITH around it, that comes before."""
    from sqlglot import exp

    inside, node = table, table.parent
    while node is not None:
        clause = node.args.get("with_") or node.args.get("with")
        if isinstance(node, exp.With):
            names = [each.alias.lower() for each in node.expressions]
            place = next((i for i, each in enumerate(node.expressions) if each is inside), len(names))
            # A recursive one sees itself as well.
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


# Without any of these, rows are written out: there may be a million of them, and parsing would take minutes.
_QUERIES = re.compile(r"\b(?:select|from|table)\b", re.IGNORECASE)
_STRING = re.compile(STRING, re.DOTALL)
# SET VAR x = (SELECT …), ALTER VIEW … AS SELECT, EXPLAIN SELECT
_MAY_HIDE = {StatementKind.SESSION, StatementKind.ALTER, StatementKind.QUERY}
_SELECT = re.compile(r"\bselect\b", re.IGNORECASE)
_UNKNOWN_EFFECTS = {
    StatementKind.BLOCK: "what a BEGIN … END does is known when it runs",
    StatementKind.OTHER: "what it does is not known here",
}


@dataclass(frozen=True, kw_only=True)
class NameScope:
    """The meaning of names at a point of a file: its catalog and schema, and its temporary views."""

    catalog: str | None = None
    schema: str | None = None
    views: frozenset[str] = frozenset()

    def name(self, parts: Parts) -> Name:
        """A name in full, as far as it is known."""
        parts = tuple("*" if UNKNOWN in part else part for part in parts)
        return ANYTHING if "*" in parts[-1:] or len(parts) > 3 else resolved(parts, self.catalog, self.schema)

    def has(self, parts: Parts) -> bool:
        """Return whether a name means a temporary view."""
        return len(parts) == 1 and parts[0] in self.views


def read_statement(source: StatementText, file: str, scope: NameScope) -> tuple[Statement, NameScope]:
    """Return the statement, and the scope after it."""
    words = words_of(source)
    head = head_of(words)
    kind = head.form.kind if head else StatementKind.OTHER
    first = head.words if head else " ".join(words.split(" ", 4)[:4]).upper()
    statement = Statement(text=source.text, file=file, line=source.line, kind=kind, words=first)
    if head is None or (kind in _UNKNOWN_EFFECTS and head.form.role in {"", "file"}):
        return _anything(statement, _UNKNOWN_EFFECTS[kind]), scope
    after = _scope_after(head, scope)
    if not head.form.query and kind in _MAY_HIDE and _SELECT.search(words):
        return _anything(statement, "it has a query inside"), after
    query = _query(head, words)
    statement = replace(_with_names(statement, head, query, scope), kind=_kind(head, query))
    if query.problem:
        return _anything(statement, query.problem), after
    if ANYTHING in (*statement.reads, *statement.writes):
        return _anything(statement, "it names a table that is known when it runs"), after
    return statement, after


def _anything(statement: Statement, problem: str) -> Statement:
    """The statement, when it may read and write tables beyond those that are known."""
    return replace(
        statement,
        reads=(ANYTHING,),
        writes=unique([*statement.writes, ANYTHING]),
        makes=tuple(name for name in statement.makes if name != ANYTHING),
        problem=problem,
    )


def _query(head: Head, words: str) -> ParsedQuery:
    if not head.form.query:
        return ParsedQuery()
    if head.form.kind is StatementKind.INSERT and not _QUERIES.search(_STRING.sub("''", words)):
        return ParsedQuery()
    query = parse_query(words)
    if head.form.role == "function" and not _SELECT.search(words):  # bodies are of many languages
        return replace(query, problem=None)
    return query


def _kind(head: Head, query: ParsedQuery) -> StatementKind:
    if head.form.kind is StatementKind.QUERY and query.changes:  # WITH … INSERT INTO
        return query.changes[0].kind
    if head.idempotent and head.form.kind in {StatementKind.CREATE, StatementKind.DROP}:
        return StatementKind.REPLACE
    return head.form.kind


def _with_names(statement: Statement, head: Head, query: ParsedQuery, scope: NameScope) -> Statement:
    """The statement with what it reads, writes, makes and drops."""
    reads = [scope.name(parts) for parts in query.tables if not scope.has(parts)]
    reads += [_function(scope.name(parts)) for parts in query.functions]
    statement = replace(statement, reads=unique(reads))
    if not head.name:  # WITH … INSERT INTO has its target further on
        writes = [scope.name(change.name) for change in query.changes if change.kind in ROW_CHANGES]
        return replace(statement, writes=unique(writes))
    if head.form.role in {"view", "catalog", "schema"} or scope.has(head.name):
        return statement
    name = scope.name(head.name)
    match head.form.role:
        case "read":
            return replace(statement, reads=unique([*reads, name]))
        case "change":
            return replace(statement, writes=(name,))
        case "rename":
            parts = head.new_name if len(head.new_name) > 1 else (*name[:-1], *head.new_name)
            new = scope.name(parts)
            return replace(statement, writes=(name, new), makes=(new,), drops=(name,))
        case "catalogs":
            name = (*head.name, "*", "*")
        case "schemas":
            name = (*resolved(head.name, None, scope.catalog), "*")
        case "function":
            name = _function(name)
    if head.form.kind is StatementKind.DROP:
        return replace(statement, writes=(name,), drops=(name,))
    return replace(statement, writes=(name,), makes=(name,))


def _function(name: Name) -> Name:
    """The name of a function, which never clashes with a table's."""
    return name if name == ANYTHING else (*name[:-1], f"{name[-1]}()")


def _scope_after(head: Head, scope: NameScope) -> NameScope:
    """Return the scope after such a statement."""
    match head.form.role:
        case "catalog" | "schema" if UNKNOWN in ".".join(head.name):
            return replace(scope, catalog=None, schema=None)
        case "catalog":
            return replace(scope, catalog=head.name[0], schema="default")
        case "schema":
            *catalog, schema = head.name
            return replace(scope, catalog=catalog[0] if catalog else scope.catalog, schema=schema)
        case "view":
            return replace(scope, views=scope.views | {head.name[-1]})
        case "drop" if scope.has(head.name):
            return replace(scope, views=scope.views - {head.name[-1]})
    return scope

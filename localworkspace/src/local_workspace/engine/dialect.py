"""What Databricks' queries can say and the engine cannot, said in words that it has.

QUALIFY, GROUP BY ALL, ORDER BY ALL, `* EXCEPT (…)`, `* REPLACE (…)`, JOIN … USING with names of tables, PIVOT
over one column, WITH before INSERT, IDENTIFIER('…'), IN with a subquery where the engine is
not right, functions that it lacks.
Only a statement that has one of them is touched, and of it only the query.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from . import functions
from .errors import unsupported
from .lexer import unquote_string
from .membership import said_with_exists
from .statements import Statement
from .using import qualified, without_using

# Else no token needs to be looked at: of rows written out there may be a million.
_WORTH_A_LOOK = re.compile(
    r"\b(qualify|pivot|using|identifier)\b|\bby\s+all\b|\*\s*(except|replace)\b|\bwith\b|\bin\s*\(\s*select\b",
    re.IGNORECASE,
)
# The names of the columns that a query has; asked of the engine, which knows all that is in scope.
Columns = Callable[[str], Sequence[str]]
# Aggregates that the parser has no class for.
_AGGREGATES = {
    "every",
    "some",
    "bool_or",
    "bool_and",
    "kurtosis",
    "skewness",
    "percentile",
    "mode",
    "product",
}


def plainer(statement: Statement, columns: Columns) -> Statement:
    """The statement as the engine takes it; the same where there is nothing to change."""
    if not (_WORTH_A_LOOK.search(statement.text) or functions.WORTH_A_LOOK.search(statement.text)):
        return statement
    statement = _with_after_insert(statement)
    statement = _identifiers(_pivots(statement))
    statement = _with_functions(statement)
    statement = _with_query(statement, said_with_exists)
    return _with_query(statement, partial(_rewritten, columns=columns)) if _needs(statement) else statement


def _with_functions(statement: Statement) -> Statement:
    """The statement without functions that the engine lacks, which UPDATE, DELETE and MERGE have anywhere."""
    if statement.tokens and statement.tokens[0].upper in {"UPDATE", "DELETE", "MERGE"}:
        said = functions.said_with_others(statement.text)
        return statement if said == statement.text else Statement.parse(said)
    return _with_query(statement, functions.said_with_others)


def _with_query(statement: Statement, said: Callable[[str], str]) -> Statement:
    """The statement with its query said otherwise; the same if that is no other."""
    span = _query(statement)
    if span is None:
        return statement
    start, end = span
    before = statement.source(start, end)
    query = said(before)
    if query == before:
        return statement
    tail = statement.source(end) if end < len(statement.tokens) else ""
    return Statement.parse(f"{statement.text[: statement.tokens[start].start]}{query} {tail}")


def _needs(statement: Statement) -> bool:
    """Whether a query must be said otherwise. By its tokens, for this is asked of every statement."""
    tokens = statement.tokens
    for index, token in enumerate(tokens):
        upper = token.upper
        if upper == "QUALIFY" or (upper == "ALL" and index > 1 and tokens[index - 1].upper == "BY"):
            return True
        if upper in {"EXCEPT", "REPLACE"} and index and tokens[index - 1].text == "*":
            query = statement.starts("(", "SELECT", at=index + 1) or statement.starts(
                "(", "WITH", at=index + 1
            )
            if statement.starts("(", at=index + 1) and not query:
                return True
    return qualified(tokens)


def _query(statement: Statement) -> tuple[int, int] | None:
    """The first and last token of the statement's query, or of the one that is its source (MERGE USING)."""
    at = statement.find("SELECT", "WITH")
    if at is not None:
        return at, len(statement.tokens)
    for index in range(len(statement.tokens) - 1):
        if statement.tokens[index].text == "(" and statement.tokens[index + 1].upper in {"SELECT", "WITH"}:
            return index + 1, _closing(statement, index)
    return None


def _closing(statement: Statement, opening: int) -> int:
    depth = 0
    for index in range(opening, len(statement.tokens)):
        text = statement.tokens[index].text
        depth += (text == "(") - (text == ")")
        if depth == 0:
            return index
    return len(statement.tokens)


def _with_after_insert(statement: Statement) -> Statement:
    """`WITH q AS (…) INSERT INTO t SELECT …` as `INSERT INTO t WITH q AS (…) SELECT …`."""
    insert = statement.find("INSERT", "SELECT") if statement.starts("WITH") else None
    if insert is None or statement.tokens[insert].upper != "INSERT":
        return statement
    query = statement.find("SELECT", start=insert)
    if query is None:
        return statement
    clause = statement.source(0, insert)
    return Statement.parse(f"{statement.source(insert, query)} {clause} {statement.source(query)}")


def _pivots(statement: Statement) -> Statement:
    """`PIVOT (… FOR m IN (…))` as `PIVOT (… FOR (m) IN (…))`."""
    tokens = statement.tokens
    if not any(token.upper == "PIVOT" for token in tokens):
        return statement
    text, done = "", 0
    for index, token in enumerate(tokens[:-2]):
        if token.upper == "FOR" and tokens[index + 1].is_name and tokens[index + 2].upper == "IN":
            name = tokens[index + 1]
            text += f"{statement.text[done : name.start]}({name.text})"
            done = name.end
    return Statement.parse(text + statement.text[done:])


def _identifiers(statement: Statement) -> Statement:
    """`IDENTIFIER('a' || '.b')` as `a.b`: of strings that are written out."""
    tokens = statement.tokens
    text, done = "", 0
    for index, token in enumerate(tokens[:-3]):
        if token.upper != "IDENTIFIER" or tokens[index + 1].text != "(" or token.start < done:
            continue
        end = next((at for at in range(index, len(tokens)) if tokens[at].text == ")"), index)
        parts = [each for each in tokens[index + 2 : end] if each.text != "|"]
        if parts and all(each.kind == "string" for each in parts):
            text += statement.text[done : token.start] + "".join(unquote_string(each.text) for each in parts)
            done = tokens[end].end
    return Statement.parse(text + statement.text[done:]) if done else statement


def _rewritten(text: str, columns: Columns) -> str:
    from sqlglot import exp, parse_one
    from sqlglot.errors import SqlglotError

    try:
        tree = parse_one(text, dialect="databricks")
        for select in list(_inner_first(tree)):
            _stars(select, columns)
            without_using(select, partial(_columns_of, columns, select))
            _all(select)
            plain = _without_qualify(select)
            if select is tree:
                tree = plain
            elif plain is not select:
                select.replace(plain)
        assert isinstance(tree, exp.Expr)
        return tree.sql(dialect="databricks")
    except SqlglotError as error:
        said = str(error).splitlines()[0]
        raise unsupported(f"A query with QUALIFY, GROUP BY ALL or * EXCEPT in this form ({said})") from None


def _inner_first(node: Any) -> Iterator[Any]:
    """Every SELECT after those within it, and those of a WITH before the others."""
    from sqlglot import exp

    for child in sorted(node.iter_expressions(), key=lambda each: not isinstance(each, exp.With)):
        yield from _inner_first(child)
    if isinstance(node, exp.Select):
        yield node


def _stars(select: Any, columns: Columns) -> None:
    """Write out the stars of which the columns must be known."""
    from sqlglot import exp

    found = []
    for each in select.expressions:
        star: Any = each.this if isinstance(each, exp.Column) else each
        known = isinstance(star, exp.Star)
        changed = known and any(star.args.get(key) for key in ("except_", "except", "replace"))
        using = any(join.args.get("using") for join in select.args.get("joins") or ())
        if not known or not (changed or using or select.args.get("qualify")):
            found.append(each)
            continue
        found += _columns(select, each, star, columns)
    select.set("expressions", found)


def _columns(select: Any, item: Any, star: Any, columns: Columns) -> list[Any]:
    """The columns of a star, as expressions."""
    from sqlglot import exp

    table = item.args.get("table") if isinstance(item, exp.Column) else None
    left_out = {each.name.lower() for each in star.args.get("except_") or star.args.get("except") or ()}
    replaced = {each.alias.lower(): each for each in star.args.get("replace") or ()}
    source = _source(select, table.name) if table is not None else None
    names = columns(_probe(select, None if source is not None else table, source))
    return [
        replaced.get(name.lower()) or exp.column(name, table=table.copy() if table else None, quoted=True)
        for name in names
        if name.lower() not in left_out
    ]


def _source(select: Any, name: str) -> Any:
    """What a SELECT joins under a name, where it joins with USING: such a star is of that table only."""
    joins = select.args.get("joins") or []
    if not any(join.args.get("using") for join in joins):
        return None
    first = select.args.get("from_") or select.args.get("from")
    return next((each.this for each in (first, *joins) if each.this.alias_or_name == name), None)


def _columns_of(columns: Columns, select: Any, source: Any) -> Sequence[str]:
    return columns(_probe(select, None, source))


def _probe(select: Any, table: Any, source: Any = None) -> str:
    """A query without rows that has the columns of a star of a SELECT, or of one of its sources."""
    from sqlglot import exp

    star = exp.Column(this=exp.Star(), table=table.copy()) if table else exp.Star()
    probe = exp.Select(expressions=[star])
    if source is not None:
        probe = probe.from_(source.copy())
    for key in ("from_", "from", "joins", "laterals") if source is None else ():
        if part := select.args.get(key):
            probe.set(key, [each.copy() for each in part] if isinstance(part, list) else part.copy())
    clauses: list[Any] = []
    node = select
    while node is not None:
        clause = node.args.get("with_") or node.args.get("with")
        if clause is not None:
            clauses.insert(0, clause)
        elif isinstance(node, exp.With):
            clauses.insert(0, node)
        node = node.parent
    ctes = [cte for clause in dict.fromkeys(map(id, clauses)) for cte in _ctes(clauses, clause, select)]
    text = probe.sql(dialect="databricks")
    return f"WITH {', '.join(ctes)} {text} LIMIT 0" if ctes else f"{text} LIMIT 0"


def _ctes(clauses: Sequence[Any], wanted: int, select: Any) -> Iterator[str]:
    """The CTEs of a WITH that come before the SELECT, or all if it stands after it."""
    clause = next(each for each in clauses if id(each) == wanted)
    for cte in clause.expressions:
        if any(cte is above for above in _above(select)):
            return
        yield cte.sql(dialect="databricks")


def _above(node: Any) -> Iterator[Any]:
    while node is not None:
        yield node
        node = node.parent


def _all(select: Any) -> None:
    """GROUP BY ALL and ORDER BY ALL by what they stand for."""
    from sqlglot import exp

    group, order = select.args.get("group"), select.args.get("order")
    if group is not None and group.args.get("all"):
        keys = [each for each in map(_bare, select.expressions) if not _aggregates(each)]
        keys = [each.copy() for each in keys if not isinstance(each, exp.Literal)]
        select.set("group", exp.Group(expressions=keys) if keys else None)
    if order is not None and [each.name.upper() for each in order.expressions] == ["ALL"]:
        said = {key: value for key, value in order.expressions[0].args.items() if key != "this"}
        places = (exp.Literal.number(n + 1) for n in range(len(select.expressions)))
        select.set("order", exp.Order(expressions=[exp.Ordered(this=place, **said) for place in places]))


def _bare(item: Any) -> Any:
    from sqlglot import exp

    return item.this if isinstance(item, exp.Alias) else item


def _aggregates(item: Any) -> bool:
    from sqlglot import exp

    if item.find(exp.AggFunc, exp.Window):
        return True
    return any(call.name.lower() in _AGGREGATES for call in item.find_all(exp.Anonymous))


def _without_qualify(select: Any) -> Any:
    """QUALIFY as a filter around the query; its ORDER BY and LIMIT come after that."""
    from sqlglot import exp
    from sqlglot.transforms import eliminate_qualify

    if not select.args.get("qualify"):
        return select
    last = {key: select.args.get(key) for key in ("order", "limit", "offset") if select.args.get(key)}
    for key in last:
        select.set(key, None)
    parent = select.parent
    around = eliminate_qualify(select.copy() if parent is not None else select)
    for key, part in last.items():
        for column in part.find_all(exp.Column):
            column.set("table", None)
        around.set(key, part)
    return around

"""`x IN (SELECT …)` where the engine would answer wrongly or not at all, as EXISTS and CASE.

The engine knows true and not true of it, which will do where a WHERE asks for it, alone or with AND and OR.
Under a NOT, unknown counts (`3 NOT IN (1, NULL)`): the engine minds that of a NOT IN that stands alone, and
elsewhere takes rows that it must not take. In a list of columns, and in CASE, it has no IN with a subquery.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .errors import unsupported

_WORTH_A_LOOK = re.compile(r"\bin\s*\(\s*(select|with)\b", re.IGNORECASE)


def said_with_exists(query: str) -> str:
    """A query whose IN with subqueries the engine answers rightly; the same where it does already."""
    from sqlglot import exp, parse_one
    from sqlglot.errors import SqlglotError

    if not _WORTH_A_LOOK.search(query):
        return query
    try:
        tree = parse_one(query, dialect="databricks")
        found = [each for each in tree.find_all(exp.In) if each.args.get("query") and _is_wrong(each)]
        for each in sorted(found, key=lambda node: -sum(1 for _ in _above(node))):  # inner ones first
            each.replace(parse_one(_said(each), dialect="databricks"))
        return tree.sql(dialect="databricks") if found else query
    except SqlglotError:
        return query  # the engine says what is wrong with it


def _above(node: Any) -> Iterator[Any]:
    while (node := node.parent) is not None:
        yield node


def _is_wrong(node: Any) -> bool:
    """Whether the engine would not answer it rightly where it stands."""
    from sqlglot import exp

    if node.this.find(exp.AggFunc, exp.Window):
        return False
    negated = False
    among = isinstance(node.this, exp.Tuple)  # which the engine takes for one value
    for above in _above(node):
        if isinstance(above, exp.Not):
            if negated:
                return True
            negated = True
        elif isinstance(above, exp.Or):
            among = True
        elif isinstance(above, exp.Where):
            return negated and (among or bool(_outer(_query(node))) or not isinstance(node.parent, exp.Not))
        elif isinstance(above, (exp.Having, exp.Join, exp.Qualify)):
            return False
        elif not isinstance(above, (exp.And, exp.Paren)):
            return True
    return False


def _query(node: Any) -> Any:
    from sqlglot import exp

    found = node.args["query"]
    return found.this if isinstance(found, exp.Subquery) else found


def _outer(query: Any) -> set[str]:
    """What a subquery names that is not of its own: the tables around it."""
    from sqlglot import exp

    own = {each.alias_or_name.lower() for each in query.find_all(exp.Table, exp.Subquery, exp.Lateral)}
    own |= {each.name.lower() for each in query.find_all(exp.TableAlias)}
    columns = ([part.name.lower() for part in each.parts[:-1]] for each in query.find_all(exp.Column))
    return {parts[0] for parts in columns if parts and not own & set(parts)}


def _said(node: Any) -> str:
    """The same as a CASE over EXISTS, with NULL where it is not known."""
    from sqlglot import exp

    query = _query(node)
    if isinstance(node.this, exp.Tuple):
        return _of_several(node, query)
    if _outer(query):
        return _case(node.this.sql(dialect="databricks"), *_within(node, query))
    text, item = query.sql(dialect="databricks"), node.this.sql(dialect="databricks")
    source = f"SELECT 1 FROM ({text}) AS _q(_c)"  # noqa: S608 - as it was
    return _case(item, source, f"{source} WHERE _q._c = ({item})", f"{source} WHERE _q._c IS NULL")


def _case(item: str, some: str, same: str, unknown: str) -> str:
    return (
        f"CASE WHEN EXISTS ({same}) THEN true WHEN ({item}) IS NULL AND EXISTS ({some}) THEN NULL "
        f"WHEN EXISTS ({unknown}) THEN NULL ELSE false END"
    )


def _of_several(node: Any, query: Any) -> str:
    """`(a, b) IN (SELECT …)`: not known where no row is the same, and one may be."""
    if _outer(query):
        raise unsupported(f"{node.sql(dialect='databricks')[:200]}, here,")
    items = [each.sql(dialect="databricks") for each in node.this.expressions]
    names = [f"_c{index}" for index in range(len(items))]
    source = f"SELECT 1 FROM ({query.sql(dialect='databricks')}) AS _q({', '.join(names)}) WHERE"  # noqa: S608 - as it was
    same = [f"_q.{name} = ({item})" for name, item in zip(names, items, strict=True)]
    maybe = [
        f"({each} OR _q.{name} IS NULL OR ({item}) IS NULL)"
        for each, name, item in zip(same, names, items, strict=True)
    ]
    return (
        f"CASE WHEN EXISTS ({source} {' AND '.join(same)}) THEN true "
        f"WHEN EXISTS ({source} {' AND '.join(maybe)}) THEN NULL ELSE false END"
    )


def _within(node: Any, query: Any) -> tuple[str, str, str]:
    """Of a subquery that names tables around it, with the condition in it: it cannot be put into another."""
    from sqlglot import exp

    item = _qualified(node)
    own = {each.alias_or_name.lower() for each in query.find_all(exp.Table, exp.Subquery)}
    plain = isinstance(query, exp.Select) and not any(
        query.args.get(key) for key in ("group", "having", "limit", "offset", "qualify", "windows", "with_")
    )
    if item is None or not plain or query.find(exp.AggFunc, exp.Window) or own & _tables(item):
        raise unsupported(f"{node.sql(dialect='databricks')[:200]}, here,")
    value = query.expressions[0].unalias()
    some = query.copy()
    some.set("expressions", [exp.Literal.number(1)])
    some.set("distinct", None)
    conditions = (exp.EQ(this=exp.paren(value.copy()), expression=exp.paren(item)), value.is_(exp.null()))
    return (
        some.sql(dialect="databricks"),
        *(some.where(each).sql(dialect="databricks") for each in conditions),
    )


def _tables(item: Any) -> set[str]:
    from sqlglot import exp

    return {column.table.lower() for column in item.find_all(exp.Column)}


def _qualified(node: Any) -> Any:
    """What is looked for, its columns with the name of their table; None if that cannot be told."""
    from sqlglot import exp

    select, item = node.find_ancestor(exp.Select), node.this.copy()
    source = select.args.get("from_") or select.args.get("from")
    sources = {
        each.this.alias_or_name.lower() for each in (source, *(select.args.get("joins") or ())) if each
    }
    several = len(sources) != 1 or select.args.get("laterals")
    for column in list(item.find_all(exp.Column)):
        if column.table and column.parts[0].name.lower() not in sources:  # such as a field of a struct
            return None
        if not column.table and (several or not source.this.alias_or_name):
            return None
        if not column.table:
            column.set("table", exp.to_identifier(source.this.alias_or_name, quoted=True))
    return item

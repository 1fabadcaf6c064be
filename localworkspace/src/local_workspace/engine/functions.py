"""Functions of Databricks that the engine lacks, said with those that it has.

zip_with, transform_keys, transform_values, charindex, `decode` with cases, LIKE ANY and LIKE ALL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

WORTH_A_LOOK = re.compile(
    r"\b(zip_with|transform_keys|transform_values|charindex|decode)\s*\(|\blike\s+(any|all|some)\b",
    re.IGNORECASE,
)


def said_with_others(query: str) -> str:
    """A query without the functions that the engine lacks; the same where it has none of them."""
    from sqlglot import exp, parse_one
    from sqlglot.errors import SqlglotError

    if not WORTH_A_LOOK.search(query):
        return query
    try:
        tree = parse_one(query, dialect="databricks")
        changed = "charindex" in query.lower()  # which the parser takes for what it is
        # From within: what is put into another keeps its place.
        for node in reversed(list(tree.find_all(exp.Anonymous, exp.DecodeCase, exp.Like, exp.ILike))):
            said = _said(node)
            if said is not None:
                node.replace(parse_one(said, dialect="databricks"))
                changed = True
        return tree.sql(dialect="databricks") if changed else query
    except SqlglotError:
        return query  # the engine says what is wrong with it


def _said(node: Any) -> str | None:
    from sqlglot import exp

    if isinstance(node, exp.DecodeCase):
        return _decode([each.sql(dialect="databricks") for each in node.expressions])
    if isinstance(node, exp.Anonymous):
        known = _CALLS.get(node.name.lower())
        return known(*node.expressions) if known and isinstance(node.expressions[-1], exp.Lambda) else None
    return _like(node)


def _like(node: Any) -> str | None:
    """`x LIKE ANY ('a%', 'b%')` as an OR, `LIKE ALL` as an AND."""
    from sqlglot import exp

    kind = node.expression
    if not isinstance(kind, (exp.Any, exp.All)) or not isinstance(kind.this, (exp.Tuple, exp.Paren)):
        return None
    patterns = kind.this.expressions if isinstance(kind.this, exp.Tuple) else [kind.this.this]
    verb = ("NOT " if node.args.get("negate") else "") + ("ILIKE" if isinstance(node, exp.ILike) else "LIKE")
    each = (f"({node.this.sql(dialect='databricks')}) {verb} {p.sql(dialect='databricks')}" for p in patterns)
    return f"({(' OR ' if isinstance(kind, exp.Any) else ' AND ').join(each)})"


def _decode(items: list[str]) -> str:
    """`decode(x, 1, 'a', 'b')`: NULL is like NULL in it."""
    cases = " ".join(
        f"WHEN ({items[0]}) <=> ({items[at]}) THEN {items[at + 1]}" for at in range(1, len(items) - 1, 2)
    )
    other = items[-1] if len(items) % 2 == 0 else "NULL"
    return f"CASE {cases} ELSE {other} END"


def _zip_with(one: Any, other: Any, function: Any) -> str:
    # Of what is no column, the engine names the fields by their places.
    sides = ", ".join(f"transform({each.sql(dialect='databricks')}, _e -> _e)" for each in (one, other))
    return f"transform(arrays_zip({sides}), {_of_one(function, ('`0`', '`1`'))})"


def _transform_values(of: Any, function: Any) -> str:
    text = of.sql(dialect="databricks")
    return f"map_from_arrays(map_keys({text}), transform(map_entries({text}), {_of_entry(function)}))"


def _transform_keys(of: Any, function: Any) -> str:
    text = of.sql(dialect="databricks")
    return f"map_from_arrays(transform(map_entries({text}), {_of_entry(function)}), map_values({text}))"


def _of_entry(function: Any) -> str:
    return _of_one(function, ("key", "value"))


def _of_one(function: Any, fields: tuple[str, str]) -> str:
    """A lambda of two parameters as one of a struct with these fields."""
    from sqlglot import exp, parse_one

    text = function.sql(dialect="databricks")
    own = next(name for n in count() if (name := f"_p{n}") not in text)  # one may stand in another
    given = {
        each.name.lower(): f"{own}.{field}" for each, field in zip(function.expressions, fields, strict=False)
    }

    def put(node: Any) -> Any:
        if isinstance(node, exp.Column):  # so it stands in what has been put in its place already
            head, rest = node.parts[0].name.lower(), node.parts[1:]
        elif isinstance(node, exp.Identifier) and not isinstance(node.parent, exp.Column):
            head, rest = node.name.lower(), []
        else:
            return node
        field = isinstance(node.parent, exp.Dot) and node.arg_key == "expression"
        if field or head not in given:
            return node
        said = ".".join([given[head], *(each.sql(dialect="databricks") for each in rest)])
        return parse_one(said, dialect="databricks")

    return f"{own} -> {function.this.copy().transform(put).sql(dialect='databricks')}"


_CALLS: Mapping[str, Callable[..., str]] = {
    "zip_with": _zip_with,
    "transform_values": _transform_values,
    "transform_keys": _transform_keys,
}

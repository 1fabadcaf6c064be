"""JOIN … USING as JOIN … ON. In the engine the columns joined by are of no table: `a.k` is not found, and
`a.*` leaves them out without a word. On Databricks they are columns of both tables as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .lexer import Token

Source = Any
ColumnsOf = Callable[[Source], Sequence[str]]


def qualified(tokens: Sequence[Token]) -> bool:
    """Whether a statement joins with USING and names columns by their tables, all or those joined by."""
    joined: set[str] = set()
    for index, token in enumerate(tokens[:-2]):
        if token.upper == "USING" and tokens[index + 1].text == "(":
            for name in tokens[index + 2 :]:
                if name.text == ")":
                    break
                joined.add(name.name.lower())
    places = range(1, len(tokens) - 1)
    return bool(joined) and any(
        tokens[at].text == "."
        and tokens[at - 1].is_name
        and (tokens[at + 1].text == "*" or tokens[at + 1].name.lower() in joined)
        for at in places
    )


def without_using(select: Any, columns: ColumnsOf) -> None:
    """Change a SELECT in place; its stars must have been written out."""
    from sqlglot import exp

    joins = select.args.get("joins") or []
    if not any(join.args.get("using") for join in joins):
        return
    first = (select.args.get("from_") or select.args.get("from")).this
    seen = [(first.alias_or_name, _lower(columns(first)))]
    merged: dict[str, Any] = {}
    for join in joins:
        own = join.this.alias_or_name
        conditions = []
        for key in join.args.get("using") or ():
            name = key.name
            left = merged.get(name.lower()) or _owner(seen, name)
            right = exp.column(name, table=own, quoted=True)
            conditions.append(exp.EQ(this=left.copy(), expression=right))
            merged[name.lower()] = _merged(join.side, left, right)
        if conditions:
            join.set("using", None)
            join.set("on", exp.and_(*conditions, copy=False))
        seen.append((own, _lower(columns(join.this))))
    _name_owners(select, merged)


def _lower(names: Sequence[str]) -> set[str]:
    return {name.lower() for name in names}


def _owner(seen: Sequence[tuple[str, set[str]]], name: str) -> Any:
    from sqlglot import exp

    table = next((table for table, names in seen if name.lower() in names), seen[0][0])
    return exp.column(name, table=table, quoted=True)


def _merged(side: str, left: Any, right: Any) -> Any:
    from sqlglot import exp

    if side == "FULL":
        return exp.Coalesce(this=left.copy(), expressions=[right.copy()])
    return right.copy() if side == "RIGHT" else left.copy()


def _name_owners(select: Any, merged: dict[str, Any]) -> None:
    """Say whose column a plain name is, but for names that ORDER BY takes from the SELECT's own list."""
    from sqlglot import exp

    for column in list(select.find_all(exp.Column)):
        owner = merged.get(column.name.lower())
        if owner is None or column.args.get("table") or column.parent_select is not select:
            continue
        if column.find_ancestor(exp.Order, exp.Select) is not select:
            continue
        plain = column in select.expressions and isinstance(owner, exp.Coalesce)
        column.replace(exp.alias_(owner.copy(), column.name, quoted=True) if plain else owner.copy())

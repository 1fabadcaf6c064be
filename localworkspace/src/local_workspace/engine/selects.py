"""Transforms of a SELECT: stars, JOIN USING, GROUP BY ALL, ORDER BY ALL, QUALIFY, and sources of lambdas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlglot import exp
from sqlglot.dialects import Databricks, Spark
from sqlglot.transforms import eliminate_qualify

# Returns the names of the columns of a query; Sail is asked, for it knows all that is in scope.
Columns = Callable[[str], Sequence[str]]
# Aggregates that sqlglot has no class for.
_AGGREGATES = {
    "every", "some", "bool_or", "bool_and", "kurtosis", "skewness", "percentile", "mode", "product",
}  # fmt: skip
_ALL_ROWS = 2**63 - 1


def sql_of(tree: Any) -> str:
    """Generate the SQL of a tree for Sail."""
    text: str = tree.sql(dialect=_Sail, normalize_functions="lower")
    return text


class _Sail(Databricks):  # type: ignore[misc] # sqlglot leaves it untyped
    """Spark's SQL without `LIKE ANY` and `decode` with cases; sqlglot writes them as OR and CASE."""

    class Generator(Spark.Generator):  # type: ignore[misc] # sqlglot leaves it untyped
        """Spark's generator."""

        SUPPORTS_LIKE_QUANTIFIERS = False
        SUPPORTS_DECODE_CASE = False


def plain_selects(tree: Any, columns: Columns) -> Any:
    """Stars with EXCEPT or REPLACE, JOIN USING, GROUP BY ALL, ORDER BY ALL, QUALIFY; inner queries first."""
    for select in list(_inner_first(tree)):
        joined = _joined_by(select) if _names_joined(select) else set()
        _expand_stars(select, columns, using=bool(joined))
        if joined:
            _expand_using(select, columns)
        _expand_all(select)
        plain = _without_qualify(select, columns)
        if select is tree:
            tree = plain
        elif plain is not select:
            select.replace(plain)
    return tree


def _inner_first(node: Any) -> Iterator[Any]:
    """Yield every SELECT after those within it, and those of a WITH before the others."""
    for child in sorted(node.iter_expressions(), key=lambda each: not isinstance(each, exp.With)):
        yield from _inner_first(child)
    if isinstance(node, exp.Select):
        yield node


def _expand_stars(select: Any, columns: Columns, *, using: bool) -> None:
    """Write out the stars of which the columns must be known."""
    found = []
    for each in select.expressions:
        star: Any = each.this if isinstance(each, exp.Column) else each
        is_star = isinstance(star, exp.Star)
        changed = is_star and any(star.args.get(key) for key in ("except_", "except", "replace"))
        if not is_star or not (changed or using or select.args.get("qualify")):
            found.append(each)
            continue
        table = each.args.get("table") if isinstance(each, exp.Column) else None
        source = _source(select, table.name) if table is not None else None
        left_out = {col.name.lower() for col in star.args.get("except_") or star.args.get("except") or ()}
        replaced = {col.alias.lower(): col for col in star.args.get("replace") or ()}
        found += [
            replaced.get(name.lower()) or exp.column(name, table=table.copy() if table else None, quoted=True)
            for name in columns(_probe(select, None if source is not None else table, source))
            if name.lower() not in left_out
        ]
    select.set("expressions", found)


def _from(select: Any) -> Any:
    return select.args.get("from_") or select.args.get("from")


def _source(select: Any, name: str) -> Any:
    """Return what a SELECT with JOIN USING joins under a name: such a star is of that table only."""
    joins = select.args.get("joins") or []
    if not _joined_by(select):
        return None
    return next((each.this for each in (_from(select), *joins) if each.this.alias_or_name == name), None)


_SOURCES = ("from_", "from", "joins", "laterals")


def _probe(select: Any, table: Any, source: Any = None, items: Sequence[Any] = ()) -> str:
    """Return a query without rows that has the columns of a star of a SELECT, or of one of its sources, or
    those of `items` in its place.
    """
    star = exp.Column(this=exp.Star(), table=table.copy()) if table else exp.Star()
    probe = exp.Select(expressions=[item.copy() for item in items] or [star])
    if source is not None:
        probe = probe.from_(source.copy())
    for key in (*_SOURCES, *(("where", "group", "having", "windows") if items else ())):
        if source is not None:
            break
        if part := select.args.get(key):
            probe.set(key, [each.copy() for each in part] if isinstance(part, list) else part.copy())
    above = [select, *ancestors(select)]
    clauses = [node.args.get("with_") or node.args.get("with") for node in above]
    clauses += [node for node in above if isinstance(node, exp.With)]
    ctes: list[str] = []
    for clause in {id(each): each for each in reversed(clauses) if each is not None}.values():
        for cte in clause.expressions:
            if any(cte is node for node in above):  # it is around the SELECT, which sees no later ones
                break
            ctes.append(sql_of(cte))
    return f"{'WITH ' if ctes else ''}{', '.join(ctes)} {sql_of(probe)} LIMIT 0".lstrip()


def _joined_by(select: Any) -> set[str]:
    """Return the columns that a SELECT joins by with USING."""
    return {
        key.name.lower() for join in select.args.get("joins") or () for key in join.args.get("using") or ()
    }


def _names_joined(select: Any) -> bool:
    """Tell whether a SELECT joins with USING and takes these columns, or all, by the name of a table.

    In Sail they are of no table: `a.k` is not found, and `a.*` leaves them out without a word. On Databricks
    they are columns of both tables as well.
    """
    joined = _joined_by(select)
    return bool(joined) and any(
        column.args.get("table") and (isinstance(column.this, exp.Star) or column.name.lower() in joined)
        for column in select.find_all(exp.Column)
    )


def _expand_using(select: Any, columns: Columns) -> None:
    """Write JOIN … USING as JOIN … ON; the stars have been written out."""

    def names_of(source: Any) -> set[str]:
        return {name.lower() for name in columns(_probe(select, None, source))}

    first = _from(select).this
    tables = [(first.alias_or_name, names_of(first))]
    merged: dict[str, Any] = {}
    for join in select.args["joins"]:
        own = join.this.alias_or_name
        conditions = []
        for key in join.args.get("using") or ():
            low = key.name.lower()
            owner = next((table for table, names in tables if low in names), tables[0][0])
            left = merged.get(low) or exp.column(key.name, table=owner, quoted=True)
            right = exp.column(key.name, table=own, quoted=True)
            conditions.append(exp.EQ(this=left.copy(), expression=right))
            merged[low] = right.copy() if join.side == "RIGHT" else left.copy()
            if join.side == "FULL":
                merged[low] = exp.Coalesce(this=left.copy(), expressions=[right.copy()])
        if conditions:
            join.set("using", None)
            join.set("on", exp.and_(*conditions, copy=False))
        tables.append((own, names_of(join.this)))
    _name_owners(select, merged)


def _name_owners(select: Any, merged: dict[str, Any]) -> None:
    """Say whose column a plain name is, but for names that ORDER BY takes from the SELECT's own list."""
    for column in list(select.find_all(exp.Column)):
        owner = merged.get(column.name.lower())
        if owner is None or column.args.get("table") or column.parent_select is not select:
            continue
        if column.find_ancestor(exp.Order, exp.Select) is not select:
            continue
        plain = column in select.expressions and isinstance(owner, exp.Coalesce)
        column.replace(exp.alias_(owner.copy(), column.name, quoted=True) if plain else owner.copy())


def _expand_all(select: Any) -> None:
    """Write GROUP BY ALL and ORDER BY ALL as what they stand for."""
    group, order = select.args.get("group"), select.args.get("order")
    if group is not None and group.args.get("all"):
        items = [each.this if isinstance(each, exp.Alias) else each for each in select.expressions]
        keys = [each.copy() for each in items if not _aggregates(each) and not isinstance(each, exp.Literal)]
        select.set("group", exp.Group(expressions=keys) if keys else None)
    if order is not None and [each.name.upper() for each in order.expressions] == ["ALL"]:
        kind = {key: value for key, value in order.expressions[0].args.items() if key != "this"}
        places = (exp.Literal.number(n + 1) for n in range(len(select.expressions)))
        select.set("order", exp.Order(expressions=[exp.Ordered(this=place, **kind) for place in places]))


def _aggregates(item: Any) -> bool:
    if item.find(exp.AggFunc, exp.Window):
        return True
    return any(call.name.lower() in _AGGREGATES for call in item.find_all(exp.Anonymous))


def _without_qualify(select: Any, columns: Columns) -> Any:
    """Write QUALIFY as a filter around the query; its ORDER BY and LIMIT come after that.

    Columns keep the names that they have without it.
    """
    if not select.args.get("qualify"):
        return select
    unnamed = [item for item in select.expressions if not isinstance(item, (exp.Alias, exp.Column))]
    names = columns(_probe(select, None, items=unnamed)) if unnamed else ()
    for item, name in zip(unnamed, names, strict=True):
        item.replace(exp.alias_(item.copy(), name, quoted=True))
    last = {key: select.args.get(key) for key in ("order", "limit", "offset") if select.args.get(key)}
    for key in last:
        select.set(key, None)
    around = eliminate_qualify(select.copy() if select.parent is not None else select)
    for key, part in last.items():
        for column in part.find_all(exp.Column):
            column.set("table", None)
        around.set(key, part)
    return around


def ancestors(node: Any) -> Iterator[Any]:
    """Yield what a node is in, the nearest first."""
    while (node := node.parent) is not None:
        yield node


def unpushed_lambdas(tree: Any, *, filtered: bool) -> Any:
    """Read what a lambda needs through a LIMIT, where a filter with a lambda might reach a table's scan.

    Sail pushes filters down to the scan, where it no longer finds the columns that a lambda function takes.
    """
    for select in reversed(list(tree.find_all(exp.Select))):  # inner ones first
        own = [each for each in select.find_all(exp.Lambda) if each.parent_select is select]
        in_filter = any(
            each.find_ancestor(exp.Where, exp.Join, exp.Having, exp.Select) is not select for each in own
        )
        if not own or not (filtered or in_filter or select.parent is not None):
            continue
        for clause in (_from(select), *(select.args.get("joins") or ())):
            source = clause.this if clause is not None else None
            if not isinstance(source, (exp.Table, exp.Subquery)) or source.args.get("pivots"):
                continue
            if isinstance(source, exp.Table) and not isinstance(source.this, exp.Identifier):  # a function
                continue
            alias, inner = source.args.get("alias"), source.copy()
            if isinstance(source, exp.Table):
                inner.set("alias", None)
                alias = alias or exp.TableAlias(this=exp.to_identifier(source.name, quoted=True))
            rows = exp.select("*").from_(inner).limit(_ALL_ROWS)
            source.replace(exp.Subquery(this=rows, alias=alias.copy() if alias else None))
    return tree

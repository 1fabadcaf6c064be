"""Which tables and functions a statement reads, by its syntax tree. Pure; sqlglot is imported when needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from databricks_rlm_agent.domain.workflow.model import Kind

Parts = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a statement reads: parts of names as it has them. ``changes`` are targets that no first word tells
    (``WITH … INSERT INTO t``). ``problem`` says why it cannot be told.
    """

    tables: tuple[Parts, ...] = ()
    functions: tuple[Parts, ...] = ()
    changes: tuple[tuple[Kind, Parts], ...] = ()
    problem: str | None = None


def reading_of(text: str) -> Reading:
    """Read one statement that may read tables."""
    tree = _tree(text)
    if isinstance(tree, str):
        return Reading(problem=tree)
    targets = list(_targets(tree))
    skipped = {id(table) for _, table in targets}
    tables = [_parts(table) for table in _tables(tree) if id(table) not in skipped]
    return Reading(
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


def _targets(tree: Any) -> Iterator[tuple[Kind, Any]]:
    """The tables that the statement and those inside it write to."""
    from sqlglot import exp

    kinds: tuple[tuple[Any, Kind], ...] = (
        (exp.Insert, Kind.INSERT),
        (exp.Merge, Kind.MERGE),
        (exp.Update, Kind.UPDATE),
        (exp.Delete, Kind.DELETE),
        (exp.Create, Kind.CREATE),
        (exp.Cache, Kind.SESSION),
    )
    for node in tree.walk():
        kind = next((kind for each, kind in kinds if isinstance(node, each)), None)
        table = node.this.find(exp.Table) if kind and isinstance(node.this, exp.Expr) else None
        if kind and table is not None:
            yield Kind.REPLACE if node.args.get("overwrite") else kind, table


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

"""Catalog, schema, table and column listings with the columns that JDBC defines and the connector returns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from local_workspace.engine import CatalogTree, TableInfo

# java.sql.Types, by SQL type name.
_JDBC = {
    "tinyint": -6,
    "smallint": 5,
    "int": 4,
    "bigint": -5,
    "float": 6,
    "double": 8,
    "decimal": 3,
    "string": 12,
    "boolean": 16,
    "date": 91,
    "timestamp": 93,
    "timestamp_ntz": 93,
    "binary": -2,
    "array": 2003,
    "struct": 2002,
    "map": 2000,
}


def catalogs(tree: CatalogTree) -> Any:
    """One row a catalog."""
    return _table(["TABLE_CAT"], [(name,) for name in sorted(tree.catalogs())])


def schemas(tree: CatalogTree, catalog: str | None, schema: str | None) -> Any:
    """One row a schema that the patterns let through."""
    rows = [(name, each) for each, name in _schemas(tree, catalog, schema)]
    return _table(["TABLE_SCHEM", "TABLE_CATALOG"], rows)


def tables(
    tree: CatalogTree, catalog: str | None, schema: str | None, table: str | None, kinds: list[str] | None
) -> Any:
    """One row a table or view."""
    rows = [
        (info.name.catalog, info.name.schema, info.name.name, info.kind, info.comment or "", *[None] * 5)
        for info in _tables(tree, catalog, schema, table)
        if not kinds or info.kind in kinds
    ]
    names = [
        "TABLE_CAT",
        "TABLE_SCHEM",
        "TABLE_NAME",
        "TABLE_TYPE",
        "REMARKS",
        "TYPE_CAT",
        "TYPE_SCHEM",
        "TYPE_NAME",
        "SELF_REFERENCING_COL_NAME",
        "REF_GENERATION",
    ]
    return _table(names, rows)


def columns(
    tree: CatalogTree, catalog: str | None, schema: str | None, table: str | None, column: str | None
) -> Any:
    """One row a column."""
    rows: list[tuple[Any, ...]] = []
    for info in _tables(tree, catalog, schema, table):
        for position, each in enumerate(info.columns):
            if _matches(each.name, column):
                code = _JDBC.get(re.split(r"[(<]", each.type)[0], 1111)
                rows.append(
                    (info.name.catalog, info.name.schema, info.name.name, each.name, code, each.type.upper(),
                     int(each.nullable), each.comment or "", each.default, position,
                     "YES" if each.nullable else "NO")
                )  # fmt: skip
    names = [
        "TABLE_CAT",
        "TABLE_SCHEM",
        "TABLE_NAME",
        "COLUMN_NAME",
        "DATA_TYPE",
        "TYPE_NAME",
        "NULLABLE",
        "REMARKS",
        "COLUMN_DEF",
        "ORDINAL_POSITION",
        "IS_NULLABLE",
    ]
    return _table(names, rows, integers={"DATA_TYPE", "NULLABLE", "ORDINAL_POSITION"})


def _schemas(tree: CatalogTree, catalog: str | None, schema: str | None) -> Iterator[tuple[str, str]]:
    for each in sorted(tree.catalogs()):
        if _matches(each, catalog):
            yield from ((each, name) for name in tree.schemas(each) if _matches(name, schema))


def _tables(
    tree: CatalogTree, catalog: str | None, schema: str | None, table: str | None
) -> Iterator[TableInfo]:
    for each, name in _schemas(tree, catalog, schema):
        for found in tree.tables(each, name):
            info = tree.table(each, name, found) if _matches(found, table) else None
            if info is not None:
                yield info


def _matches(name: str, pattern: str | None) -> bool:
    """Whether a JDBC pattern (`%` any text, `_` any character, backslash escapes) lets the name through."""
    if not pattern or pattern == "%":
        return True
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    spelled = "".join({"%": ".*", "_": "."}.get(part) or re.escape(part[-1]) for part in parts)
    return re.fullmatch(spelled, name, re.IGNORECASE) is not None


def _table(names: list[str], rows: list[tuple[Any, ...]], integers: set[str] | None = None) -> Any:
    import pyarrow as pa

    kinds = [pa.int32() if name in (integers or ()) else pa.string() for name in names]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return pa.Table.from_arrays(
        [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)], names=names
    )

"""Listings as drivers ask for them: LIST of files, and SHOW SCHEMAS, TABLES and COLUMNS of whole catalogs.

The latter are how clients of the Statement Execution API ask for metadata, Databricks' JDBC driver and SQL
kernel among them; the names of columns are those that they read.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import information_schema
from .catalog import CatalogTree, ColumnInfo, TableInfo
from .errors import EngineError, catalog_not_found
from .session import CatalogSession, StatementResult
from .show import fits, rows_of, strings
from .statements import Reader, Statement

_SYSTEM = "system"
_TABLES = {
    **strings("namespace", "tableName"), "isTemporary": "bool",
    **strings("information", "catalogName", "tableType", "remarks"),
}  # fmt: skip
_COLUMNS = {
    **strings("col_name", "catalogName", "namespace", "tableName", "columnType"),
    **dict.fromkeys(("columnSize", "decimalDigits", "radix"), "int32"), **strings("isNullable", "remarks"),
    "ordinalPosition": "int32", **strings("isAutoIncrement", "isGenerated"),
}  # fmt: skip


def list_folder(session: CatalogSession, statement: Statement) -> StatementResult:
    """LIST 'path' [LIMIT n]. The path is of this machine and within bounds already."""
    import pyarrow as pa

    reader = Reader(statement, 1)
    path = reader.string()
    limit = int(reader.rest()) if reader.accept("LIMIT") and reader.rest().isdecimal() else None
    if path is None or not (reader.done or limit is not None):
        raise EngineError.of("PARSE_SYNTAX_ERROR", "Syntax error: use LIST 'path' [LIMIT n].", "42601")
    shown = Path("/", Path(path).relative_to(session.tree.root))
    try:
        entries = sorted(Path(path).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        text = f"The path {shown} does not exist, or is no folder."
        raise EngineError.of("PATH_NOT_FOUND", text, "42K03") from None
    types = {**strings("path", "name"), "size": "int64", "modification_time": pa.timestamp("us", "UTC")}
    return rows_of(types, [_row(shown, entry) for entry in entries[:limit]])


def _row(folder: Path, entry: Path) -> tuple[str, str, int, datetime.datetime]:
    found, end = entry.stat(), "/" if entry.is_dir() else ""
    changed = datetime.datetime.fromtimestamp(found.st_mtime, datetime.UTC)
    return f"{folder / entry.name}{end}", f"{entry.name}{end}", 0 if end else found.st_size, changed


def schemas(session: CatalogSession, statement: Statement) -> StatementResult:
    """SHOW SCHEMAS IN ALL CATALOGS [LIKE pattern]."""
    catalogs, reader = _catalogs(session.tree, statement)
    _, _, pattern = _patterns(reader)
    found = [(name, catalog) for catalog in catalogs for name in _schemas(session.tree, catalog)]
    rows = [row for row in found if fits(row[0], pattern)]
    return rows_of(strings("databaseName", "catalog"), rows)


def tables(session: CatalogSession, statement: Statement) -> StatementResult:
    """SHOW TABLES IN CATALOG c | ALL CATALOGS [SCHEMA LIKE pattern] [LIKE pattern]."""
    catalogs, reader = _catalogs(session.tree, statement)
    schema, _, pattern = _patterns(reader)
    rows = [
        (info.name.schema, info.name.name, False, None, info.name.catalog, info.kind, info.comment)
        for info in _infos(session.tree, catalogs, schema, pattern)
    ]
    return rows_of(_TABLES, rows)


def columns(session: CatalogSession, statement: Statement) -> StatementResult:
    """SHOW COLUMNS IN CATALOG c | ALL CATALOGS [SCHEMA LIKE p] [TABLE LIKE p] [LIKE p]."""
    catalogs, reader = _catalogs(session.tree, statement)
    schema, table, pattern = _patterns(reader)
    rows = [
        _column(info, column, position)
        for info in _infos(session.tree, catalogs, schema, table)
        for position, column in enumerate(info.columns, start=1)
        if fits(column.name, pattern)
    ]
    return rows_of(_COLUMNS, rows)


def _column(info: TableInfo, column: ColumnInfo, position: int) -> tuple[Any, ...]:
    exact = re.fullmatch(r"decimal\((\d+),\s*(\d+)\)", column.type, re.IGNORECASE)
    size, digits, radix = (int(exact[1]), int(exact[2]), 10) if exact else (None, None, None)
    return (
        column.name, info.name.catalog, info.name.schema, info.name.name, column.type.upper(), size, digits,
        radix, str(column.nullable).lower(), column.comment, position, "NO", "NO",
    )  # fmt: skip


def _catalogs(tree: CatalogTree, statement: Statement) -> tuple[list[str], Reader]:
    """Return the catalogs that a statement asks for, and the reader after them. Raises `EngineError`."""
    reader = Reader(statement, 3)
    if reader.accept("ALL", "CATALOGS"):
        return [*tree.catalogs(), _SYSTEM], reader
    reader.accept("CATALOG")
    name = reader.name()[-1].lower()
    if name != _SYSTEM and not tree.has_catalog(name):
        raise catalog_not_found(name)
    return [name], reader


def _patterns(reader: Reader) -> tuple[str | None, str | None, str | None]:
    """Return the patterns of SCHEMA LIKE, TABLE LIKE and LIKE. Raises `EngineError` on anything else."""
    schema = reader.string() if reader.accept("SCHEMA", "LIKE") else None
    table = reader.string() if reader.accept("TABLE", "LIKE") else None
    last = reader.string() if reader.accept("LIKE") else None
    if not reader.done:
        raise EngineError.of("PARSE_SYNTAX_ERROR", f"Syntax error at or near {reader.rest()!r}.", "42601")
    return schema, table, last


def _schemas(tree: CatalogTree, catalog: str) -> list[str]:
    return [*([] if catalog == _SYSTEM else tree.schemas(catalog)), information_schema.SCHEMA]


def _infos(
    tree: CatalogTree, catalogs: list[str], schema: str | None, table: str | None
) -> Iterator[TableInfo]:
    for catalog in catalogs:
        for name in _schemas(tree, catalog):
            if fits(name, schema):
                inner = name == information_schema.SCHEMA
                found = information_schema.infos(catalog) if inner else tree.infos(catalog, name)
                yield from (info for info in found if fits(info.name.name, table))

"""SHOW and DESCRIBE, answered from the folder tree: the engine knows only what its session has met."""

from __future__ import annotations

import datetime
import fnmatch
import json
from typing import TYPE_CHECKING, Any

from .catalog import TableInfo
from .errors import table_not_found
from .lexer import quote
from .literals import string_literal
from .names import TableName
from .statements import Handler, Reader, Statement
from .subqueries import as_recorded

if TYPE_CHECKING:
    from .session import CatalogSession


def _rows(types: dict[str, Any], rows: list[tuple[Any, ...]]) -> dict[str, Any]:
    """A result with these columns (name to pyarrow type) and rows."""
    import pyarrow as pa

    columns = list(zip(*rows, strict=True)) if rows else [()] * len(types)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types.values(), strict=True)]
    return {"table": pa.Table.from_arrays(arrays, names=list(types))}


def _strings(*names: str) -> dict[str, Any]:
    import pyarrow as pa

    return {name: pa.string() for name in names}


def _matching(names: list[str], reader: Reader) -> list[str]:
    """The names that a trailing [LIKE] 'pattern' lets through (`*` any text, `|` or)."""
    reader.accept("LIKE")
    pattern = reader.string()
    if pattern is None:
        return names
    parts = [part.strip().lower().replace("%", "*") for part in pattern.split("|")]
    return [name for name in names if any(fnmatch.fnmatchcase(name, part) for part in parts)]


def catalogs(session: CatalogSession, statement: Statement) -> dict[str, Any]:
    """SHOW CATALOGS [LIKE]."""
    names = _matching(sorted(session.tree.catalogs()), Reader(statement, 2))
    return _rows(_strings("catalog"), [(name,) for name in names])


def schemas(session: CatalogSession, statement: Statement) -> dict[str, Any]:
    """SHOW SCHEMAS [IN catalog] [LIKE]."""
    reader = Reader(statement, 2)
    inside = reader.accept("IN") or reader.accept("FROM")
    catalog = reader.name()[-1].lower() if inside else session.namespace.catalog
    return _rows(
        _strings("databaseName"), [(name,) for name in _matching(session.tree.schemas(catalog), reader)]
    )


def _schema_after_in(session: CatalogSession, reader: Reader) -> tuple[str, str]:
    if reader.accept("IN") or reader.accept("FROM"):
        return session.namespace.schema_of(reader.name())
    return session.namespace.catalog, session.namespace.schema


def tables(session: CatalogSession, statement: Statement) -> dict[str, Any]:
    """SHOW TABLES [IN schema] [LIKE]."""
    import pyarrow as pa

    reader = Reader(statement, 2)
    catalog, schema = _schema_after_in(session, reader)
    names = _matching(session.tree.tables(catalog, schema), reader)
    types = {"database": pa.string(), "tableName": pa.string(), "isTemporary": pa.bool_()}
    return _rows(types, [(schema, name, False) for name in names])


def views(session: CatalogSession, statement: Statement) -> dict[str, Any]:
    """SHOW VIEWS [IN schema] [LIKE]."""
    import pyarrow as pa

    reader = Reader(statement, 2)
    catalog, schema = _schema_after_in(session, reader)
    tree = session.tree
    found = [name for name in tree.tables(catalog, schema) if tree.view(TableName(catalog, schema, name))]
    types = {
        "namespace": pa.string(),
        "viewName": pa.string(),
        "isTemporary": pa.bool_(),
        "isMaterialized": pa.bool_(),
    }
    return _rows(types, [(schema, name, False, False) for name in _matching(found, reader)])


def _info(session: CatalogSession, parts: tuple[str, ...]) -> TableInfo:
    name = session.namespace.table(parts)
    info = session.tree.info(name)
    if info is None:
        raise table_not_found(name.sql)
    return info


def columns(session: CatalogSession, statement: Statement) -> dict[str, Any]:
    """SHOW COLUMNS IN table."""
    info = _info(session, Reader(statement, 3).name())
    return _rows(_strings("col_name"), [(column.name,) for column in info.columns])


def properties(session: CatalogSession, statement: Statement) -> dict[str, Any]:
    """SHOW TBLPROPERTIES table [(key)]."""
    info = _info(session, Reader(statement, 2).name())
    return _rows(_strings("key", "value"), sorted(info.properties.items()))


def create_text(session: CatalogSession, statement: Statement) -> dict[str, Any]:
    """SHOW CREATE TABLE table."""
    info = _info(session, Reader(statement, 3).name())
    if info.kind == "VIEW":
        return _rows(_strings("createtab_stmt"), [(f"CREATE VIEW {info.name} AS {info.view_definition}",)])
    lines = [
        f"  {quote(column.name)} {column.type.upper()}"
        + ("" if column.nullable else " NOT NULL")
        + (f" COMMENT {string_literal(column.comment)}" if column.comment else "")
        for column in info.columns
    ]
    text = f"CREATE TABLE {info.name} (\n" + ",\n".join(lines) + ")\nUSING delta\n"
    if info.partition_columns:
        text += f"PARTITIONED BY ({', '.join(info.partition_columns)})\n"
    if info.comment:
        text += f"COMMENT {string_literal(info.comment)}\n"
    if info.properties:
        pairs = (f"  {string_literal(k)} = {string_literal(v)}" for k, v in sorted(info.properties.items()))
        text += "TBLPROPERTIES (\n" + ",\n".join(pairs) + ")\n"
    return _rows(_strings("createtab_stmt"), [(text,)])


_OF_THE_ENGINE = {"QUERY", "FUNCTION", "CATALOG", "SCHEMA", "DATABASE", "NAMESPACE", "SELECT", "WITH"}


def describe(session: CatalogSession, statement: Statement) -> str | dict[str, Any]:
    """DESCRIBE [TABLE] [EXTENDED | DETAIL | HISTORY] table."""
    reader = Reader(statement, 1)
    if reader.accept("DETAIL"):
        return _detail(session, _info(session, reader.name()))
    if reader.accept("HISTORY"):
        return _history(_info(session, reader.name()), reader)
    if not reader.done and statement.tokens[reader.at].upper in _OF_THE_ENGINE:
        return statement.text
    reader.accept("TABLE")
    extended = reader.accept("EXTENDED") or reader.accept("FORMATTED")
    parts = reader.name()
    info = session.tree.info(session.namespace.table(parts))
    if info is None:  # a temporary view, or an error to report
        return f"DESCRIBE TABLE {'.'.join(quote(part) for part in parts)}"
    rows: list[tuple[Any, ...]] = [(column.name, column.type, column.comment) for column in info.columns]
    if info.partition_columns:
        types = {column.name: column.type for column in info.columns}
        rows += [("# Partition Information", "", ""), ("# col_name", "data_type", "comment")]
        rows += [(name, types.get(name, ""), None) for name in info.partition_columns]
    return _rows(_strings("col_name", "data_type", "comment"), rows + (_extended(info) if extended else []))


def _extended(info: TableInfo) -> list[tuple[Any, ...]]:
    created = datetime.datetime.fromtimestamp(info.created_at_ms / 1000, datetime.UTC)
    facts = {
        "Catalog": info.name.catalog,
        "Database": info.name.schema,
        "Table": info.name.name,
        "Created Time": created.strftime("%a %b %d %H:%M:%S UTC %Y"),
        "Type": "VIEW" if info.kind == "VIEW" else "MANAGED",
        "Comment": info.comment,
        "View Text": info.view_definition,
        "Location": info.location,
        "Provider": "" if info.kind == "VIEW" else "delta",
        "Table Properties": "[" + ",".join(f"{k}={v}" for k, v in sorted(info.properties.items())) + "]",
    }
    return [("", "", ""), ("# Detailed Table Information", "", "")] + [
        (k, v, "") for k, v in facts.items() if v
    ]


def _detail(session: CatalogSession, info: TableInfo) -> dict[str, Any]:
    import pyarrow as pa
    from deltalake import DeltaTable

    delta = DeltaTable(info.location)
    sizes = [
        int(size) for size in pa.table(delta.get_add_actions(flatten=True)).column("size_bytes").to_pylist()
    ]
    protocol = delta.protocol()
    log = session.tree.logs.shape(session.tree.location(info.name))
    changed = (session.tree.location(info.name) / "_delta_log").stat().st_mtime
    row: dict[str, tuple[Any, Any]] = {
        "format": (pa.string(), "delta"),
        "id": (pa.string(), delta.metadata().id),
        "name": (pa.string(), str(info.name)),
        "description": (pa.string(), info.comment),
        "location": (pa.string(), info.location),
        "createdAt": (pa.timestamp("us", "UTC"), info.created_at_ms * 1000),
        "lastModified": (pa.timestamp("us", "UTC"), int(changed * 1e6)),
        "partitionColumns": (pa.list_(pa.string()), list(info.partition_columns)),
        "clusteringColumns": (pa.list_(pa.string()), []),
        "numFiles": (pa.int64(), len(sizes)),
        "sizeInBytes": (pa.int64(), sum(sizes)),
        "properties": (pa.map_(pa.string(), pa.string()), list(log.properties.items()) if log else []),
        "minReaderVersion": (pa.int32(), protocol.min_reader_version),
        "minWriterVersion": (pa.int32(), protocol.min_writer_version),
    }
    return _rows({key: kind for key, (kind, _) in row.items()}, [tuple(value for _, value in row.values())])


def _history(info: TableInfo, reader: Reader) -> dict[str, Any]:
    import pyarrow as pa
    from deltalake import DeltaTable

    entries = DeltaTable(info.location).history(_limit(reader))
    strings = pa.map_(pa.string(), pa.string())
    types = {
        "version": pa.int64(), "timestamp": pa.timestamp("us", "UTC"), "userId": pa.string(),
        "userName": pa.string(),
        "operation": pa.string(), "operationParameters": strings, "isBlindAppend": pa.bool_(),
        "operationMetrics": strings, "userMetadata": pa.string(), "engineInfo": pa.string(),
    }  # fmt: skip
    rows = [
        (
            entry["version"],
            entry.get("timestamp", 0) * 1000,
            None,
            None,
            operation,
            _texts(parameters),
            entry.get("isBlindAppend"),
            _texts(metrics),
            entry.get("userMetadata"),
            entry.get("engineInfo"),
        )
        for entry in entries
        for operation, parameters, metrics in [as_recorded(entry)]
    ]
    return _rows(types, rows)


def _limit(reader: Reader) -> int | None:
    text = reader.rest() if reader.accept("LIMIT") else ""
    return int(text) if text.isdecimal() else None


def _texts(values: dict[str, Any] | None) -> list[tuple[str, str]]:
    return [
        (key, value if isinstance(value, str) else json.dumps(value)) for key, value in (values or {}).items()
    ]


HANDLERS: tuple[tuple[str, Handler], ...] = (
    (r"SHOW CATALOGS", catalogs),
    (r"SHOW (SCHEMAS|DATABASES)", schemas),
    (r"SHOW TABLES", tables),
    (r"SHOW VIEWS", views),
    (r"SHOW COLUMNS (IN|FROM) ", columns),
    (r"SHOW TBLPROPERTIES ", properties),
    (r"SHOW CREATE TABLE ", create_text),
    (r"(DESCRIBE|DESC) ", describe),
)

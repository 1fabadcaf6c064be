"""SHOW and DESCRIBE, answered from the folder tree."""

from __future__ import annotations

import datetime
import fnmatch
import json
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable
from sqlglot import exp

from .catalog import ColumnInfo, TableInfo
from .deltalog import history
from .errors import EngineError, unsupported
from .literals import string_literal
from .names import TableName, quote
from .session import CatalogSession, StatementResult
from .statements import Reader, Statement


def rows_of(types: dict[str, Any], rows: list[tuple[Any, ...]]) -> StatementResult:
    """Return a result with these columns (name to pyarrow type or its alias) and rows."""
    kinds = [pa.type_for_alias(kind) if isinstance(kind, str) else kind for kind in types.values()]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(types)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    return StatementResult(table=pa.Table.from_arrays(arrays, names=list(types)))


def strings(*names: str) -> dict[str, Any]:
    """Return columns of type STRING for `rows_of`."""
    return dict.fromkeys(names, "string")


def _matching(names: list[str], reader: Reader) -> list[str]:
    """Return the names that a trailing [LIKE] 'pattern' lets through (see `fits`)."""
    reader.accept("LIKE")
    pattern = reader.string()
    if pattern is None:
        return names
    return [name for name in names if fits(name, pattern)]


def fits(name: str, pattern: str | None) -> bool:
    """Tell whether a name fits a pattern: `*` or `%` any text, `.` a character, `|` or."""
    parts = (part.strip().lower().replace("%", "*").replace(".", "?") for part in (pattern or "*").split("|"))
    return any(fnmatch.fnmatchcase(name.lower(), part) for part in parts)


def catalogs(session: CatalogSession, statement: Statement) -> StatementResult:
    """SHOW CATALOGS [LIKE]."""
    names = _matching(sorted(session.tree.catalogs()), Reader(statement, 2))
    return rows_of(strings("catalog"), [(name,) for name in names])


def schemas(session: CatalogSession, statement: Statement) -> StatementResult:
    """SHOW SCHEMAS [IN catalog] [LIKE]."""
    reader = Reader(statement, 2)
    inside = reader.accept("IN") or reader.accept("FROM")
    catalog = reader.name()[-1].lower() if inside else session.namespace.catalog
    names = _matching(session.tree.schemas(catalog), reader)
    return rows_of(strings("databaseName"), [(name,) for name in names])


def schema_after_in(session: CatalogSession, reader: Reader) -> tuple[str, str]:
    """Step over [IN schema]; return (catalog, schema), by default the current ones."""
    if reader.accept("IN") or reader.accept("FROM"):
        return session.namespace.schema_of(reader.name())
    return session.namespace.catalog, session.namespace.schema


def _listed(session: CatalogSession, statement: Statement, start: int) -> tuple[str, str, list[str], Reader]:
    """Read [IN schema] [LIKE] from token `start` on; return catalog, schema, names of tables, the reader."""
    reader = Reader(statement, start)
    catalog, schema = schema_after_in(session, reader)
    return catalog, schema, _matching(session.tree.tables(catalog, schema), reader), reader


def tables(session: CatalogSession, statement: Statement) -> StatementResult:
    """SHOW TABLES [IN schema] [LIKE]."""
    _, schema, names, _ = _listed(session, statement, 2)
    types = {**strings("database", "tableName"), "isTemporary": "bool"}
    return rows_of(types, [(schema, name, False) for name in names])


def table_extended(session: CatalogSession, statement: Statement) -> StatementResult:
    """SHOW TABLE EXTENDED [IN schema] LIKE 'pattern'."""
    catalog, schema, names, reader = _listed(session, statement, 3)
    if not reader.done:
        raise unsupported("SHOW TABLE EXTENDED … PARTITION")
    rows = [
        (schema, info.name.name, False, _information(info, session.client.user_id))
        for info in session.tree.infos(catalog, schema)
        if info.name.name in names
    ]
    return rows_of({**strings("database", "tableName"), "isTemporary": "bool", "information": "string"}, rows)


def _information(info: TableInfo, owner: str) -> str:
    facts = [f"{key}: {value}" for key, value, _ in _facts(info, owner)]
    columns = [f" |-- {c.name}: {c.type} (nullable = {str(c.nullable).lower()})" for c in info.columns]
    return "\n".join([*facts, "Schema: root", *columns, ""])


def views(session: CatalogSession, statement: Statement) -> StatementResult:
    """SHOW VIEWS [IN schema] [LIKE]."""
    catalog, schema, names, _ = _listed(session, statement, 2)
    found = [name for name in names if session.tree.view(TableName(catalog, schema, name))]
    types = {**strings("namespace", "viewName"), "isTemporary": "bool", "isMaterialized": "bool"}
    return rows_of(types, [(schema, name, False, False) for name in found])


def _info(session: CatalogSession, parts: tuple[str, ...]) -> TableInfo:
    return session.tree.require_info(session.namespace.table(parts))


def columns(session: CatalogSession, statement: Statement) -> StatementResult:
    """SHOW COLUMNS IN table."""
    info = _info(session, Reader(statement, 3).name())
    return rows_of(strings("col_name"), [(column.name,) for column in info.columns])


def properties(session: CatalogSession, statement: Statement) -> StatementResult:
    """SHOW TBLPROPERTIES table [(key)]."""
    info = _info(session, Reader(statement, 2).name())
    return rows_of(strings("key", "value"), sorted(info.properties.items()))


def create_text(session: CatalogSession, statement: Statement) -> StatementResult:
    """SHOW CREATE TABLE table."""
    info = _info(session, Reader(statement, 3).name())
    if info.kind == "VIEW":
        return rows_of(strings("createtab_stmt"), [(f"CREATE VIEW {info.name} AS {info.view_definition}",)])
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
    return rows_of(strings("createtab_stmt"), [(text,)])


_OF_THE_ENGINE = {"QUERY", "FUNCTION", "CATALOG", "SELECT", "WITH"}


def describe(session: CatalogSession, statement: Statement) -> str | StatementResult:
    """DESCRIBE [TABLE] [EXTENDED | DETAIL | HISTORY] table."""
    reader = Reader(statement, 1)
    as_json = statement.starts("AS", "JSON", at=len(statement.tokens) - 2)
    if reader.accept("DETAIL"):
        return _detail(session, _info(session, reader.name()))
    if reader.accept("HISTORY"):
        location = _info(session, reader.name()).location
        limit = reader.rest() if reader.accept("LIMIT") else ""
        return StatementResult(table=history(location, int(limit) if limit.isdecimal() else None))
    if any(reader.accept(kind) for kind in ("SCHEMA", "DATABASE", "NAMESPACE")):
        extended = reader.accept("EXTENDED")
        return _schema(session, *session.namespace.schema_of(reader.name()), extended=extended)
    if not reader.done and statement.tokens[reader.at].upper in _OF_THE_ENGINE:
        return statement.text
    reader.accept("TABLE")
    extended = reader.accept("EXTENDED") or reader.accept("FORMATTED")
    parts = reader.name()
    info = session.tree.info(session.namespace.table(parts))
    if info is None:  # a temporary view, or an error to report
        return f"DESCRIBE TABLE {'.'.join(quote(part) for part in parts)}{' AS JSON' if as_json else ''}"
    if as_json:
        if not extended:
            raise EngineError.of(
                "DESCRIBE_JSON_NOT_EXTENDED", "DESCRIBE TABLE … AS JSON needs EXTENDED or FORMATTED.", "0A000"
            )
        return rows_of(strings("json_metadata"), [(json.dumps(_document(info, session.client.user_id)),)])
    rows: list[tuple[Any, ...]] = [(column.name, column.type, column.comment) for column in info.columns]
    if info.partition_columns:
        types = {column.name: column.type for column in info.columns}
        rows += [("# Partition Information", "", ""), ("# col_name", "data_type", "comment")]
        rows += [(name, types.get(name, ""), None) for name in info.partition_columns]
    return rows_of(
        strings("col_name", "data_type", "comment"),
        rows + (_extended(info, session.client.user_id) if extended else []),
    )


def _extended(info: TableInfo, owner: str) -> list[tuple[Any, ...]]:
    constraints = [(key.name, key.text, "") for key in info.keys]
    head: list[tuple[Any, ...]] = [("", "", ""), ("# Detailed Table Information", "", "")]
    return [*head, *_facts(info, owner), *([("", "", ""), ("# Constraints", "", "")] if constraints else []),
            *constraints]  # fmt: skip


def _facts(info: TableInfo, owner: str) -> list[tuple[Any, ...]]:
    created = datetime.datetime.fromtimestamp(info.created_at_ms / 1000, datetime.UTC)
    view = info.kind == "VIEW"
    facts = {
        "Catalog": info.name.catalog,
        "Database": info.name.schema,
        "Table": info.name.name,
        "Owner": owner,
        "Created Time": created.strftime("%a %b %d %H:%M:%S UTC %Y"),
        "Type": info.table_type,
        "Comment": info.comment,
        "View Text": info.view_definition,
        "Location": info.location,
        "Provider": "" if view else "delta",
        "Table Properties": "[" + ",".join(f"{k}={v}" for k, v in sorted(info.properties.items())) + "]",
    }
    return [(key, value, "") for key, value in facts.items() if value]


def _schema(session: CatalogSession, catalog: str, schema: str, *, extended: bool) -> StatementResult:
    """DESCRIBE SCHEMA [EXTENDED] name."""
    session.tree.require_schema(catalog, schema)
    facts = {
        "Catalog Name": catalog, "Namespace Name": schema, "Comment": session.tree.comment(catalog, schema),
        "Location": str(session.tree.schema_path(catalog, schema)), "Owner": session.client.user_id,
    }  # fmt: skip
    rows = [(key, value or "") for key, value in facts.items()] + ([("Properties", "")] if extended else [])
    return rows_of(strings("database_description_item", "database_description_value"), rows)


def _document(info: TableInfo, owner: str) -> dict[str, Any]:
    """Return what DESCRIBE … AS JSON shows ("JSON formatted output" in Databricks' documentation)."""
    created = datetime.datetime.fromtimestamp(info.created_at_ms / 1000, datetime.UTC)
    found = {
        "table_name": info.name.name,
        "catalog_name": info.name.catalog,
        "namespace": [info.name.schema],
        "schema_name": info.name.schema,
        "columns": [_column_document(column) for column in info.columns],
        "partition_columns": list(info.partition_columns),
        "comment": info.comment,
        "location": info.location,
        "provider": None if info.kind == "VIEW" else "delta",
        "table_properties": dict(info.properties),
        "table_constraints": "[" + ", ".join(f"({key.name},{key.text})" for key in info.keys) + "]"
            if info.keys else None,
        "type": info.table_type,
        "owner": owner,
        "created_time": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "last_access": "UNKNOWN",
        "created_by": owner,
        "view_text": info.view_definition,
        "view_original_text": info.view_definition,
        "view_query_output_columns":
            [column.name for column in info.columns] if info.kind == "VIEW" else None,
    }  # fmt: skip
    return {key: value for key, value in found.items() if value not in (None, "", [], {})}


def _column_document(column: ColumnInfo) -> dict[str, Any]:
    kind = _type_document(exp.DataType.build(column.type, dialect="databricks"))
    found = {"name": column.name, "type": kind, "comment": column.comment, "nullable": column.nullable}
    found["default"] = column.default
    return {key: value for key, value in found.items() if value is not None}


def _type_document(kind: Any) -> dict[str, Any]:
    """Return a type as that document writes it."""
    inner = kind.expressions
    if kind.is_type(exp.DataType.Type.ARRAY):
        return {"name": "array", "element_type": _type_document(inner[0]), "element_nullable": True}
    if kind.is_type(exp.DataType.Type.MAP):
        key, value = map(_type_document, inner)
        return {"name": "map", "key_type": key, "value_type": value, "value_nullable": True}
    if kind.is_type(exp.DataType.Type.STRUCT):
        fields = [{"name": f.name, "type": _type_document(f.args["kind"]), "nullable": True} for f in inner]
        return {"name": "struct", "fields": fields}
    name = kind.sql(dialect="databricks").lower()
    if kind.is_type(exp.DataType.Type.DECIMAL):
        precision, scale = (int(each.name) for each in inner)
        return {"name": "decimal", "precision": precision, "scale": scale}
    return {"name": {"timestamp": "timestamp_ltz"}.get(name, name)}


def _detail(session: CatalogSession, info: TableInfo) -> StatementResult:
    delta = DeltaTable(info.location)
    files = pa.table(delta.get_add_actions(flatten=True)).column("size_bytes").to_pylist()
    moment, number, names = pa.timestamp("us", "UTC"), pa.int64(), pa.list_(pa.string())
    row = {
        **strings("format", "id", "name", "description", "location"), "createdAt": moment,
        "lastModified": moment, "partitionColumns": names, "clusteringColumns": names, "numFiles": number,
        "sizeInBytes": number, "properties": pa.map_(pa.string(), pa.string()),
        "minReaderVersion": pa.int32(), "minWriterVersion": pa.int32(),
    }  # fmt: skip
    values: tuple[Any, ...] = (
        "delta", delta.metadata().id, str(info.name), info.comment, info.location, info.created_at_ms * 1000,
        session.tree.altered_ms(info.name) * 1000, list(info.partition_columns), [], len(files), sum(files),
        list(info.properties.items()), delta.protocol().min_reader_version,
        delta.protocol().min_writer_version,
    )  # fmt: skip
    return rows_of(row, [values])

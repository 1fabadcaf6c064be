"""Statements that Sail lacks or answers for its session only: one table from leading words to handlers.

SHOW and DESCRIBE are answered from the folder tree; maintenance is done by delta-rs on the table's folder.
What neither we nor Sail have is refused by name.
"""

from __future__ import annotations

import datetime
import fnmatch
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from . import ddl, dml
from .catalog import DRAFT, TableInfo
from .deltalog import history
from .errors import EngineError, from_engine, only_on_databricks, table_not_found, unsupported
from .literals import string_literal
from .names import TableName, quote
from .session import CatalogSession, Handlers, StatementResult
from .statements import Reader, Statement
from .tables import create_table, done, drop_left_out, pairs_of


def _rows(types: dict[str, Any], rows: list[tuple[Any, ...]]) -> StatementResult:
    """Return a result with these columns (name to pyarrow type or its alias) and rows."""
    import pyarrow as pa

    kinds = [pa.type_for_alias(kind) if isinstance(kind, str) else kind for kind in types.values()]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(types)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    return StatementResult(table=pa.Table.from_arrays(arrays, names=list(types)))


def _strings(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names, "string")


def _reader(statement: Statement, at: int, session: CatalogSession) -> tuple[Reader, TableName]:
    """Return a reader after the table name at token `at` (and TABLE before it), and the name."""
    reader = Reader(statement, at)
    reader.accept("TABLE")
    return reader, session.namespace.table(reader.name())


def _matching(names: list[str], reader: Reader) -> list[str]:
    """Return the names that a trailing [LIKE] 'pattern' lets through (`*` any text, `|` or)."""
    reader.accept("LIKE")
    pattern = reader.string()
    if pattern is None:
        return names
    parts = [part.strip().lower().replace("%", "*") for part in pattern.split("|")]
    return [name for name in names if any(fnmatch.fnmatchcase(name, part) for part in parts)]


def catalogs(session: CatalogSession, statement: Statement) -> StatementResult:
    """SHOW CATALOGS [LIKE]."""
    names = _matching(sorted(session.tree.catalogs()), Reader(statement, 2))
    return _rows(_strings("catalog"), [(name,) for name in names])


def schemas(session: CatalogSession, statement: Statement) -> StatementResult:
    """SHOW SCHEMAS [IN catalog] [LIKE]."""
    reader = Reader(statement, 2)
    inside = reader.accept("IN") or reader.accept("FROM")
    catalog = reader.name()[-1].lower() if inside else session.namespace.catalog
    names = _matching(session.tree.schemas(catalog), reader)
    return _rows(_strings("databaseName"), [(name,) for name in names])


def _schema_after_in(session: CatalogSession, reader: Reader) -> tuple[str, str]:
    if reader.accept("IN") or reader.accept("FROM"):
        return session.namespace.schema_of(reader.name())
    return session.namespace.catalog, session.namespace.schema


def tables(session: CatalogSession, statement: Statement) -> StatementResult:
    """SHOW TABLES [IN schema] [LIKE]."""
    reader = Reader(statement, 2)
    catalog, schema = _schema_after_in(session, reader)
    names = _matching(session.tree.tables(catalog, schema), reader)
    types = {**_strings("database", "tableName"), "isTemporary": "bool"}
    return _rows(types, [(schema, name, False) for name in names])


def table_extended(session: CatalogSession, statement: Statement) -> str:
    """SHOW TABLE EXTENDED [IN schema] LIKE 'pattern': Sail's own, of all tables of the schema."""
    session.learn_all(*_schema_after_in(session, Reader(statement, 3)))
    return statement.text


def views(session: CatalogSession, statement: Statement) -> StatementResult:
    """SHOW VIEWS [IN schema] [LIKE]."""
    reader = Reader(statement, 2)
    catalog, schema = _schema_after_in(session, reader)
    names = _matching(session.tree.tables(catalog, schema), reader)
    found = [name for name in names if session.tree.view(TableName(catalog, schema, name))]
    types = {**_strings("namespace", "viewName"), "isTemporary": "bool", "isMaterialized": "bool"}
    return _rows(types, [(schema, name, False, False) for name in found])


def _info(session: CatalogSession, parts: tuple[str, ...]) -> TableInfo:
    name = session.namespace.table(parts)
    info = session.tree.info(name)
    if info is None:
        raise table_not_found(name.sql)
    return info


def columns(session: CatalogSession, statement: Statement) -> StatementResult:
    """SHOW COLUMNS IN table."""
    info = _info(session, Reader(statement, 3).name())
    return _rows(_strings("col_name"), [(column.name,) for column in info.columns])


def properties(session: CatalogSession, statement: Statement) -> StatementResult:
    """SHOW TBLPROPERTIES table [(key)]."""
    info = _info(session, Reader(statement, 2).name())
    return _rows(_strings("key", "value"), sorted(info.properties.items()))


def create_text(session: CatalogSession, statement: Statement) -> StatementResult:
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


def describe(session: CatalogSession, statement: Statement) -> str | StatementResult:
    """DESCRIBE [TABLE] [EXTENDED | DETAIL | HISTORY] table."""
    reader = Reader(statement, 1)
    if statement.starts("AS", "JSON", at=len(statement.tokens) - 2):
        raise only_on_databricks("DESCRIBE … AS JSON")
    if reader.accept("DETAIL"):
        return _detail(session, _info(session, reader.name()))
    if reader.accept("HISTORY"):
        location = _info(session, reader.name()).location
        limit = reader.rest() if reader.accept("LIMIT") else ""
        return StatementResult(table=history(location, int(limit) if limit.isdecimal() else None))
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
    rows = [(key, value, "") for key, value in facts.items() if value]
    return [("", "", ""), ("# Detailed Table Information", "", ""), *rows]


def _detail(session: CatalogSession, info: TableInfo) -> StatementResult:
    import pyarrow as pa
    from deltalake import DeltaTable

    delta = DeltaTable(info.location)
    files = pa.table(delta.get_add_actions(flatten=True)).column("size_bytes").to_pylist()
    moment, number, names = pa.timestamp("us", "UTC"), pa.int64(), pa.list_(pa.string())
    row = {
        **_strings("format", "id", "name", "description", "location"), "createdAt": moment,
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
    return _rows(row, [values])


# --- maintenance


def _with_delta(session: CatalogSession, name: TableName, change: Callable[[Any], Any]) -> Any:
    """Apply `change` to the Delta table, with delta-rs's errors spelled as the engine's."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    with session.tree.lock(name):
        session.tree.require(name)
        try:
            return change(DeltaTable(str(session.tree.location(name))))
        except DeltaError as error:
            raise from_engine(str(error)) from error


def optimize(session: CatalogSession, statement: Statement) -> StatementResult:
    """OPTIMIZE table [ZORDER BY (columns)]."""
    import pyarrow as pa

    name = session.namespace.table(Reader(statement, 1).name())
    order = statement.find("ZORDER")
    columns = [token.name for token in statement.tokens[order + 2 :] if token.is_name] if order else []
    run = (lambda d: d.optimize.z_order(columns)) if columns else (lambda d: d.optimize.compact())
    metrics = _with_delta(session, name, run)
    summary = {key: metrics[key] for key in ("numFilesAdded", "numFilesRemoved")}
    return StatementResult(table=pa.table({"path": [str(session.tree.location(name))], "metrics": [summary]}))


def vacuum(session: CatalogSession, statement: Statement) -> StatementResult:
    """VACUUM table [RETAIN n HOURS] [DRY RUN]."""
    name = session.namespace.table(Reader(statement, 1).name())
    retain = statement.find("RETAIN")
    hours = int(float(statement.tokens[retain + 1].text)) if retain else None
    dry = statement.find("DRY") is not None
    files = _with_delta(session, name, lambda d: d.vacuum(retention_hours=hours, dry_run=dry))
    location = str(session.tree.location(name))
    return _rows(_strings("path"), [(path,) for path in (files if dry else [location])])


def restore(session: CatalogSession, statement: Statement) -> StatementResult:
    """RESTORE TABLE table TO VERSION AS OF n."""
    reader, name = _reader(statement, 1, session)
    if not reader.accept("TO", "VERSION", "AS", "OF"):
        raise unsupported("RESTORE other than TO VERSION AS OF n")
    version = int(reader.rest())
    _with_delta(session, name, lambda d: d.restore(version))
    return done()


def alter_table(session: CatalogSession, statement: Statement) -> StatementResult:
    """ALTER TABLE: RENAME TO, ADD COLUMNS, SET TBLPROPERTIES, column comments, CLUSTER BY (noted, no
    effect).
    """
    reader, name = _reader(statement, 1, session)
    session.tree.require(name)
    if reader.accept("RENAME", "TO"):
        _rename(session, name, _beside(session, name, reader.name()))
    elif reader.accept("ADD", "COLUMNS") or reader.accept("ADD", "COLUMN"):
        _add_columns(session, name, reader)
    elif reader.accept("SET", "TBLPROPERTIES"):
        _set_properties(session, name, pairs_of(statement, reader.at))
    elif reader.accept("ALTER", "COLUMN") or reader.accept("CHANGE", "COLUMN"):
        _comment_column(session, name, reader)
    elif not reader.accept("CLUSTER", "BY"):
        raise unsupported(f"ALTER TABLE … {' '.join(reader.rest().split()[:2])}")
    return done()


def _beside(session: CatalogSession, name: TableName, parts: tuple[str, ...]) -> TableName:
    """Return the table that `parts` name; a bare name is in the schema of `name`."""
    return session.namespace.table((name.catalog, name.schema, *parts) if len(parts) == 1 else parts)


def _rename(session: CatalogSession, old: TableName, new: TableName) -> None:
    first, second = sorted((old, new))  # one order for all, so that two renames never wait for each other
    with session.tree.lock(first), session.tree.lock(second), session.lock:
        if session.tree.signature(new) is not None:
            raise EngineError.of("TABLE_OR_VIEW_ALREADY_EXISTS", f"{new.sql} exists already.", "42P07")
        session.tree.rename(old, new)
        session.forget(old)


def _add_columns(session: CatalogSession, name: TableName, reader: Reader) -> None:
    """Let the engine read the column definitions, by way of a draft table."""
    from deltalake import DeltaTable

    text = reader.rest()
    columns = text if text.startswith("(") else f"({text})"
    draft = replace(name, name=f"{DRAFT}{uuid.uuid4().hex}")
    create_table(session, Statement.parse(f"CREATE TABLE {draft.sql} {columns} USING DELTA"))
    try:
        fields = DeltaTable(str(session.tree.location(draft))).schema().fields
    finally:
        ddl.drop_table(session, Statement.parse(f"DROP TABLE {draft.sql}"))
    _with_delta(session, name, lambda d: d.alter.add_columns(fields))


def _set_properties(session: CatalogSession, name: TableName, properties: dict[str, str]) -> None:
    drop_left_out(properties, session.left_out)
    if properties:
        _with_delta(
            session, name, lambda d: d.alter.set_table_properties(properties, raise_if_not_exists=False)
        )


def _comment_column(session: CatalogSession, name: TableName, reader: Reader) -> None:
    column = reader.name()[-1]
    text = reader.string() if reader.accept("COMMENT") else None
    if text is None:
        raise unsupported("ALTER TABLE … ALTER COLUMN other than COMMENT")
    _set_column_comment(session, name, column, text)


def _set_column_comment(session: CatalogSession, name: TableName, column: str, text: str) -> None:
    _with_delta(session, name, lambda d: d.alter.set_column_metadata(column, {"comment": text}))


def comment_on(session: CatalogSession, statement: Statement) -> StatementResult:
    """COMMENT ON TABLE table IS 'text', COMMENT ON COLUMN table.column IS 'text'."""
    reader, kind = Reader(statement, 3), statement.tokens[2].upper
    if kind not in {"TABLE", "COLUMN"}:
        return done()  # comments on schemas and catalogs have nowhere to live
    parts = reader.name()
    reader.accept("IS")
    text = reader.string() or ""
    if kind == "TABLE":
        name = session.namespace.table(parts)
        _with_delta(session, name, lambda d: d.alter.set_table_description(text))
    else:
        _set_column_comment(session, session.namespace.table(parts[:-1]), parts[-1], text)
    return done()


def refresh(session: CatalogSession, statement: Statement) -> StatementResult:
    """REFRESH, CACHE, UNCACHE, ANALYZE TABLE, CLEAR CACHE: sessions are up to date and nothing is cached."""
    at = statement.find("TABLE")
    if at is not None and not statement.starts("IF", "EXISTS", at=at + 1):
        session.tree.require(session.namespace.table(Reader(statement, at + 1).name()))
    return done()


def refuse(_session: CatalogSession, statement: Statement) -> StatementResult:
    """Refuse a statement that the quick engine lacks."""
    raise unsupported("A SQL script (BEGIN … END)" if statement.starts("BEGIN") else _named(statement))


def refuse_everywhere(_session: CatalogSession, statement: Statement) -> StatementResult:
    """Refuse a statement that only Databricks has."""
    raise only_on_databricks(_named(statement))


def _named(statement: Statement) -> str:
    """Return the first words that name a statement."""
    fill = {"OR", "REPLACE", "REFRESH", "TEMPORARY", "TEMP"}
    return " ".join([token.upper for token in statement.tokens[:5] if token.upper not in fill][:2])


HANDLERS: Handlers = (
    *ddl.HANDLERS,
    *dml.HANDLERS,
    (r"SHOW CATALOGS", catalogs),
    (r"SHOW (SCHEMAS|DATABASES)", schemas),
    (r"SHOW TABLES", tables),
    (r"SHOW TABLE EXTENDED", table_extended),
    (r"SHOW VIEWS", views),
    (r"SHOW COLUMNS (IN|FROM) ", columns),
    (r"SHOW TBLPROPERTIES ", properties),
    (r"SHOW CREATE TABLE ", create_text),
    (r"(DESCRIBE|DESC) ", describe),
    (r"OPTIMIZE ", optimize),
    (r"VACUUM ", vacuum),
    (r"RESTORE ", restore),
    (r"ALTER TABLE ", alter_table),
    (r"COMMENT ON ", comment_on),
    (r"(REFRESH|ANALYZE|CACHE|UNCACHE) (LAZY )?TABLE |CLEAR CACHE", refresh),
    (r"(DECLARE|EXECUTE IMMEDIATE|BEGIN|RESET)( |$)|CREATE (OR REPLACE )?TEMP(ORARY)? FUNCTION ", refuse),
    (r"(GRANT|REVOKE|SHOW GRANTS|COPY INTO|LIST|CLONE|CONVERT|FSCK|REORG|MSCK|CALL)( |$)", refuse_everywhere),
    (r"(ALTER (SCHEMA|CATALOG|VIEW)|CREATE VOLUME|SHOW (PARTITIONS|VOLUMES)) ", refuse_everywhere),
    (
        r"CREATE (OR (REPLACE|REFRESH) )?(FUNCTION|PROCEDURE|MATERIALIZED|STREAMING) ",
        refuse_everywhere,
    ),
)

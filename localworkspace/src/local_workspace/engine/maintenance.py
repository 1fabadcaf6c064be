"""What the engine lacks of Delta's own statements, done by delta-rs on the table's folder."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .catalog import DRAFT
from .ddl import done
from .errors import EngineError, from_engine, unsupported
from .names import TableName
from .properties import drop_left_out, pairs_of
from .statements import Handler, Reader, Statement

if TYPE_CHECKING:
    from .session import CatalogSession


def _delta(session: CatalogSession, name: TableName) -> Any:
    from deltalake import DeltaTable

    session.tree.require(name)
    return DeltaTable(str(session.tree.location(name)))


def _with_delta(session: CatalogSession, name: TableName, change: Any) -> Any:
    """Apply `change` to the Delta table, with delta-rs's errors spelled as the engine's."""
    from deltalake.exceptions import DeltaError

    with session.tree.lock(name):
        try:
            return change(_delta(session, name))
        except DeltaError as error:
            raise from_engine(str(error)) from error


def optimize(session: CatalogSession, statement: Statement) -> dict[str, Any]:
    """OPTIMIZE table [ZORDER BY (columns)]."""
    import pyarrow as pa

    name = session.namespace.table(Reader(statement, 1).name())
    order = statement.find("ZORDER")
    columns = [token.name for token in statement.tokens[order + 2 :] if token.is_name] if order else []
    metrics = _with_delta(
        session, name, lambda d: d.optimize.z_order(columns) if columns else d.optimize.compact()
    )
    summary = {"numFilesAdded": metrics["numFilesAdded"], "numFilesRemoved": metrics["numFilesRemoved"]}
    return {"table": pa.table({"path": [str(session.tree.location(name))], "metrics": [summary]})}


def vacuum(session: CatalogSession, statement: Statement) -> dict[str, Any]:
    """VACUUM table [RETAIN n HOURS] [DRY RUN]."""
    import pyarrow as pa

    name = session.namespace.table(Reader(statement, 1).name())
    retain = statement.find("RETAIN")
    hours = int(float(statement.tokens[retain + 1].text)) if retain else None
    dry = statement.find("DRY") is not None
    files = _with_delta(session, name, lambda d: d.vacuum(retention_hours=hours, dry_run=dry))
    location = str(session.tree.location(name))
    return {"table": pa.table({"path": pa.array(files if dry else [location], pa.string())})}


def restore(session: CatalogSession, statement: Statement) -> dict[str, Any]:
    """RESTORE TABLE table TO VERSION AS OF n."""
    reader = Reader(statement, 1)
    reader.accept("TABLE")
    name = session.namespace.table(reader.name())
    if not reader.accept("TO", "VERSION", "AS", "OF"):
        raise unsupported("RESTORE other than TO VERSION AS OF n")
    version = int(reader.rest())
    _with_delta(session, name, lambda d: d.restore(version))
    return done()


def alter_table(session: CatalogSession, statement: Statement) -> dict[str, Any]:
    """ALTER TABLE: RENAME TO, ADD COLUMNS, SET TBLPROPERTIES, column comments, CLUSTER BY (noted, no
    effect).
    """
    reader = Reader(statement, 2)
    name = session.namespace.table(reader.name())
    session.tree.require(name)
    if reader.accept("RENAME", "TO"):
        _rename(session, name, session.namespace.table(_in_schema(name, reader.name())))
    elif reader.accept("ADD", "COLUMNS") or reader.accept("ADD", "COLUMN"):
        _add_columns(session, name, reader)
    elif reader.accept("SET", "TBLPROPERTIES"):
        _set_properties(session, name, pairs_of(statement, reader.at))
    elif reader.accept("ALTER", "COLUMN") or reader.accept("CHANGE", "COLUMN"):
        _comment_column(session, name, reader)
    elif not reader.accept("CLUSTER", "BY"):
        raise unsupported(f"ALTER TABLE … {' '.join(reader.rest().split()[:2])}")
    return done()


def _in_schema(old: TableName, parts: tuple[str, ...]) -> tuple[str, ...]:
    """A bare new name stays in the old one's schema."""
    return (old.catalog, old.schema, *parts)[-3:] if len(parts) == 1 else parts


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
    session.run(f"CREATE TABLE {draft.sql} {columns} USING DELTA")
    try:
        fields = DeltaTable(str(session.tree.location(draft))).schema().fields
    finally:
        session.run(f"DROP TABLE {draft.sql}")
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
    _with_delta(session, name, lambda d: d.alter.set_column_metadata(column, {"comment": text}))


def comment_on(session: CatalogSession, statement: Statement) -> dict[str, Any]:
    """COMMENT ON TABLE table IS 'text'."""
    reader = Reader(statement, 2)
    if not reader.accept("TABLE"):
        return done()  # comments on schemas and catalogs have nowhere to live
    name = session.namespace.table(reader.name())
    reader.accept("IS")
    text = reader.string() or ""
    _with_delta(session, name, lambda d: d.alter.set_table_description(text))
    return done()


def refresh(session: CatalogSession, statement: Statement) -> dict[str, Any]:
    """REFRESH, CACHE, UNCACHE, ANALYZE: sessions are always up to date, so there is nothing to do."""
    reader = Reader(statement, 1)
    reader.accept("TABLE")
    if not reader.done and statement.tokens[reader.at].is_name:
        session.tree.require(session.namespace.table(reader.name()))
    return done()


def nothing(_session: CatalogSession, _statement: Statement) -> dict[str, Any]:
    """Statements about what the engine does not keep."""
    return done()


def not_here(_session: CatalogSession, statement: Statement) -> dict[str, Any]:
    """Statements that only Databricks has."""
    words = [token.upper for token in statement.tokens[:5]]
    if words[0] == "BEGIN":
        raise unsupported("A SQL script (BEGIN … END)")
    kept = [word for word in words if word not in {"OR", "REPLACE", "REFRESH", "TEMPORARY", "TEMP"}]
    raise unsupported(" ".join(kept[:2]))


HANDLERS: tuple[tuple[str, Handler], ...] = (
    (r"OPTIMIZE ", optimize),
    (r"VACUUM ", vacuum),
    (r"RESTORE ", restore),
    (r"ALTER TABLE ", alter_table),
    (r"COMMENT ON ", comment_on),
    (r"UNCACHE TABLE IF EXISTS |CLEAR CACHE", nothing),
    (r"(REFRESH|ANALYZE|CACHE|UNCACHE) (LAZY )?TABLE ", refresh),
    (r"(GRANT|REVOKE|SHOW GRANTS|COPY INTO|LIST|CLONE|CONVERT|FSCK|REORG|MSCK)( |$)", not_here),
    (r"(ALTER (SCHEMA|CATALOG|VIEW)|CREATE VOLUME|SHOW (PARTITIONS|VOLUMES)) ", not_here),
    (r"(DECLARE|EXECUTE IMMEDIATE|BEGIN|CALL|RESET)( |$)", not_here),
    (
        r"CREATE (OR (REPLACE|REFRESH) )?(TEMP |TEMPORARY )?(FUNCTION|PROCEDURE|MATERIALIZED|STREAMING) ",
        not_here,
    ),
)

"""ALTER TABLE and COMMENT ON: changes of a table's metadata, committed to its Delta log."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from . import ddl, keys
from .catalog import DRAFT
from .deltalog import Metadata, change_metadata
from .errors import EngineError, from_engine, only_on_databricks, unsupported
from .keys import Key
from .names import TableName, quote
from .session import CatalogSession, StatementResult
from .statements import Reader, Statement
from .tables import Create, create_table, done, drop_left_out, pairs_of


def with_delta(session: CatalogSession, name: TableName, change: Callable[[Any], Any]) -> Any:
    """Apply `change` to the Delta table, with delta-rs's errors spelled as the engine's."""
    with session.tree.lock(name):
        session.tree.require(name)
        try:
            return change(DeltaTable(str(session.tree.location(name))))
        except DeltaError as error:
            raise from_engine(str(error)) from error


def _change(
    session: CatalogSession, name: TableName, operation: str, change: Callable[[Metadata], None]
) -> None:
    with session.tree.lock(name):
        session.tree.require(name)
        change_metadata(session.tree.location(name), operation, change)


def alter_table(session: CatalogSession, statement: Statement) -> StatementResult:
    """ALTER TABLE: names, columns, properties, CHECK constraints; CLUSTER BY (noted, no effect)."""
    reader = Reader(statement, 2)
    name = session.namespace.table(reader.name())
    session.tree.require(name)
    if reader.accept("RENAME", "TO"):
        _rename(session, name, _beside(session, name, reader.name()))
    elif reader.accept("ADD", "COLUMNS") or reader.accept("ADD", "COLUMN"):
        _add_columns(session, name, reader)
    elif reader.accept("SET", "TBLPROPERTIES"):
        _set_properties(session, name, pairs_of(statement, reader.at))
    elif reader.accept("ALTER", "COLUMN") or reader.accept("CHANGE", "COLUMN"):
        _alter_column(session, name, reader)
    elif statement.starts("ADD", "CONSTRAINT", at=reader.at) and statement.starts("CHECK", at=reader.at + 3):
        with session.tree.lock(name):  # Sail checks the rows that are there
            session.client.sql(f"ALTER TABLE {name.sql} {reader.rest()}")
    elif statement.starts("ADD", at=reader.at) and keys.starts_at(statement, reader.at + 1):
        reader.at += 1
        _add_key(session, name, Create.complete(session, keys.read(reader, name, session.namespace)))
    elif reader.accept("DROP", "CONSTRAINT") or statement.starts("DROP", "PRIMARY", "KEY", at=reader.at):
        _drop_constraint(session, name, reader)
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
    text = reader.rest()
    columns = text if text.startswith("(") else f"({text})"
    draft = replace(name, name=f"{DRAFT}{uuid.uuid4().hex}")
    create_table(session, Statement.parse(f"CREATE TABLE {draft.sql} {columns} USING DELTA"))
    try:
        fields = DeltaTable(str(session.tree.location(draft))).schema().fields
    finally:
        ddl.drop_table(session, Statement.parse(f"DROP TABLE {draft.sql}"))
    with_delta(session, name, lambda d: d.alter.add_columns(fields))


def _set_properties(session: CatalogSession, name: TableName, properties: dict[str, str]) -> None:
    drop_left_out(properties, session.left_out)
    if properties:
        _change(session, name, "SET TBLPROPERTIES", lambda new: new.properties.update(properties))


def _add_key(session: CatalogSession, name: TableName, key: Key) -> None:
    for column in key.columns:
        _column(session, name, column)
    with session.tree.lock(name):
        there = keys.keys_in(session.tree.require(name).properties)
        clash = [each.name for each in there if each.name == key.name or each.parent is key.parent is None]
        if clash:
            text = f"The table {name.sql} has the constraint {quote(clash[0])} already."
            raise EngineError.of("CONSTRAINT_ALREADY_EXISTS", text, "42710")
        _set_properties(session, name, keys.stored([*there, key]))


def _drop_constraint(session: CatalogSession, name: TableName, reader: Reader) -> None:
    """DROP {CONSTRAINT [IF EXISTS] name | PRIMARY KEY [IF EXISTS]} [RESTRICT | CASCADE]."""
    primary = reader.accept("DROP", "PRIMARY", "KEY")
    lenient = reader.accept("IF", "EXISTS")
    constraint = "" if primary else reader.name()[-1]
    with session.tree.lock(name):
        there = keys.keys_in(session.tree.require(name).properties)
        left = [key for key in there if (key.parent is not None if primary else key.name != constraint)]
        if len(left) < len(there):
            _set_properties(session, name, keys.stored(left))
        elif not primary:
            with_delta(session, name, lambda d: d.alter.drop_constraint(constraint, not lenient))
        elif not lenient:
            text = f"The table {name.sql} has no primary key."
            raise EngineError.of("CONSTRAINT_DOES_NOT_EXIST", text, "42704")


def _alter_column(session: CatalogSession, name: TableName, reader: Reader) -> None:
    column = _column(session, name, reader.name()[-1])
    text = reader.string() if reader.accept("COMMENT") else None
    if text is not None:
        _comment_column(session, name, column, text)
    elif reader.accept("SET", "NOT", "NULL"):
        _forbid_null(session, name, column)
    elif reader.accept("DROP", "NOT", "NULL"):
        _change(session, name, "CHANGE COLUMN", lambda new: new.column(column).update(nullable=True))
    else:
        raise unsupported(f"ALTER TABLE … ALTER COLUMN … {' '.join(reader.rest().split()[:2])}")


def _column(session: CatalogSession, name: TableName, text: str) -> str:
    """Return the name of a column as the table has it. Raises `EngineError` when there is none."""
    info = session.tree.require_info(name)
    for column in info.columns:
        if column.name.lower() == text.lower():
            return column.name
    raise EngineError.of(
        "UNRESOLVED_COLUMN.WITH_SUGGESTION",
        f"A column with name {quote(text)} cannot be resolved. The table {name.sql} has "
        f"{', '.join(quote(column.name) for column in info.columns)}.",
        "42703",
    )


def _comment_column(session: CatalogSession, name: TableName, column: str, text: str) -> None:
    info = session.tree.view(name)
    if info is None:
        _change(
            session, name, "CHANGE COLUMN", lambda new: new.column(column)["metadata"].update(comment=text)
        )
        return
    columns = tuple(replace(c, comment=text or None) if c.name == column else c for c in info.columns)
    session.tree.save_view(name, replace(info, columns=columns))


def _forbid_null(session: CatalogSession, name: TableName, column: str) -> None:
    """Make a column NOT NULL if none of its values is NULL; what is written meanwhile is a conflict."""
    with session.tree.lock(name):
        version = session.tree.require(name).version
        rows = f"{name.sql} VERSION AS OF {version}"
        empty = f"SELECT 1 FROM {rows} WHERE {quote(column)} IS NULL LIMIT 1"  # noqa: S608 - names are quoted
        if session.client.sql(empty).num_rows:
            raise EngineError.of(
                "DELTA_NOT_NULL_CONSTRAINT_VIOLATED", f"NOT NULL constraint violated for column: {column}. "
                "It has NULLs already.", "23502",
            )  # fmt: skip
        folder, not_null = session.tree.location(name), {"nullable": False}
        change_metadata(
            folder, "CHANGE COLUMN", lambda new: new.column(column).update(not_null), version=version
        )


def comment_on(session: CatalogSession, statement: Statement) -> StatementResult:
    """COMMENT ON {CATALOG | SCHEMA | TABLE | VIEW | COLUMN} name IS {'text' | NULL}."""
    reader, kind = Reader(statement, 3), statement.tokens[2].upper
    parts = reader.name()
    _ = reader.accept("IS")
    text = reader.string() or ""
    if kind == "COLUMN":
        name = session.namespace.table(parts[:-1])
        _comment_column(session, name, _column(session, name, parts[-1]), text)
    elif kind == "CATALOG":
        session.tree.set_comment(text or None, parts[-1])
    elif kind in {"SCHEMA", "DATABASE"}:
        session.tree.set_comment(text or None, *session.namespace.schema_of(parts))
    elif kind in {"TABLE", "VIEW"}:
        name = session.namespace.table(parts)
        view = session.tree.view(name)
        if view is None:
            _change(session, name, "SET TBLPROPERTIES", lambda new: setattr(new, "description", text))
        else:
            session.tree.save_view(name, replace(view, comment=text or None))
    else:
        raise only_on_databricks(f"COMMENT ON {kind}")
    return done()

"""Schemas, views, USE and DROP. The folder tree is the truth; the engine is told."""

from __future__ import annotations

from time import time

from . import functions
from .catalog import ColumnInfo, ViewDefinition
from .deltalog import arrow_sql_type
from .errors import EngineError, catalog_not_found, only_on_databricks, table_not_found
from .names import quote
from .session import CatalogSession, Handlers, StatementResult
from .statements import Reader, Statement
from .tables import already_exists, create_table, done


def use(session: CatalogSession, statement: Statement) -> StatementResult:
    """USE [CATALOG | SCHEMA | DATABASE] name."""
    reader = Reader(statement, 1)
    if reader.accept("CATALOG") or reader.statement.starts("SET", "CATALOG"):
        session.use(catalog=reader.string() or reader.name()[-1])
        return done()
    _ = reader.accept("SCHEMA") or reader.accept("DATABASE") or reader.accept("NAMESPACE")
    session.use(*session.namespace.schema_of(reader.name()))
    return done()


def create_schema(session: CatalogSession, statement: Statement) -> StatementResult:
    """CREATE SCHEMA [IF NOT EXISTS] name; managed locations only."""
    reader = Reader(statement, 2)
    lenient = reader.accept("IF", "NOT", "EXISTS")
    catalog, schema = session.namespace.schema_of(reader.name())
    if statement.find("LOCATION", start=reader.at) is not None:
        raise only_on_databricks("CREATE SCHEMA … LOCATION")
    at = statement.find("COMMENT", start=reader.at)
    comment = None if at is None else Reader(statement, at + 1).string()
    if session.tree.create_schema(catalog, schema):
        if comment:
            session.tree.set_comment(comment, catalog, schema)
    elif not lenient:
        raise EngineError.of(
            "SCHEMA_ALREADY_EXISTS", f"Cannot create schema `{schema}` because it already exists.", "42P06"
        )
    return done()


def drop_schema(session: CatalogSession, statement: Statement) -> StatementResult:
    """DROP SCHEMA [IF EXISTS] name [RESTRICT | CASCADE]."""
    reader = Reader(statement, 2)
    lenient = reader.accept("IF", "EXISTS")
    catalog, schema = session.namespace.schema_of(reader.name())
    if lenient and not session.tree.has_schema(catalog, schema):
        return done()
    session.tree.drop_schema(catalog, schema, cascade=reader.accept("CASCADE"))
    session.forget_schema(catalog, schema)
    return done()


def create_catalog(session: CatalogSession, statement: Statement) -> StatementResult:
    """CREATE CATALOG: the engine's catalogs are fixed at its start."""
    reader = Reader(statement, 2)
    lenient = reader.accept("IF", "NOT", "EXISTS")
    name = reader.name()[-1]
    if session.tree.has_catalog(name):
        if lenient:
            return done()
        raise EngineError.of("CATALOG_ALREADY_EXISTS", f"Catalog '{name}' already exists.", "42710")
    raise catalog_not_found(name)


def drop_table(session: CatalogSession, statement: Statement) -> str | StatementResult:
    """DROP TABLE [IF EXISTS] name [PURGE]."""
    reader = Reader(statement, 2)
    lenient = reader.accept("IF", "EXISTS")
    name = session.namespace.table(reader.name())
    with session.tree.lock(name), session.lock:
        if session.tree.view(name) is not None:
            raise EngineError.of("EXPECT_TABLE_NOT_VIEW", f"{name.sql} is a view: use DROP VIEW.", "42809")
        if session.tree.exists(name):
            session.tree.drop_table(name)
            session.forget(name)
        elif not lenient:
            raise table_not_found(name.sql)
    return done()


def create_view(session: CatalogSession, statement: Statement) -> StatementResult:
    """CREATE [OR REPLACE] VIEW: persisted with every table name written out."""
    reader = Reader(statement, 1)
    replacing, lenient = reader.accept_new("VIEW")
    name = session.namespace.table(reader.name())
    session.tree.require_schema(name.catalog, name.schema)
    body = statement.find("AS", start=reader.at)
    if body is None:
        raise EngineError.of("PARSE_SYNTAX_ERROR", "Syntax error: CREATE VIEW needs AS and a query.", "42601")
    with session.tree.lock(name), session.lock:
        if session.tree.shape(name) is not None or (session.tree.view(name) and not (replacing or lenient)):
            raise already_exists(name)
        if lenient and session.tree.view(name) is not None:
            return done()
        text = statement.source(body + 1)
        query = _named_columns(functions.with_full_names(text, session), statement, reader.at, body)
        view = ViewDefinition(
            query=query, text=text, columns=_view_columns(session, query), created_at_ms=int(time() * 1000)
        )
        session.tree.save_view(name, view)
        session.learn(name)
    return done()


def _named_columns(query: str, statement: Statement, start: int, body: int) -> str:
    """Return `query` with the columns that `CREATE VIEW v (a, b)` names."""
    if start >= body or statement.tokens[start].text != "(":
        return query
    names = [quote(statement.tokens[first].name) for first, _ in statement.items(start)]
    return f"SELECT * FROM ({query}\n) AS _v ({', '.join(names)})"  # noqa: S608 - names are quoted


def _view_columns(session: CatalogSession, query: str) -> tuple[ColumnInfo, ...]:
    """Return the columns of a query. Raises `EngineError` for a view that cannot work."""
    schema = session.client.sql(f"SELECT * FROM ({query}\n) LIMIT 0").schema  # noqa: S608 - names are quoted
    return tuple(ColumnInfo(name=field.name, type=arrow_sql_type(field.type)) for field in schema)


def drop_view(session: CatalogSession, statement: Statement) -> str | StatementResult:
    """DROP VIEW [IF EXISTS] name; a temporary one is the engine's own."""
    reader = Reader(statement, 2)
    _ = reader.accept("IF", "EXISTS")
    name = session.namespace.table(reader.name())
    with session.tree.lock(name), session.lock:
        if session.tree.view(name) is None:
            return statement.text
        session.tree.drop_view(name)
        session.forget(name)
    return done()


HANDLERS: Handlers = (
    (r"USE ", use),
    (r"SET CATALOG ", use),
    (r"CREATE (SCHEMA|DATABASE) ", create_schema),
    (r"DROP (SCHEMA|DATABASE) ", drop_schema),
    (r"CREATE CATALOG ", create_catalog),
    (r"(CREATE (OR REPLACE )?(EXTERNAL )?|REPLACE )TABLE ", create_table),
    (r"DROP TABLE ", drop_table),
    (r"CREATE (OR REPLACE )?VIEW ", create_view),
    (r"DROP VIEW ", drop_view),
)

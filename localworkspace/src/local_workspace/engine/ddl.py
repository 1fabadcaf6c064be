"""Schemas, views, functions, USE and DROP. The folder tree is the truth; the engine is told.

Functions stay on the engine `spark` only, a file each beside a schema's tables. Spark makes functions in its
own catalog. There each is kept under a name of its own, which the file gives; `FolderFunctions.scala` finds
the file when a statement calls the function, in views and jobs, too.
"""

from __future__ import annotations

import json
import uuid
from itertools import pairwise
from pathlib import Path
from time import time

from sqlglot import exp, parse_one
from sqlglot.errors import SqlglotError

from .catalog import CatalogTree, ColumnInfo, ViewDefinition, write_json
from .deltalog import arrow_sql_type
from .errors import EngineError, catalog_not_found, only_on_databricks, syntax_error, table_not_found
from .names import TableName, quote
from .session import CatalogSession, StatementResult
from .show import rows_of, schema_after_in, strings
from .statements import Reader, Statement, spliced, table_names, tokenize
from .tables import already_exists, done

_HOME = "spark_catalog.default"
_SUFFIX = ".function.json"


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
        raise syntax_error("CREATE VIEW needs AS and a query.")
    with session.tree.lock(name), session.lock:
        if session.tree.shape(name) is not None or (session.tree.view(name) and not (replacing or lenient)):
            raise already_exists(name)
        if lenient and session.tree.view(name) is not None:
            return done()
        text = statement.source(body + 1)
        query = _named_columns(with_full_names(text, session), statement, reader.at, body)
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


# --- functions


def function_exists(tree: CatalogTree, name: TableName) -> bool:
    """Tell whether there is a function of this name."""
    return _file(tree, name).exists()


def _functions_in_full(text: str, session: CatalogSession) -> str:
    """Return SQL with the full names of the functions of ours that it calls."""
    places, before = [], ""
    for token, after in pairwise(tokenize(text)):
        if token.is_name and after.text == "(" and before != ".":
            name = session.namespace.table((token.name,))
            if function_exists(session.tree, name):
                places.append((token.start, token.end, name.sql))
        before = token.text
    return spliced(text, places)


def with_full_names(query: str, session: CatalogSession) -> str:
    """Return a query with full names of tables and functions: an engine resolves a view where it is read."""
    try:
        tree = parse_one(query, dialect="databricks")
    except SqlglotError as error:
        raise only_on_databricks(f"A view with a query in this form ({str(error).splitlines()[0]})") from None
    local = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
    places = []
    for table, parts, start, end in table_names(tree):
        if len(parts) != len(table.parts) or len(parts) > 2:
            continue
        if len(parts) == 1 and parts[0].lower() in local:
            continue
        name = session.namespace.table(parts)
        if session.tree.signature(name) is not None:
            places.append((start, end, name.sql))
    return _functions_in_full(spliced(query, places), session)


def create_function(session: CatalogSession, statement: Statement) -> StatementResult:
    """CREATE [OR REPLACE] FUNCTION [IF NOT EXISTS] name (parameters) … RETURN …."""
    reader = Reader(statement, 1)
    replacing, lenient = reader.accept_new("FUNCTION")
    name = session.namespace.table(reader.name())
    session.tree.require_schema(name.catalog, name.schema)
    if not statement.starts("(", at=reader.at):
        raise only_on_databricks("CREATE FUNCTION in this form")
    body = statement.find("RETURN", start=reader.at)
    if body is None:
        raise only_on_databricks("CREATE FUNCTION without RETURN")
    head, query = statement.source(reader.at, body + 1), statement.source(body + 1)
    if _functions_in_full(query, session) != query:
        raise only_on_databricks("A function that calls another one of a schema")
    definition = f"{head} {with_full_names(query, session)}"
    with session.tree.lock(name):
        if function_exists(session.tree, name) and not replacing:
            if lenient:
                return done()
            text = f"Cannot create the routine {name.sql} because a routine of that name already exists."
            raise EngineError.of("ROUTINE_ALREADY_EXISTS", text, "42723")
        home = f"{name.name}_{uuid.uuid4().hex}"
        session.client.sql(f"CREATE FUNCTION {_HOME}.{quote(home)} {definition}")
        write_json(_file(session.tree, name), {"home": home, "definition": definition})
    return done()


def drop_function(session: CatalogSession, statement: Statement) -> StatementResult:
    """DROP FUNCTION [IF EXISTS] name."""
    reader = Reader(statement, 2)
    lenient = reader.accept("IF", "EXISTS")
    name = session.namespace.table(reader.name())
    with session.tree.lock(name):
        if not function_exists(session.tree, name) and not lenient:
            raise EngineError.of("ROUTINE_NOT_FOUND", f"The routine {name.sql} cannot be found.", "42883")
        _file(session.tree, name).unlink(missing_ok=True)
    return done()


def describe_function(session: CatalogSession, statement: Statement) -> str | StatementResult:
    """DESCRIBE FUNCTION [EXTENDED] name; a function of Spark's own is its business."""
    reader = Reader(statement, 2)
    reader.accept("EXTENDED")
    name = session.namespace.table(reader.name())
    if not function_exists(session.tree, name):
        return statement.text
    definition = json.loads(_file(session.tree, name).read_text(encoding="utf-8"))["definition"]
    lines = (f"Function: {name}", "Language: SQL", f"Definition: {definition}")
    return rows_of(strings("function_desc"), [(line,) for line in lines])


def show_functions(session: CatalogSession, statement: Statement) -> StatementResult:
    """SHOW USER FUNCTIONS [IN schema]."""
    reader = Reader(statement, 3)
    catalog, schema = schema_after_in(session, reader)
    session.tree.require_schema(catalog, schema)
    if not reader.done:
        raise only_on_databricks("SHOW USER FUNCTIONS … LIKE")
    found = session.tree.schema_path(catalog, schema).glob(f"[!.]*{_SUFFIX}")
    names = sorted(path.name.removesuffix(_SUFFIX) for path in found)
    return rows_of(strings("function"), [(f"{catalog}.{schema}.{name}",) for name in names])


def _file(tree: CatalogTree, name: TableName) -> Path:
    return tree.schema_path(name.catalog, name.schema) / f"{name.name}{_SUFFIX}"

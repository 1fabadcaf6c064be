"""SQL functions that stay (CREATE FUNCTION), on the engine `spark`: a file each beside a schema's tables.

Spark makes functions in its own catalog only. There each is kept under a name of its own, which the file
gives; `FolderFunctions.scala` finds the file when a statement calls the function, in views and jobs, too.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path

from .catalog import CatalogTree
from .errors import EngineError, only_on_databricks
from .names import TableName, quote
from .session import CatalogSession, StatementResult
from .show import rows_of, strings
from .statements import Reader, Statement, tokenize
from .tables import done

_HOME = "spark_catalog.default"
_SUFFIX = ".function.json"


def exists(tree: CatalogTree, name: TableName) -> bool:
    """Tell whether there is a function of this name."""
    return _file(tree, name).exists()


def _functions_in_full(text: str, session: CatalogSession) -> str:
    """Return SQL with the full names of the functions of ours that it calls."""
    tokens = tokenize(text)
    pieces, last = [], 0
    for before, token, after in zip([None, *tokens], tokens, tokens[1:], strict=False):
        if token.is_name and after.text == "(" and (before is None or before.text != "."):
            name = session.namespace.table((token.name,))
            if exists(session.tree, name):
                pieces += [text[last : token.start], name.sql]
                last = token.end
    return "".join([*pieces, text[last:]])


def with_full_names(query: str, session: CatalogSession) -> str:
    """Return a query with full names of tables and functions: an engine resolves a view where it is read."""
    from sqlglot import exp, parse_one
    from sqlglot.errors import SqlglotError

    try:
        tree = parse_one(query, dialect="databricks")
    except SqlglotError as error:
        raise only_on_databricks(f"A view with a query in this form ({str(error).splitlines()[0]})") from None
    local = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
    places = []
    for table in tree.find_all(exp.Table):
        names = [part for part in table.parts if isinstance(part, exp.Identifier)]
        parts = tuple(part.name for part in names)
        if (
            len(parts) != len(table.parts)
            or len(parts) > 2
            or (len(parts) == 1 and parts[0].lower() in local)
        ):
            continue
        name = session.namespace.table(parts)
        if session.tree.signature(name) is not None:
            places.append((names[0].meta["start"], names[-1].meta["end"] + 1, name.sql))
    for start, end, text in sorted(places, reverse=True):
        query = f"{query[:start]}{text}{query[end:]}"
    return _functions_in_full(query, session)


def create(session: CatalogSession, statement: Statement) -> StatementResult:
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
        if exists(session.tree, name) and not replacing:
            if lenient:
                return done()
            text = f"Cannot create the routine {name.sql} because a routine of that name already exists."
            raise EngineError.of("ROUTINE_ALREADY_EXISTS", text, "42723")
        home = f"{name.name}_{uuid.uuid4().hex}"
        session.client.sql(f"CREATE FUNCTION {_HOME}.{quote(home)} {definition}")
        file = _file(session.tree, name)
        draft = file.with_name(f".{file.name}.{home}")
        draft.write_text(json.dumps({"home": home, "definition": definition}), encoding="utf-8")
        draft.replace(file)
    return done()


def drop(session: CatalogSession, statement: Statement) -> StatementResult:
    """DROP FUNCTION [IF EXISTS] name."""
    reader = Reader(statement, 2)
    lenient = reader.accept("IF", "EXISTS")
    name = session.namespace.table(reader.name())
    with session.tree.lock(name):
        if not exists(session.tree, name) and not lenient:
            raise EngineError.of("ROUTINE_NOT_FOUND", f"The routine {name.sql} cannot be found.", "42883")
        _file(session.tree, name).unlink(missing_ok=True)
    return done()


def describe(session: CatalogSession, statement: Statement) -> str | StatementResult:
    """DESCRIBE FUNCTION [EXTENDED] name; a function of Spark's own is its business."""
    reader = Reader(statement, 2)
    reader.accept("EXTENDED")
    name = session.namespace.table(reader.name())
    if not exists(session.tree, name):
        return statement.text
    definition = json.loads(_file(session.tree, name).read_text(encoding="utf-8"))["definition"]
    lines = (f"Function: {name}", "Language: SQL", f"Definition: {definition}")
    return rows_of(strings("function_desc"), [(line,) for line in lines])


def show(session: CatalogSession, statement: Statement) -> StatementResult:
    """SHOW USER FUNCTIONS [IN schema]."""
    reader = Reader(statement, 3)
    catalog, schema = session.namespace.catalog, session.namespace.schema
    if reader.accept("IN") or reader.accept("FROM"):
        catalog, schema = session.namespace.schema_of(reader.name())
    session.tree.require_schema(catalog, schema)
    if not reader.done:
        raise only_on_databricks("SHOW USER FUNCTIONS … LIKE")
    found = session.tree.schema_path(catalog, schema).glob(f"[!.]*{_SUFFIX}")
    names = sorted(path.name.removesuffix(_SUFFIX) for path in found)
    return rows_of(strings("function"), [(f"{catalog}.{schema}.{name}",) for name in names])


def _file(tree: CatalogTree, name: TableName) -> Path:
    return tree.schema_path(name.catalog, name.schema) / f"{name.name}{_SUFFIX}"

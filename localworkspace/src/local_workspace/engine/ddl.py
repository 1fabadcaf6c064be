"""Data definition: schemas, tables, views, USE. The folder tree is the truth; the engine is told."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arrowtypes import arrow_sql_type
from .catalog import DRAFT, ColumnInfo, ViewDefinition
from .copies import as_query
from .described import describe, without_comment
from .errors import EngineError, catalog_not_found, table_not_found, unsupported
from .keys import without_keys
from .lexer import quote
from .literals import string_literal
from .names import TableName
from .properties import pairs_of, readable_by_all
from .statements import Handler, Reader, Statement
from .views import qualify

if TYPE_CHECKING:
    from .session import CatalogSession


def done() -> dict[str, Any]:
    """The result of a statement without one."""
    import pyarrow as pa

    return {"table": pa.table({})}


def use(session: CatalogSession, statement: Statement) -> dict[str, Any]:
    """USE [CATALOG | SCHEMA | DATABASE] name."""
    reader = Reader(statement, 1)
    if reader.accept("CATALOG") or reader.statement.starts("SET", "CATALOG"):
        session.use(catalog=reader.string() or reader.name()[-1])
        return done()
    _ = reader.accept("SCHEMA") or reader.accept("DATABASE") or reader.accept("NAMESPACE")
    session.use(*session.namespace.schema_of(reader.name()))
    return done()


# Databricks SQL's own parameters (docs.databricks.com, "Configuration parameters"), and what they are here.
_PARAMETERS = {"ANSI_MODE": "spark.sql.ansi.enabled", "TIMEZONE": "spark.sql.session.timeZone"}
_WITHOUT_EFFECT = {"USE_CACHED_RESULT", "ENABLE_PHOTON", "STATEMENT_TIMEOUT", "MAX_FILE_PARTITION_BYTES"}


def set_configuration(session: CatalogSession, statement: Statement) -> str | dict[str, Any]:
    """SET key = value, for keys that the engine's own SET does not take; other forms are the engine's."""
    if statement.starts("SET", "TIME", "ZONE"):
        session.client.configure({"spark.sql.session.timeZone": statement.source(3).strip("'\"")})
        return done()
    if statement.starts("SET", "VAR") or statement.starts("SET", "VARIABLE"):
        raise unsupported("SET VARIABLE")
    key, equals, value = statement.text.strip()[3:].partition("=")
    if key.strip().upper() in _WITHOUT_EFFECT and equals:
        return done()
    key = _PARAMETERS.get(key.strip().upper(), key)
    if not equals or "." not in key:
        return statement.text
    session.client.configure({key.strip(): value.strip().strip("'\"")})
    return done()


def create_schema(session: CatalogSession, statement: Statement) -> dict[str, Any]:
    """CREATE SCHEMA [IF NOT EXISTS] name; managed locations only."""
    reader = Reader(statement, 2)
    lenient = reader.accept("IF", "NOT", "EXISTS")
    catalog, schema = session.namespace.schema_of(reader.name())
    if statement.find("LOCATION", start=reader.at) is not None:
        raise unsupported("CREATE SCHEMA … LOCATION")
    if not session.tree.create_schema(catalog, schema) and not lenient:
        raise EngineError.of(
            "SCHEMA_ALREADY_EXISTS", f"Cannot create schema `{schema}` because it already exists.", "42P06"
        )
    return done()


def drop_schema(session: CatalogSession, statement: Statement) -> dict[str, Any]:
    """DROP SCHEMA [IF EXISTS] name [RESTRICT | CASCADE]."""
    reader = Reader(statement, 2)
    lenient = reader.accept("IF", "EXISTS")
    catalog, schema = session.namespace.schema_of(reader.name())
    if lenient and not session.tree.has_schema(catalog, schema):
        return done()
    session.tree.drop_schema(catalog, schema, cascade=reader.accept("CASCADE"))
    session.forget_schema(catalog, schema)
    return done()


def create_catalog(_session: CatalogSession, statement: Statement) -> dict[str, Any]:
    """CREATE CATALOG: the engine's catalogs are fixed at its start."""
    reader = Reader(statement, 2)
    lenient = reader.accept("IF", "NOT", "EXISTS")
    name = reader.name()[-1]
    if _session.tree.has_catalog(name):
        if lenient:
            return done()
        raise EngineError.of("CATALOG_ALREADY_EXISTS", f"Catalog '{name}' already exists.", "42710")
    raise catalog_not_found(name)


_CLAUSES = (
    "USING",
    "PARTITIONED",
    "CLUSTER",
    "COMMENT",
    "TBLPROPERTIES",
    "LOCATION",
    "OPTIONS",
    "AS",
    "SELECT",
    "WITH",
    "DEFAULT",
    "LIKE",
    "DEEP",
    "SHALLOW",
    "CLONE",
)


def create_table(session: CatalogSession, statement: Statement) -> str | dict[str, Any]:
    """CREATE [OR REPLACE] TABLE in all its forms."""
    reader = Reader(statement)
    replacing = reader.accept("CREATE", "OR", "REPLACE") or reader.accept("REPLACE")
    _ = reader.accept("CREATE")
    _ = reader.accept("EXTERNAL")
    reader.accept("TABLE")
    lenient = reader.accept("IF", "NOT", "EXISTS")
    name = session.namespace.table(reader.name())
    session.tree.require_schema(name.catalog, name.schema)
    statement = without_keys(as_query(session, statement, reader.at), reader.at)
    create = session.create(statement, name, reader.at)
    with session.tree.lock(name), session.lock:
        if session.tree.view(name) is not None:
            raise already_exists(name)
        if session.tree.shape(name) is None:
            return create.fresh(name)
        if replacing:
            return create.replace()
        if lenient:
            return done()
        raise already_exists(name)


def already_exists(name: TableName) -> EngineError:
    """The error for making what is there."""
    return EngineError.of(
        "TABLE_OR_VIEW_ALREADY_EXISTS",
        f"Cannot create table or view {name.sql} because it already exists. Choose another name, drop it, "
        "or add IF NOT EXISTS or OR REPLACE.",
        "42P07",
    )


class Create:
    """The making of one table; the caller holds the table's lock."""

    def __init__(
        self, session: CatalogSession, statement: Statement, name: TableName, after_name: int
    ) -> None:
        body = statement.find("AS", "SELECT", "WITH", start=after_name)
        self.comment = None
        if body is not None:
            statement, self.comment = without_comment(statement, after_name, body)
            body = statement.find("AS", "SELECT", "WITH", start=after_name)
        statement = readable_by_all(statement, start=after_name, end=body, left_out=session.left_out)
        self.session = session
        self.statement = statement
        self.name = name
        self.after_name = after_name
        start = statement.find(*_CLAUSES, start=after_name)
        self.clauses = len(statement.tokens) if start is None else start
        self.body = statement.find("AS", "SELECT", "WITH", start=self.clauses)

    def fresh(self, name: TableName) -> dict[str, Any]:
        """Create the table under `name` (not there yet), and put it in the tree."""
        session, tree = self.session, self.session.tree
        session.forget(name)
        tree.discard_unborn(name)
        location = self._location()
        if location is not None:
            tree.register_external(name, location)
        try:
            session.client.sql(self._text(name))
        except EngineError:
            session.doubt(name)
            if location is not None:
                tree.drop_table(name)
            tree.discard_unborn(name)
            raise
        session.learned(name)
        describe(session, name, self.comment, {})
        return done() if self.body is None else made()

    def replace(self) -> dict[str, Any]:
        """Replace the table's rows and schema in one commit, so that its history stays."""
        if self.body is None:
            self._replace_empty()
            return done()
        partitions = self._words_in_parentheses("PARTITIONED")
        query = self.statement.source(self.body + (self.statement.tokens[self.body].upper == "AS"))
        self.session.client.write_table(
            query, table=self.name.sql, options={"overwriteSchema": "true"}, partitions=partitions
        )
        at = self._clause("TBLPROPERTIES")
        describe(self.session, self.name, self.comment, pairs_of(self.statement, at + 1) if at else {})
        self.session.forget(self.name)
        self.session.learn(self.name)
        return made()

    def _replace_empty(self) -> None:
        """Replace by an empty table: let the engine read the definition, then commit that over the old
        one.
        """
        from deltalake import DeltaTable

        draft = replace(self.name, name=f"{DRAFT}{uuid.uuid4().hex}")
        self.fresh(draft)
        tree = self.session.tree
        shape = tree.require(draft)
        schema = DeltaTable(str(tree.location(draft))).schema()
        DeltaTable.create(
            str(tree.location(self.name)),
            schema,
            mode="overwrite",
            partition_by=list(shape.partition_columns),
            configuration=dict(shape.properties),
            description=shape.description,
        )
        tree.drop_table(draft)
        self.session.forget(draft)

    def _text(self, name: TableName) -> str:
        """The CREATE TABLE statement for the engine: with USING DELTA, without CLUSTER BY."""
        using, clauses = self._using(), self._without_cluster_by()
        folder = self.session.tree.location(name)
        if folder.name != name.name and self._clause("LOCATION") is None:  # where the engine would not put it
            clauses = f"LOCATION {string_literal(str(folder))} {clauses if using else self._after_using()}"
            using = "USING DELTA"
        return f"CREATE TABLE {name.sql} {self._columns()} {using} {clauses}"

    def _after_using(self) -> str:
        return Statement.parse(self._without_cluster_by()).source(2)

    def _columns(self) -> str:
        return self.statement.source(self.after_name, self.clauses) if self.clauses > self.after_name else ""

    def _using(self) -> str:
        """`USING DELTA`, unless the statement says so itself; raises when it wants another format."""
        using = self._clause("USING")
        if using is None:
            return "USING DELTA"
        if self.statement.tokens[using + 1].upper != "DELTA":
            raise unsupported(
                f"CREATE TABLE USING {self.statement.tokens[using + 1].text}: only Delta tables, which it"
            )
        return ""

    def _clause(self, word: str) -> int | None:
        """The token at which a clause begins; None when the statement has none."""
        at = self.statement.find(word, start=self.clauses)
        return None if at is None or (self.body is not None and at > self.body) else at

    def _without_cluster_by(self) -> str:
        statement = self.statement
        at = self._clause("CLUSTER")
        if at is None:
            return statement.source(self.clauses)
        after = at + 3  # CLUSTER BY AUTO, or CLUSTER BY ( …
        if statement.tokens[at + 2].text == "(":
            while statement.tokens[after - 1].text != ")":
                after += 1
        head = statement.source(self.clauses, at) if at > self.clauses else ""
        return f"{head} {statement.source(after)}"

    def _location(self) -> Path | None:
        at = self._clause("LOCATION")
        if at is None:
            return None
        path = Reader(self.statement, at + 1).string()
        return Path(path) if path else None

    def _words_in_parentheses(self, clause: str) -> list[str]:
        at = self._clause(clause)
        if at is None:
            return []
        end = self.statement.tokens.index(next(t for t in self.statement.tokens[at:] if t.text == ")"))
        return [token.name for token in self.statement.tokens[at + 2 : end] if token.is_name]


def made() -> dict[str, Any]:
    """What Databricks returns for CREATE TABLE … AS: the columns of an insert's result, and no row."""
    empty = inserted(0)["table"].slice(0, 0)
    return {"table": empty}


def inserted(count: int) -> dict[str, Any]:
    """What Databricks returns for an insert."""
    import pyarrow as pa

    return {
        "table": pa.table({"num_affected_rows": [count], "num_inserted_rows": [count]}),
        "affected_rows": count,
    }


def drop_table(session: CatalogSession, statement: Statement) -> dict[str, Any] | str:
    """DROP TABLE [IF EXISTS] name [PURGE]."""
    reader = Reader(statement, 2)
    lenient = reader.accept("IF", "EXISTS")
    name = session.namespace.table(reader.name())
    with session.tree.lock(name), session.lock:
        if session.tree.shape(name) is not None:
            session.tree.drop_table(name)
            session.forget(name)
        elif session.tree.view(name) is not None:
            raise EngineError.of("EXPECT_TABLE_NOT_VIEW", f"{name.sql} is a view: use DROP VIEW.", "42809")
        elif not lenient:
            raise table_not_found(name.sql)
    return done()


def create_view(session: CatalogSession, statement: Statement) -> dict[str, Any]:
    """CREATE [OR REPLACE] VIEW: persisted with every table name written out."""
    reader = Reader(statement, 1)
    replacing = reader.accept("OR", "REPLACE")
    reader.accept("VIEW")
    lenient = reader.accept("IF", "NOT", "EXISTS")
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
        query = _named_columns(qualify(Statement.parse(text), session), statement, reader.at, body)
        session.tree.save_view(
            name, ViewDefinition(query=query, text=text, columns=_view_columns(session, query))
        )
        session.learn(name)
    return done()


def _named_columns(query: str, statement: Statement, start: int, body: int) -> str:
    """`query` with the columns that `CREATE VIEW v (a, b)` names."""
    if statement.tokens[start].text != "(":
        return query
    names, expecting, depth = [], True, 0
    for token in statement.tokens[start:body]:
        depth += (token.text == "(") - (token.text == ")")
        if expecting and token.is_name:
            names.append(quote(token.name))
        expecting = depth == 1 and token.text in {"(", ","}
        if depth == 0:
            break
    return f"SELECT * FROM ({query}) AS _v ({', '.join(names)})"  # noqa: S608 - names are quoted


def _view_columns(session: CatalogSession, query: str) -> tuple[ColumnInfo, ...]:
    """The columns of a query; this is also where a view that cannot work is refused."""
    schema = session.client.sql(f"SELECT * FROM ({query}\n) LIMIT 0").schema  # noqa: S608 - names are quoted
    return tuple(ColumnInfo(name=field.name, type=arrow_sql_type(field.type)) for field in schema)


def drop_view(session: CatalogSession, statement: Statement) -> dict[str, Any] | str:
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


HANDLERS: tuple[tuple[str, Handler], ...] = (
    (r"USE ", use),
    (r"SET CATALOG ", use),
    (r"SET [A-Z_]+(\W|$)", set_configuration),
    (r"CREATE (SCHEMA|DATABASE) ", create_schema),
    (r"DROP (SCHEMA|DATABASE) ", drop_schema),
    (r"CREATE CATALOG ", create_catalog),
    (r"(CREATE (OR REPLACE )?(EXTERNAL )?|REPLACE )TABLE ", create_table),
    (r"DROP TABLE ", drop_table),
    (r"CREATE (OR REPLACE )?VIEW ", create_view),
    (r"DROP VIEW ", drop_view),
)

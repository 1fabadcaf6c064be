"""A session's view of the catalog tree, and statements run in it.

The engine's catalogs live and die with a session, so each session learns a table the first time a statement
names it, and again when the table's shape has changed in the meantime.
"""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import dialect, statements
from .catalog import CatalogTree
from .errors import EngineError, at_place, catalog_not_found, schema_not_found
from .lexer import chains, quote, tokenize
from .literals import inline, string_literal
from .names import Namespace, TableName
from .properties import LEFT_OUT_ON_SAIL
from .wire import ConnectClient

if TYPE_CHECKING:
    from .ddl import Create

# Sail makes parquet tables unless told otherwise; Databricks makes Delta ones and runs in UTC.
SESSION_CONF = {"spark.sql.sources.default": "delta", "spark.sql.session.timeZone": "UTC"}

# Statements whose effects are all in the folder tree, and in the session's namespace.
_LEAVES_NOTHING = re.compile(
    r"\s*(SELECT|WITH|VALUES|SHOW|DESCRIBE|DESC|EXPLAIN|INSERT|UPDATE|DELETE|MERGE|TRUNCATE|DROP|ALTER|"
    r"OPTIMIZE|VACUUM|RESTORE|COMMENT|USE|CREATE\s+(OR\s+REPLACE\s+)?(TABLE|VIEW|SCHEMA|DATABASE))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class StatementResult:
    """A statement's rows (a pyarrow.Table; no columns for DDL) and, for DML, how many rows it changed."""

    table: Any
    affected_rows: int | None = None


class CatalogSession:
    """One engine session kept in step with the catalog tree. Safe for threads.

    Written for an engine whose catalogs live in the session (Sail); another overrides what it knows already.
    """

    # Whether the engine keeps tables in memory when asked.
    caches = False
    # Table properties (in lower case) that are left out of what makes or changes a table.
    left_out = LEFT_OUT_ON_SAIL

    def __init__(self, tree: CatalogTree, client: ConnectClient) -> None:
        self.tree = tree
        self.client = client
        self.namespace = Namespace(catalog=tree.catalogs()[0], schema="default")
        self.lock = threading.RLock()
        self._known: dict[TableName, str | None] = {}
        self._schemas: set[tuple[str, str]] = set()
        self._ready = False

    def begin(self) -> None:
        """Prepare the engine's side of the session; later calls do nothing."""
        with self.lock:
            if not self._ready:
                self.configure()
                self._ready = True
                self.learn_schema(self.namespace.catalog, self.namespace.schema)

    def use(self, catalog: str | None = None, schema: str | None = None) -> None:
        """Make a catalog or schema the current one; raises when it does not exist."""
        catalog = (catalog or self.namespace.catalog).lower()
        schema = (schema or "default").lower()
        if not self.tree.has_catalog(catalog):
            raise catalog_not_found(catalog)
        if not self.tree.has_schema(catalog, schema):
            raise schema_not_found(catalog, schema)
        with self.lock:
            self.begin()
            self.learn_schema(catalog, schema)
            self.switch(catalog, schema)
            self.namespace = Namespace(catalog=catalog, schema=schema)

    def move(self) -> None:
        """Go on in a new session on the server where sessions begin now, or, where that fails, stay.

        Nothing may run in the session meanwhile.
        """
        with self.lock:
            before = self.client, self._known, self._schemas
            self.client, self._known, self._schemas = self.client.successor(), {}, set()
            self._ready = False
            try:
                self.use(self.namespace.catalog, self.namespace.schema)
                given_up = before[0]
            except EngineError:  # such as: somebody has dropped the current schema
                given_up = self.client
                self.client, self._known, self._schemas = before
                self._ready = True
        with suppress(EngineError):  # its server may be gone; the session then is, too
            given_up.release()

    def switch(self, catalog: str, schema: str) -> None:
        """Make the engine resolve names in a schema that it knows."""
        self.client.sql(f"USE CATALOG {quote(catalog)}")
        self.client.sql(f"USE SCHEMA {quote(schema)}")

    def configure(self) -> None:
        """Set what a new session of the engine needs."""
        self.client.configure(SESSION_CONF)

    def handler_of(self, statement: statements.Statement) -> statements.Handler | None:
        """Who carries out a statement; None when the engine runs it as it is."""
        return statements.handler_of(statement)

    def plainer(self, statement: statements.Statement) -> statements.Statement:
        """A statement in words that the engine has."""

        def columns(query: str) -> list[str]:
            return list(self.client.sql(query).column_names)

        return dialect.plainer(statement, columns)

    def create(self, statement: statements.Statement, name: TableName, after_name: int) -> Create:
        """The making of the table `name` by a CREATE TABLE statement; its name ends before `after_name`."""
        from .ddl import Create

        return Create(self, statement, name, after_name)

    def adapt_write(self, write: Any, name: TableName) -> None:
        """Bring a DataFrame's write into the table `name` into the form that the engine takes."""

    def prepare(self, names: Iterable[tuple[str, ...]]) -> None:
        """Teach the engine every table that `names` may mean. Names that mean none do no harm."""
        with self.lock:
            self.begin()
            seen: set[TableName] = set()
            for parts in names:
                self._learn_schemas_of(parts)
                seen.update(self.namespace.candidates(parts))
            for name in seen:
                self.learn(name)

    def learn(self, name: TableName) -> None:
        """Bring one table or view up to date in the engine."""
        current = self.tree.signature(name)
        if self._known.get(name) == current and name in self._known:
            return
        if current is None and name not in self._known:
            return
        self.learn_schema(name.catalog, name.schema)
        self.forget(name)
        if current is None:
            return
        view = self.tree.view(name) if current.startswith("view:") else None
        if view is not None:
            self.prepare(parts for parts, _, _ in chains(tokenize(view.query)))
            self.client.sql(f"CREATE OR REPLACE VIEW {name.sql} AS {view.query}")
        else:
            location = string_literal(str(self.tree.location(name)))
            self.client.sql(f"CREATE TABLE IF NOT EXISTS {name.sql} USING DELTA LOCATION {location}")
        self._known[name] = current

    def wrote(self, name: TableName) -> None:
        """Do what Databricks does after a write, and the engine does not."""
        self.tree.compaction.after_write(name)

    def learned(self, name: TableName) -> None:
        """Note that the engine has just made this table itself, so it knows its present shape."""
        self._known[name] = self.tree.signature(name)

    def doubt(self, name: TableName) -> None:
        """Note that the engine may have an entry for a table that is not in the tree (a CREATE that
        failed).
        """
        self._known[name] = None

    def forget(self, name: TableName) -> None:
        """Make the engine drop its entry of a table; files stay."""
        if name not in self._known:
            return
        known = self._known.pop(name)
        kinds = ("VIEW",) if (known or "").startswith("view:") else ("TABLE",)
        for kind in kinds:
            self.client.sql(f"DROP {kind} IF EXISTS {name.sql}")

    def forget_schema(self, catalog: str, schema: str) -> None:
        """Make the engine drop a schema and all it knows in it; files stay."""
        with self.lock:
            for name in [name for name in self._known if (name.catalog, name.schema) == (catalog, schema)]:
                self.forget(name)
            if (catalog, schema) in self._schemas:
                self._schemas.discard((catalog, schema))
                self.client.sql(f"DROP SCHEMA IF EXISTS {quote(catalog)}.{quote(schema)}")

    def learn_all(self, catalog: str, schema: str | None = None) -> None:
        """Teach the engine a whole schema, or all schemas of a catalog (without their tables)."""
        with self.lock:
            self.begin()
            if schema is None:
                for each in self.tree.schemas(catalog):
                    self.learn_schema(catalog, each)
            elif self.tree.has_schema(catalog, schema):
                self.learn_schema(catalog, schema)
                for table in self.tree.tables(catalog, schema):
                    self.learn(TableName(catalog, schema, table))

    def run(self, sql: str) -> StatementResult:
        """Run one statement in full; raises `EngineError`."""
        try:
            outcome = self.translate(sql)
            if isinstance(outcome, StatementResult):
                return outcome
            return StatementResult(table=self.client.sql(outcome))
        except EngineError as error:
            raise at_place(error, sql) from error

    def translate(self, sql: str) -> StatementResult | str:
        """Carry out `sql` if it needs more than the engine can do; otherwise the text for the engine to
        run.
        """
        statement = statements.Statement.parse(sql)
        self.prepare(statement.names())
        plain = self.plainer(statement)
        if plain is not statement:  # IDENTIFIER('…') may have become a name
            self.prepare(plain.names())
        statement = plain
        handler = self.handler_of(statement)
        text = statements.map_paths(statement, self.tree)
        if handler is None:
            return text
        outcome = handler(self, statements.Statement.parse(text) if text != statement.text else statement)
        return outcome if isinstance(outcome, str) else StatementResult(**outcome)

    def _learn_schemas_of(self, parts: tuple[str, ...]) -> None:
        low = tuple(part.lower() for part in parts)
        if len(low) > 1 and self.tree.has_schema(low[0], low[1]):
            self.learn_schema(low[0], low[1])
        if low and self.tree.has_schema(self.namespace.catalog, low[0]):
            self.learn_schema(self.namespace.catalog, low[0])

    def learn_schema(self, catalog: str, schema: str) -> None:
        """Teach the engine a schema that exists."""
        if (catalog, schema) in self._schemas:
            return
        name = f"{quote(catalog)}.{quote(schema)}"
        if schema == "default":
            # The engine makes this one itself, without a folder.
            self.client.sql(f"DROP SCHEMA IF EXISTS {name}")
        location = string_literal(str(self.tree.schema_path(catalog, schema)))
        self.client.sql(f"CREATE SCHEMA IF NOT EXISTS {name} LOCATION {location}")
        self._schemas.add((catalog, schema))


class EngineSession:
    """A session of the SQL warehouse. One statement at a time; `cancel` may come from any thread."""

    def __init__(self, catalog_session: CatalogSession) -> None:
        self._session = catalog_session
        self._movable = True
        self._running = 0
        self._closed = False
        self._turn = threading.Lock()

    def begin(self, catalog: str | None, schema: str | None) -> None:
        """Begin in a catalog and schema; raises `EngineError` when they do not exist."""
        self._session.begin()
        if catalog or schema:
            self._session.use(catalog, schema)

    @property
    def namespace(self) -> Namespace:
        """The current catalog and schema."""
        return self._session.namespace

    def execute(
        self, sql: str, parameters: Mapping[str, Any] | Sequence[Any] | None = None
    ) -> StatementResult:
        """Run one statement with `parameters` (`:name` or `?`) bound. Raises `EngineError`."""
        text = inline(sql, parameters)
        if not text.strip().rstrip(";").strip():
            raise EngineError.of(
                "PARSE_EMPTY_STATEMENT", "Syntax error, unexpected empty statement.", "42617"
            )
        self.follow()
        with self._turn:
            self._running += 1
            # What lives in the engine's session only, such as a temporary view, keeps it where it is.
            self._movable = self._movable and _LEAVES_NOTHING.match(text) is not None
        try:
            with self._session.client.statement():
                return self._session.run(text)
        finally:
            with self._turn:
                self._running -= 1
            self.follow()  # it may be the last statement for a long time

    def follow(self) -> None:
        """Move to the server where sessions begin now, unless something runs or would be left behind."""
        with self._turn:
            idle = self._movable and not self._closed and self._running == 0
            if idle and not self._session.client.is_current:
                self._session.move()

    def cancel(self) -> None:
        """Interrupt the statement that runs now; it raises OPERATION_CANCELED in its own thread."""
        self._session.client.interrupt()

    def close(self) -> None:
        """End the session. Harmless when the engine is gone already."""
        with self._turn:
            self._closed = True
        try:
            self._session.client.release()
        except EngineError as error:
            if error.condition not in {"ENGINE_UNAVAILABLE", "ENGINE_ERROR"}:
                raise


def new_session_id() -> str:
    """An id for a Spark Connect session: the protocol wants a UUID."""
    return str(uuid.uuid4())

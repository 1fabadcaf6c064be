"""Sessions: statements run by an engine, kept in step with the catalog tree."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local_workspace import threads

from . import information_schema
from .catalog import CatalogTree
from .errors import (
    EngineError,
    at_place,
    catalog_not_found,
    operation_canceled,
    schema_not_found,
    session_lost,
    statement_timed_out,
    table_not_found,
)
from .literals import bind, with_current_schema
from .names import Namespace, TableName, folded, quote
from .paths import map_paths
from .statements import Statement

if TYPE_CHECKING:
    from .wire import ConnectClient

# Statements whose effects are all in the folder tree, and in the session's namespace.
_LEAVES_NOTHING = re.compile(
    r"\s*(SELECT|WITH|VALUES|SHOW|DESCRIBE|DESC|EXPLAIN|INSERT|UPDATE|DELETE|MERGE|TRUNCATE|DROP|ALTER|"
    r"OPTIMIZE|VACUUM|RESTORE|COMMENT|USE|SET|CREATE\s+(OR\s+REPLACE\s+)?(TABLE|VIEW|SCHEMA|DATABASE))\b",
    re.IGNORECASE,
)
# The setting under which an overwrite keeps the partitions that it does not write to.
OVERWRITE_MODE = "spark.sql.sources.partitionOverwriteMode"
# The parameter of Databricks SQL that limits a statement, in seconds; 0 is no limit.
STATEMENT_TIMEOUT = "STATEMENT_TIMEOUT"
Parameters = Mapping[str, Any] | Sequence[Any] | None


@dataclass(frozen=True, kw_only=True)
class StatementResult:
    """A statement's rows (a pyarrow.Table; no columns for DDL) and, for DML, how many rows it changed."""

    table: Any
    affected_rows: int | None = None


# A handler carries out a statement, or returns SQL for the engine to run.
Handler = Callable[[Any, Statement], str | StatementResult]
Handlers = Sequence[tuple[str, Handler]]


class CatalogSession:
    """One engine session on one catalog tree. Safe for threads. An engine overrides what it needs."""

    # Whether the engine keeps tables in memory when asked.
    caches = False
    # Whether the engine lets a schema be the current one that is not in the tree yet.
    knows_absent = False
    # Table properties (in lower case) that are left out of what makes or changes a table.
    left_out: frozenset[str] = frozenset()
    # Patterns of leading words, and who carries out such a statement; the first match counts.
    handlers: Handlers = ()
    # The class by which CREATE TABLE makes a table (`tables.Create`).
    creation: Any = None

    def __init__(self, tree: CatalogTree, client: ConnectClient) -> None:
        self.tree = tree
        self.client = client
        self.namespace = Namespace(catalog=tree.catalogs()[0], schema="default")
        self.lock = threading.RLock()
        self._ready = False
        self._awaits_schema = False
        # Databricks SQL's parameters that were set, and the engine's settings, to be told to a new server.
        self.parameters: dict[str, str] = {}
        self._settings: dict[str, str] = {}

    def set_configuration(self, settings: Mapping[str, str]) -> None:
        """Change settings of the engine for this session."""
        with self.lock:
            self.begin()
            self._settings.update(settings)
            self.client.configure(dict(settings))

    def begin(self) -> None:
        """Prepare the engine's side of the session; later calls do nothing."""
        with self.lock:
            if not self._ready:
                self.configure()
                if self._settings:
                    self.client.configure(self._settings)
                self._ready = True
                self.learn_schema(self.namespace.catalog, self.namespace.schema)

    def use(self, catalog: str | None = None, schema: str | None = None, *, absent: bool = False) -> None:
        """Make a catalog or schema the current one; raises `EngineError` when it does not exist.

        With `absent`, the schema may be made later, as Databricks allows when a connection is opened.
        """
        catalog = (catalog or self.namespace.catalog).lower()
        schema = folded(schema or "default")
        if not self.tree.has_catalog(catalog):
            raise catalog_not_found(catalog)
        exists = self.tree.has_schema(catalog, schema)
        if not exists and not absent:
            raise schema_not_found(catalog, schema)
        with self.lock:
            self.begin()
            self._awaits_schema = not exists and not self.knows_absent
            known = "default" if self._awaits_schema else schema
            self.learn_schema(catalog, known)
            self.switch(catalog, known)
            self.namespace = Namespace(catalog=catalog, schema=schema)

    def move(self) -> bool:
        """Go on in a new session on the server where sessions begin now, or, where that fails, stay.

        Return whether the session has moved. Nothing may run in it meanwhile.
        """
        with self.lock:
            before = self.client
            self.client, self._ready = before.successor(), False
            try:
                self.use(self.namespace.catalog, self.namespace.schema, absent=True)
                given_up = before
            except EngineError:  # such as: the new server is gone already
                given_up, self.client, self._ready = self.client, before, True
        with suppress(EngineError):  # its server may be gone; the session then is, too
            given_up.release()
        return given_up is before

    # --- statements

    def run(self, sql: str, parameters: Parameters = None) -> StatementResult:
        """Run one statement in full; raises `EngineError`."""
        try:
            outcome = self.translate(sql, parameters)
            if isinstance(outcome, StatementResult):
                return outcome
            return StatementResult(table=self.client.sql(outcome))
        except EngineError as error:
            raise at_place(error, sql) from error

    def translate(self, sql: str, parameters: Parameters = None) -> StatementResult | str:
        """Carry out `sql` if it needs more than the engine can do; else return the text for the engine."""
        return self.carry_out(bind(Statement.parse(sql), parameters))

    def carry_out(self, statement: Statement) -> StatementResult | str:
        """Do what `translate` does, for a statement whose parameters are bound."""
        self.tree.paths.require_all(statement)
        self.prepare([] if statement.starts("DROP") else statement.names())  # of a broken table, too
        if self._awaits_schema:
            statement = with_current_schema(statement, self.namespace.schema)
        statement = information_schema.served(statement, self.tree, self.client, self.namespace.catalog)
        rewritten = self.rewritten(statement)
        if rewritten is not statement:  # IDENTIFIER('…') may have become a name
            self.prepare(rewritten.names())
        text = map_paths(rewritten, self.tree.root)
        if text != rewritten.text:
            rewritten = Statement.parse(text)
        handler = self.handler_of(rewritten)
        return text if handler is None else handler(self, rewritten)

    def handler_of(self, statement: Statement) -> Handler | None:
        """Return who carries out a statement; None when the engine runs it as it is."""
        words = " ".join(token.upper for token in statement.tokens[:8])
        return next((handler for pattern, handler in self.handlers if re.match(pattern, words)), None)

    def is_table(self, parts: tuple[str, ...]) -> bool:
        """Tell whether the parts of a name name a table or view of the catalog."""
        low = tuple(part.lower() for part in parts)
        full = (self.namespace.catalog, self.namespace.schema)[: max(0, 3 - len(low))] + low
        return len(full) == 3 and self.tree.signature(TableName(*full)) is not None

    # --- what engines differ in

    def switch(self, catalog: str, schema: str) -> None:
        """Make the engine resolve names in a schema that it knows."""
        self.client.sql(f"USE CATALOG {quote(catalog)}")
        self.client.sql(f"USE SCHEMA {quote(schema)}")

    def configure(self) -> None:
        """Set what a new session of the engine needs."""

    def rewritten(self, statement: Statement, *, filtered: bool = False) -> Statement:  # noqa: ARG002 - Sail's
        """Return a statement in the SQL that the engine has; `filtered` if its rows will be filtered."""
        return statement

    def adapt_write(self, command: Any, name: TableName | None) -> None:
        """Bring a DataFrame's write, to the table `name` or a path, into the form that the engine takes."""

    def prepare(self, names: Iterable[tuple[str, ...]]) -> None:
        """Teach the engine every table that the names may mean. Names that mean none do no harm."""
        self.begin()
        if not self._awaits_schema:
            return
        catalog, schema = self.namespace.catalog, self.namespace.schema
        if self.tree.has_schema(catalog, schema):
            self.use(catalog, schema)
            return
        for parts in names:  # meanwhile the engine would look in the default schema
            if len(parts) == 1 and self.tree.table(catalog, "default", parts[0]) is not None:
                raise table_not_found(Namespace(catalog=catalog, schema=schema).table(parts).sql)

    def learn(self, name: TableName) -> None:
        """Bring one table or view up to date in the engine."""

    def learn_schema(self, catalog: str, schema: str) -> None:
        """Teach the engine a schema that exists."""

    def learn_all(self, catalog: str, schema: str | None = None) -> None:
        """Teach the engine a whole schema, or all schemas of a catalog (without their tables)."""

    def wrote(self, name: TableName) -> None:
        """Do what Databricks does after a write, if the engine does not."""

    @contextmanager
    def creating(self, name: TableName) -> Iterator[None]:
        """Leave nothing behind of a table that the engine fails to create; the caller holds its lock."""
        self.tree.discard_unborn(name)
        try:
            yield
        except BaseException:
            self.tree.discard_unborn(name)
            raise

    def forget(self, name: TableName) -> None:
        """Make the engine drop its entry of a table; files stay."""

    def forget_schema(self, catalog: str, schema: str) -> None:
        """Make the engine drop a schema and all it knows in it; files stay."""


class EngineSession:
    """A session of the SQL warehouse. One statement at a time; `cancel` may come from any thread."""

    def __init__(self, catalog_session: CatalogSession) -> None:
        self._session = catalog_session
        self._movable = True
        self._running = 0
        self._closed = False
        self._guard = threading.Lock()

    def begin(self, catalog: str | None, schema: str | None) -> None:
        """Begin in a catalog, which must exist, and a schema, which may come later. Raises `EngineError`."""
        self._session.begin()
        if catalog or schema:
            self._session.use(catalog, schema, absent=True)

    def execute(
        self,
        sql: str,
        parameters: Parameters = None,
        *,
        cancelled: Callable[[], bool] | None = None,
        timeout: int | None = None,
    ) -> StatementResult:
        """Run one statement with `parameters` (`:name` or `?`) bound. Raises `EngineError`.

        `cancelled` tells whether the caller has cancelled it, of all that run in the session: `cancel`
        interrupts those (any without it), and so does the end of `timeout` seconds or of STATEMENT_TIMEOUT.
        """
        if not sql.strip().rstrip(";").strip():
            raise EngineError.of(
                "PARSE_EMPTY_STATEMENT", "Syntax error, unexpected empty statement.", "42617"
            )
        self.follow()
        if self._session.client.lost:
            raise session_lost()
        with self._guard:
            self._running += 1
            # What lives in the engine's session only, such as a temporary view, keeps it where it is.
            self._movable = self._movable and _LEAVES_NOTHING.match(sql) is not None
        over = threading.Event()

        def wanted() -> bool:
            return over.is_set() or cancelled is None or cancelled()

        try:
            with self._limited(timeout, over), self._session.client.statement(wanted):
                # Asked after `cancel` can find the statement, so that no cancel gets lost.
                if cancelled is not None and wanted():
                    raise operation_canceled()
                return self._session.run(sql, parameters)
        finally:
            with self._guard:
                self._running -= 1
            self.follow()  # it may be the last statement for a long time

    @contextmanager
    def _limited(self, timeout: int | None, over: threading.Event) -> Iterator[None]:
        """Set `over` and interrupt what runs within when its time is over."""
        limits = [timeout or 0, int(self._session.parameters.get(STATEMENT_TIMEOUT, 0))]
        seconds = min((limit for limit in limits if limit > 0), default=0)
        done = threading.Event()

        def watch() -> None:
            if not done.wait(seconds):
                over.set()
                with suppress(EngineError):  # the engine is gone, and the statement with it
                    self.cancel()

        if seconds:
            threads.begin("statement-timeout", watch)
        try:
            yield
        except EngineError as error:
            if over.is_set() and error.condition == "OPERATION_CANCELED":
                raise statement_timed_out(seconds) from error
            raise
        finally:
            done.set()

    def follow(self) -> None:
        """Move to the server where sessions begin now, unless something runs or would be left behind."""
        with self._guard:
            idle = self._movable and not self._closed and self._running == 0
            if idle and not self._session.client.is_current:
                self._session.move()

    def cancel(self) -> None:
        """Interrupt what was cancelled; it raises OPERATION_CANCELED in its own thread."""
        self._session.client.interrupt()

    def close(self) -> None:
        """End the session. Harmless when the engine is gone already."""
        with self._guard:
            self._closed = True
        try:
            self._session.client.release()
        except EngineError as error:
            if error.condition not in {"ENGINE_UNAVAILABLE", "ENGINE_ERROR"}:
                raise


def new_session_id() -> str:
    """Return an id for a Spark Connect session: the protocol wants a UUID."""
    return str(uuid.uuid4())

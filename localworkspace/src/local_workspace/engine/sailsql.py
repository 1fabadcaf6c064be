"""Sessions of Sail, which are taught each table and view that a statement names.

Sail's catalogs live and die with a session, so each session learns a table the first time a statement names
it, and again when the table's shape has changed meanwhile.

Small files are put together after a write, where the table asks for it (`delta.autoOptimize.autoCompact`).
Databricks does so in the statement that wrote, after its commit, once there are 50 small files (in its
documentation: "Configure Delta Lake to control data file size"; the number is the default of
`spark.databricks.delta.autoCompact.minNumFiles`). Sail does not, and makes a file per commit: reading a table
would cost more with every commit that ever was. Nothing is vacuumed: readers of an older snapshot find their
files.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from . import commands, plans, rewrite
from .catalog import CatalogTree
from .deltalog import TableShape
from .literals import LARGE_INSERT, bind, rows_in_a_file, string_literal
from .names import TableName, quote
from .session import CatalogSession, Parameters, StatementResult
from .statements import Statement, chains, tokenize
from .tables import LEFT_OUT_ON_SAIL, Create
from .wire import ConnectClient

# Sail makes parquet tables unless told otherwise; Databricks makes Delta ones and runs in UTC.
_SESSION_CONF = {"spark.sql.sources.default": "delta", "spark.sql.session.timeZone": "UTC"}
_PROPERTY = "delta.autooptimize.autocompact"
MIN_FILES = 50
# Files to wait for after a compaction that lost to a concurrent writer, so that not every statement tries.
_AGAIN = 10
_log = logging.getLogger(__name__)


class SailSession(CatalogSession):
    """One session of Sail."""

    knows_absent = True
    left_out = LEFT_OUT_ON_SAIL
    handlers = commands.HANDLERS
    creation = Create

    def __init__(self, tree: CatalogTree, client: ConnectClient, compaction: AutoCompaction) -> None:
        super().__init__(tree, client)
        self._compaction = compaction
        # The signature of each table that Sail knows; None: it may know one that is not in the tree.
        self._known: dict[TableName, str | None] = {}
        self._schemas: set[tuple[str, str]] = set()

    def configure(self) -> None:
        """Set what a new session needs."""
        self.client.configure(_SESSION_CONF)

    def move(self) -> bool:
        """Go on in a new session on the newest server, which knows nothing yet, or stay."""
        with self.lock:
            before = self._known, self._schemas
            self._known, self._schemas = {}, set()
            moved = super().move()
            if not moved:
                self._known, self._schemas = before
            return moved

    def translate(self, sql: str, parameters: Parameters = None) -> StatementResult | str:
        """Carry out or translate `sql`; the rows of a large INSERT go by way of a file."""
        statement = bind(Statement.parse(sql), parameters) if parameters else None
        text = sql if statement is None else statement.text
        if statement is not None and len(text) <= LARGE_INSERT:
            return self.carry_out(statement)
        with rows_in_a_file(text) as short:
            return self.carry_out(Statement.parse(short))

    def rewritten(self, statement: Statement, *, filtered: bool = False) -> Statement:
        """Return a statement in the SQL that Sail has; refuse what it would answer wrongly."""
        statement = rewrite.folded_names(statement, self.is_table)
        return rewrite.rewritten(statement, self._columns, filtered=filtered)

    def _columns(self, query: str) -> list[str]:
        return list(self.client.sql(query).column_names)

    def adapt_write(self, command: Any, name: TableName | None) -> None:
        """Bring a DataFrame's write into the form that Sail takes; refuse what it would write wrongly."""
        plans.adapt(self, command, name)

    def prepare(self, names: Iterable[tuple[str, ...]]) -> None:
        """Teach Sail every table that `names` may mean. Names that mean none do no harm."""
        with self.lock:
            self.begin()
            candidates: set[TableName] = set()
            for parts in names:
                self._learn_schemas_of(parts)
                candidates.update(self.namespace.candidates(parts))
            for name in candidates:
                self.learn(name)

    def _learn_schemas_of(self, parts: tuple[str, ...]) -> None:
        low = tuple(part.lower() for part in parts)
        if len(low) > 1 and self.tree.has_schema(low[0], low[1]):
            self.learn_schema(low[0], low[1])
        if low and self.tree.has_schema(self.namespace.catalog, low[0]):
            self.learn_schema(self.namespace.catalog, low[0])

    def learn(self, name: TableName) -> None:
        """Bring one table or view up to date in Sail."""
        current = self.tree.signature(name)
        if name in self._known and self._known[name] == current:
            return
        if current is None and name not in self._known:
            return
        self.learn_schema(name.catalog, name.schema)
        self.forget(name)
        if current is None:
            return
        view = self.tree.view(name) if current.startswith("view:") else None
        if view is not None:
            self.prepare(chains(tokenize(view.query)))
            self.client.sql(f"CREATE OR REPLACE VIEW {name.sql} AS {view.query}")
        else:
            location = string_literal(str(self.tree.location(name)))
            self.client.sql(f"CREATE TABLE IF NOT EXISTS {name.sql} USING DELTA LOCATION {location}")
        self._known[name] = current

    def learn_schema(self, catalog: str, schema: str) -> None:
        """Teach Sail a schema that exists."""
        if (catalog, schema) in self._schemas:
            return
        name = f"{quote(catalog)}.{quote(schema)}"
        if schema == "default":
            # Sail makes this one itself, without a folder.
            self.client.sql(f"DROP SCHEMA IF EXISTS {name}")
        location = string_literal(str(self.tree.schema_path(catalog, schema)))
        self.client.sql(f"CREATE SCHEMA IF NOT EXISTS {name} LOCATION {location}")
        self._schemas.add((catalog, schema))

    def learn_all(self, catalog: str, schema: str | None = None) -> None:
        """Teach Sail a whole schema, or all schemas of a catalog (without their tables)."""
        with self.lock:
            self.begin()
            if schema is None:
                for each in self.tree.schemas(catalog):
                    self.learn_schema(catalog, each)
            elif self.tree.has_schema(catalog, schema):
                self.learn_schema(catalog, schema)
                for table in self.tree.tables(catalog, schema):
                    self.learn(TableName(catalog, schema, table))

    def wrote(self, name: TableName) -> None:
        """Compact the table if it asks for it: Sail makes a file per commit."""
        self._compaction.after_write(name)

    @contextmanager
    def creating(self, name: TableName) -> Iterator[None]:
        """Note what Sail knows of a table that it creates, or fails to create."""
        self.forget(name)
        try:
            with super().creating(name):
                yield
        except BaseException:
            self._known[name] = None  # Sail may have an entry of it
            raise
        self._known[name] = self.tree.signature(name)

    def forget(self, name: TableName) -> None:
        """Make Sail drop its entry of a table; files stay."""
        if name not in self._known:
            return
        kind = "VIEW" if (self._known.pop(name) or "").startswith("view:") else "TABLE"
        self.client.sql(f"DROP {kind} IF EXISTS {name.sql}")

    def forget_schema(self, catalog: str, schema: str) -> None:
        """Make Sail drop a schema and all it knows in it; files stay."""
        with self.lock:
            for name in [name for name in self._known if (name.catalog, name.schema) == (catalog, schema)]:
                self.forget(name)
            if (catalog, schema) in self._schemas:
                self._schemas.discard((catalog, schema))
                self.client.sql(f"DROP SCHEMA IF EXISTS {quote(catalog)}.{quote(schema)}")


class AutoCompaction:
    """Compacts the tables of one catalog tree after writes. Safe for threads."""

    def __init__(self, tree: CatalogTree) -> None:
        self._tree = tree
        self._due: dict[TableName, int] = {}
        self._busy: set[TableName] = set()
        self._guard = threading.Lock()

    def after_write(self, name: TableName) -> None:
        """Compact a table that has just been written, if it is time. Never raises: the next write can."""
        try:
            shape = self._tree.shape(name)
            wanted = shape is not None and _wanted(shape)
            files = _files_of(self._tree.location(name), shape.version) if shape and wanted else None
            if files is not None and self._begin(name, files):
                self._attempt(name, files)
        except Exception as error:  # noqa: BLE001 - recorded; most likely a concurrent writer was first
            _log.debug("compaction of %s dropped: %s", name.sql, error)

    def _attempt(self, name: TableName, files: int) -> None:
        due = files + _AGAIN
        try:
            with self._tree.lock(name):  # nobody may drop or rename the table meanwhile
                self._tree.require(name)
                delta = DeltaTable(str(self._tree.location(name)))
                delta.optimize.compact()
                due = len(delta.file_uris()) + MIN_FILES
        finally:
            with self._guard:
                self._due[name] = due
                self._busy.discard(name)

    def _begin(self, name: TableName, files: int) -> bool:
        """Tell whether the caller should compact now.

        Files that the last compaction left apart (of several partitions, large ones) do not count again.
        """
        with self._guard:
            due = min(self._due.get(name, MIN_FILES), files + MIN_FILES)
            self._due[name] = due
            if files < due or name in self._busy:
                return False
            self._busy.add(name)
            return True


def _wanted(shape: TableShape) -> bool:
    """Tell whether a table asks for compaction: `true`, `auto`, `legacy` or a size do, `false` does not."""
    values = [value.lower() for key, value in shape.properties.items() if key.lower() == _PROPERTY]
    return bool(values) and values[-1] not in {"false", "disabled", ""}


def _files_of(table: Path, version: int) -> int | None:
    """Return how many files a version has, by its checksum file (Delta protocol, "Version Checksum File").

    Sail writes one with each commit. None where there is none, such as after a commit by another writer.
    """
    try:
        text = (table / "_delta_log" / f"{version:020d}.crc").read_text(encoding="utf-8")
        return int(json.loads(text)["numFiles"])
    except (OSError, ValueError, KeyError):
        return None

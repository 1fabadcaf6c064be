"""The default engine: Sail, a Spark Connect server (package `pysail`), over Delta tables.

It runs in a process of its own: that way it can be replaced (see `servers`), and a Python function of a query
that crashes does not take the workspace along. Its catalogs live and die with a session, so each session
learns a table the first time a statement names it, and again when the table's shape has changed meanwhile.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from local_workspace import threads

from . import commands, dataframes, rewrite, sailprocess
from .catalog import CatalogTree
from .compaction import AutoCompaction
from .errors import EngineError, unsupported
from .literals import LARGE_INSERT, bind, rows_in_a_file, string_literal
from .names import TableName, quote
from .servers import EngineServer
from .session import CatalogSession, Parameters, StatementResult
from .statements import Statement, chains, tokenize
from .tables import LEFT_OUT_ON_SAIL, Create
from .wire import ConnectClient, connect_stub, open_channel

# A job may compute for hours in pandas between two statements; its session must still be there.
_SESSION_SECONDS = 30 * 24 * 3600
_START_SECONDS = 60
_STOP_SECONDS = 3
# A query computes on two threads a core and does not pause: with no further ones the server would answer
# nobody meanwhile, not even a cancel (measured: pysail 0.7.2, a cross join).
_WORKERS = max(16, 4 * (os.cpu_count() or 1))
# Up to 450 MB of what Sail does not give back, and a new server takes a third of a second.
RENEW_AFTER = 3_000

# Sail makes parquet tables unless told otherwise; Databricks makes Delta ones and runs in UTC.
_SESSION_CONF = {"spark.sql.sources.default": "delta", "spark.sql.session.timeZone": "UTC"}


class SailBackend:
    """Starts Sail servers for one workspace."""

    def __init__(self, tree: CatalogTree, renew_after: int = RENEW_AFTER) -> None:
        self._tree = tree
        self._compaction = AutoCompaction(tree)
        self.renew_after: int | None = renew_after
        self._launches, self._said = itertools.count(1), False

    def launch(self) -> EngineServer:
        """Start a server. Raises `EngineError` when it does not start."""
        for package in ("grpc", "pysail"):
            if importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        folder = self._tree.root / ".workspace"
        folder.mkdir(mode=0o700, exist_ok=True)
        name = f"sail-{os.getpid()}-{next(self._launches)}.sock"
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-P", sailprocess.__file__, str(folder / name)],
            env=os.environ | self._settings(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        ready = select.select([process.stdout], [], [], _START_SECONDS)[0]
        line = process.stdout.readline() if ready else b""
        if not line:
            process.kill()
            _end(process)
            raise EngineError.of("ENGINE_UNAVAILABLE", "Sail did not start; see standard error.", "08006")
        address = json.loads(line)
        held = os.open(folder, os.O_RDONLY)
        if address is not None and not self._said:
            self._said = True
            threads.say(
                "The engine's own port is open to other users of this machine: docs/workspace-security.md"
            )
        target = f"unix:/proc/self/fd/{held}/{name}" if address is None else ":".join(map(str, address))
        channel = open_channel(target)

        def stop() -> None:
            channel.close()
            _end(process)
            with contextlib.suppress(OSError):  # the second time
                os.close(held)
            (folder / name).unlink(missing_ok=True)

        return EngineServer(channel=channel, stub=connect_stub(channel), stop=stop, popen=process)

    def session(self, client: ConnectClient) -> CatalogSession:
        """Return the session of a client."""
        return SailSession(self._tree, client, self._compaction)

    def _settings(self) -> dict[str, str]:
        catalogs = self._tree.catalogs()
        listed = ", ".join(
            f'{{type="memory", name="{name}", initial_database=["default"]}}' for name in catalogs
        )
        return {
            "SAIL_CATALOG__LIST": f"[{listed}]",
            "SAIL_CATALOG__DEFAULT_CATALOG": f'"{catalogs[0]}"' if not catalogs[0].isalpha() else catalogs[0],
            "SAIL_SPARK__SESSION_TIMEOUT_SECS": str(_SESSION_SECONDS),
            "TOKIO_WORKER_THREADS": str(_WORKERS),
            "RUST_LOG": os.environ.get("RUST_LOG", "error"),
        }


def _end(process: subprocess.Popen[Any]) -> None:
    """End a server process and wait for it."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


class SailSession(CatalogSession):
    """A session of Sail, which is taught each table and view that a statement names."""

    knows_absent = True
    left_out = LEFT_OUT_ON_SAIL
    handlers = commands.HANDLERS

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

    def create(self, statement: Statement, name: TableName, after_name: int) -> Create:
        """Return the making of a table."""
        return Create(self, statement, name, after_name)

    def check_overwrite(self, name: TableName, options: Mapping[str, str]) -> None:
        """Refuse a dynamic partition overwrite: Sail deletes the other partitions as well."""
        shape = self.tree.shape(name)
        if shape is None or not shape.partition_columns:
            return
        modes = [value for key, value in options.items() if key.lower() == "partitionoverwritemode"]
        if "dynamic" in (modes or [self._overwrite_mode()])[-1].lower():
            raise unsupported("Dynamic partition overwrite")

    def _overwrite_mode(self) -> str:
        return self.client.setting("spark.sql.sources.partitionOverwriteMode")

    def adapt_write(self, command: Any, name: TableName | None) -> None:
        """Bring a DataFrame's write into the form that Sail takes; refuse what it would write wrongly."""
        write = command.write_operation
        if name is None:
            dataframes.check_path(write, self.tree, self._overwrite_mode())
        elif write.mode == write.SAVE_MODE_OVERWRITE:
            self.check_overwrite(name, write.options)
        dataframes.adapt(command, name, self.tree, self.client.columns)

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

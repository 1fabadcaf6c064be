"""The embedded Spark engine of the local workspace, and the folder tree that is its catalog."""

from __future__ import annotations

import secrets
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_workspace.options import USER, EngineKind, installed_engine

from .backends import RENEW_AFTER, Backend, SailBackend, SparkBackend
from .catalog import CatalogTree, ColumnInfo, TableInfo
from .errors import EngineError
from .servers import EngineServer, Servers
from .session import EngineSession, StatementResult, new_session_id

__all__ = [
    "CatalogTree",
    "ColumnInfo",
    "Engine",
    "EngineError",
    "EngineOptions",
    "EngineSession",
    "StatementResult",
    "TableInfo",
    "create_engine",
]


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """The settings of an engine: the workspace's root folder, the catalogs (the first is the default), the
    kind (default: the installed one). `token` admits to the Spark Connect endpoint. Files may be named in
    the root, and in the folders `allow_paths`. `jars` is the folder
    where Spark's engine keeps what it downloads (default: in its environment), `renew_after` the number of
    statements after which Sail's server is replaced (default: its own).
    """

    root: Path
    catalogs: tuple[str, ...] = ("main",)
    kind: EngineKind = field(default_factory=installed_engine)
    user: str = USER
    token: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    allow_paths: tuple[Path, ...] = ()
    jars: Path | None = None
    renew_after: int = RENEW_AFTER


class Engine:
    """The engine of one workspace. `start` before use; `stop` ends every session."""

    def __init__(self, options: EngineOptions, catalog: CatalogTree, backend: Backend) -> None:
        self._options = options
        self.catalog = catalog
        self._backend = backend
        self.servers = Servers(backend.launch, backend.renew_after, self._renewed, self._server_lost)
        self._sessions: weakref.WeakSet[EngineSession] = weakref.WeakSet()
        self._guard = threading.Lock()
        self._proxy: Any = None
        self._address = self.connect_url = ""
        # Called with each job that had a session on a server that was lost.
        self.on_job_lost: Callable[[str], None] = lambda _job: None

    def start(self) -> None:
        """Start the engine, and the Spark Connect endpoint for job processes (`connect_url`)."""
        from .proxy import ConnectProxy

        self.servers.start()
        self._proxy = ConnectProxy(self._backend, self.servers, self._options.token)
        try:
            port = self._proxy.start()
        except BaseException:
            self.servers.stop()
            raise
        self._address = f"sc://127.0.0.1:{port}/;user_id={self._options.user}"
        self.connect_url = f"{self._address};authorization=Bearer%20{self._options.token}"

    def stop(self) -> None:
        """Stop the engine. Statements that run are lost; what they committed stays."""
        if self._proxy is not None:
            self._proxy.stop()
        self.servers.stop()
        self._proxy = None

    def connect_url_of(self, job: str) -> str:
        """Return the Spark Connect URL for one job; it and its sessions are good until `end_job`."""
        return f"{self._address};authorization=Bearer%20{self._proxy.admit(job)}"

    def end_job(self, job: str) -> None:
        """End the sessions of a job and what still runs in them. Harmless when the engine is gone already."""
        if self._proxy is not None:
            self._proxy.end_job(job)

    def session(self, *, catalog: str | None = None, schema: str | None = None) -> EngineSession:
        """Return a new session; raises `EngineError` when the catalog does not exist."""
        from .wire import ConnectClient

        client = ConnectClient(self.servers, session_id=new_session_id(), user_id=self._options.user)
        session = EngineSession(self._backend.session(client))
        try:
            session.begin(catalog, schema)
        except BaseException:
            session.close()
            raise
        with self._guard:
            self._sessions.add(session)
        return session

    def _server_lost(self, server: EngineServer) -> None:
        """Tell whose jobs have lost their session: as when a cluster's driver dies, they end."""
        for job in self._proxy.jobs_on(server) if self._proxy is not None else ():
            self.on_job_lost(job)

    def _renewed(self) -> None:
        """Take idle sessions along to the new server; one whose client died may never be used again."""
        with self._guard:
            sessions = list(self._sessions)
        for session in sessions:
            with suppress(EngineError):  # it is stopped meanwhile, or the next server is lost as well
                session.follow()


def create_engine(options: EngineOptions) -> Engine:
    """Return the engine for `options`, not started. Raises `EngineError` where it cannot run."""
    tree = CatalogTree(
        options.root, options.catalogs, ascii_folders=options.kind == "sail", allowed=options.allow_paths
    )
    spark = options.kind == "spark"
    backend = SparkBackend(tree, options.jars) if spark else SailBackend(tree, options.renew_after)
    return Engine(options, tree, backend)

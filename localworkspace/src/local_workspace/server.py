"""The server process of a local workspace: from options to a listening socket, and back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from local_workspace.errors import WorkspaceError
from local_workspace.layout import Layout
from local_workspace.options import HTTP_PATH, WorkspaceInfo, WorkspaceOptions

if TYPE_CHECKING:
    from local_workspace.seam import SqlEngine

EngineFactory = Callable[[WorkspaceOptions], "SqlEngine"]


def embedded_engine(options: WorkspaceOptions) -> SqlEngine:
    """The engine that the options name, not started. Raises WorkspaceError when it cannot be had."""
    from local_workspace.engine import EngineError, EngineOptions, create_engine

    try:
        engine: SqlEngine = create_engine(
            EngineOptions(root=options.root, catalogs=options.catalogs, kind=options.engine)
        )
    except EngineError as error:
        raise WorkspaceError(error.message) from error
    return engine


def serve(
    options: WorkspaceOptions,
    on_ready: Callable[[WorkspaceInfo], None],
    *,
    engine_factory: EngineFactory = embedded_engine,
) -> None:
    """Serve the workspace in the foreground until SIGTERM or SIGINT; main thread only.

    `on_ready` is called once, when requests are being answered. On the way out all job processes are ended.
    Raises WorkspaceError when the workspace cannot start.
    """
    layout = Layout(root=options.root.resolve())
    layout.create()
    with contextlib.closing(layout.lock()):
        layout.clear_uploads()
        starting = _EngineStart(options, engine_factory)
        try:
            with contextlib.closing(_listen(options.port)) as listener:
                _run(options, layout, listener, starting, on_ready)
        finally:
            layout.server_file.unlink(missing_ok=True)
            starting.stop()


class _EngineStart:
    """Starts the engine in a thread, while the rest of the server is being imported and set up."""

    def __init__(self, options: WorkspaceOptions, factory: EngineFactory) -> None:
        self._options, self._factory = options, factory
        self._engine: SqlEngine | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._start, name="engine-start", daemon=True)
        self._thread.start()

    def _start(self) -> None:
        try:
            self._engine = self._factory(self._options)
            self._engine.start()
        except Exception as error:  # noqa: BLE001 - raised again, with its reason, by engine()
            self._error = error

    def engine(self) -> SqlEngine:
        """The running engine. Raises WorkspaceError when it did not start."""
        self._thread.join()
        if isinstance(self._error, WorkspaceError):
            raise self._error
        if self._error is not None or self._engine is None:
            raise WorkspaceError(f"the engine did not start: {self._error}") from self._error
        return self._engine

    def stop(self) -> None:
        """Stop it, if it runs."""
        self._thread.join()
        if self._engine is not None and self._error is None:
            self._engine.stop()


def _listen(port: int) -> socket.socket:
    """A listening socket on loopback; nothing outside this machine can reach it."""
    # The protocol is named because asyncio sets TCP_NODELAY only where it is; without, a reply takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise WorkspaceError(
            f"port {port} of 127.0.0.1 cannot be used ({error.strerror}): choose another --port, or none"
        ) from error
    listener.listen(512)
    return listener


def _run(
    options: WorkspaceOptions,
    layout: Layout,
    listener: socket.socket,
    starting: _EngineStart,
    on_ready: Callable[[WorkspaceInfo], None],
) -> None:
    from local_workspace.application import Parts, build
    from local_workspace.services.stub import read_stub
    from local_workspace.state import Database
    from local_workspace.wire import server

    stub = read_stub(options.model)
    with contextlib.closing(Database(layout.private / "state.db")) as database:
        engine = starting.engine()
        info = WorkspaceInfo(
            host=f"http://127.0.0.1:{listener.getsockname()[1]}",
            token=layout.token(),
            http_path=HTTP_PATH,
            root=str(layout.root),
            pid=os.getpid(),
            spark_connect=engine.connect_url,
        )
        parts = Parts(
            options=options,
            layout=layout,
            database=database,
            engine=engine,
            stub=stub,
            host=info.host,
            token=info.token,
        )
        app, scheduler = build(parts)
        scheduler.start()
        try:
            asyncio.run(server(app, lambda: _announce(layout, info, on_ready)).serve([listener]))
        finally:
            scheduler.close()


def _announce(layout: Layout, info: WorkspaceInfo, on_ready: Callable[[WorkspaceInfo], None]) -> None:
    layout.write_server_file(info.to_json())
    on_ready(info)

"""The server process of a local workspace: engine, services, listening socket, and their end."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import os
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from local_workspace import keeper, threads
from local_workspace.errors import WorkspaceError
from local_workspace.layout import Layout
from local_workspace.options import HTTP_PATH, WorkspaceInfo, WorkspaceOptions

if TYPE_CHECKING:
    from starlette.routing import Route
    from starlette.types import ASGIApp

    from local_workspace.engine import Engine
    from local_workspace.workspace import Workspace

# A stop takes no longer; after the first seconds it says what it waits for.
END_S = 12.0
_PATIENCE_S = 3.0
# The services by the first part of their paths, each a module with `routes(workspace)`.
SERVICES = {
    "sql": "warehouse.service",
    "api/jobs": "services.jobs",
    "api/fs": "services.files",
    "api/secrets": "services.secrets",
    "api/sql": "services.statements",
    "api/unity-catalog": "services.unity_catalog",
    "api/workspace": "services.workspace_objects",
    "api/repos": "services.workspace_objects",
    "api/workspace-conf": "services.identity",
    "api/dbfs": "services.dbfs",
    "api/clusters": "services.compute",
    ".well-known": "services.identity",
    "oidc": "services.identity",
    "api/preview": "services.identity",
    "api/permissions": "services.identity",
    "serving-endpoints": "services.serving",
    "api/serving-endpoints": "services.serving",
}


def serve(options: WorkspaceOptions, on_ready: Callable[[WorkspaceInfo], None]) -> None:
    """Serve the workspace in the foreground until SIGTERM or SIGINT; main thread only.

    `on_ready` is called once, when requests are being answered. On the way out all job processes are ended.
    Raises WorkspaceError when the workspace cannot start, or cannot go on.
    """
    keeper.hide()
    layout = Layout(root=options.root.resolve())
    layout.create()
    end = _End()
    threads.on_fatal(end.fatal)
    with contextlib.closing(layout.lock()):
        layout.clear_uploads()
        starting = _EngineStart(options, layout.token())
        try:
            with contextlib.closing(_listen(options.port)) as listener:
                _run(options, layout, listener, starting, on_ready, end)
        finally:
            layout.server_file.unlink(missing_ok=True)
            end.begin()
            starting.stop()
    if end.reason is not None:
        raise WorkspaceError(f"the local workspace has ended: {end.reason}")


class _End:
    """The server's end: why, where it is not asked for; and no later than `END_S` seconds after it began."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._begun = False

    def fatal(self, reason: str) -> None:
        """End the server as a signal would."""
        self.reason = reason
        os.kill(os.getpid(), signal.SIGTERM)

    def begin(self) -> None:
        """Note that the server is about to end."""
        if not self._begun:
            self._begun = True
            threads.begin("end", self._watch)

    def _watch(self) -> None:
        for wait_s in (_PATIENCE_S, END_S - _PATIENCE_S):
            time.sleep(wait_s)
            names = {thread.name for thread in threading.enumerate()} - {"MainThread", "end"}
            threads.say(f"Stopping the local workspace; it waits for: {', '.join(sorted(names))[:500]}")
        threads.say(f"It has not stopped within {END_S} s, and is ended. Tables stay as they were committed.")
        os._exit(1)


class _EngineStart:
    """Starts the engine in a thread, while the rest of the server is being imported and set up."""

    def __init__(self, options: WorkspaceOptions, token: str) -> None:
        self._options, self._token = options, token
        self._engine: Engine | None = None
        self._error: Exception | None = None
        self._thread = threads.begin("engine-start", self._start)

    def _start(self) -> None:
        options = self._options
        try:
            from local_workspace.engine import EngineOptions, create_engine

            self._engine = create_engine(
                EngineOptions(
                    root=options.root,
                    catalogs=options.catalogs,
                    kind=options.engine,
                    token=self._token,
                    allow_paths=options.allow_paths,
                )
            )
            self._engine.start()
        except Exception as error:  # noqa: BLE001 - raised again, with its reason, by engine()
            self._error = error

    def engine(self) -> Engine:
        """The running engine. Raises WorkspaceError when it did not start."""
        self._thread.join()
        if isinstance(self._error, ModuleNotFoundError):
            kind = self._options.engine
            raise WorkspaceError(
                f"the engine {kind!r} needs the package {self._error.name!r}, which is not installed: "
                f"pip install 'rlm-local-workspace[{kind}]'"
            ) from self._error
        from local_workspace.engine import EngineError

        if isinstance(self._error, EngineError):
            raise WorkspaceError(self._error.message) from self._error
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
    end: _End,
) -> None:
    defer_sdk_package()
    from local_workspace.http import WorkspaceServer
    from local_workspace.scripted_model import read_model
    from local_workspace.state import Database
    from local_workspace.tls import certificate
    from local_workspace.workspace import Workspace

    model = read_model(options.model)
    trusted = certificate(layout.private) if options.tls else None
    with contextlib.closing(Database(layout.private / "state.db")) as database:
        engine = starting.engine()
        info = WorkspaceInfo(
            host=f"{'https' if trusted else 'http'}://127.0.0.1:{listener.getsockname()[1]}",
            token=layout.token(),
            http_path=HTTP_PATH,
            root=str(layout.root),
            pid=os.getpid(),
            spark_connect=engine.connect_url,
            ca_file=str(trusted.file) if trusted else "",
        )
        workspace = Workspace.assemble(options, info, layout, database, engine, model, trusted)

        def announce() -> None:
            layout.write_server_file(info.to_json())
            on_ready(info)

        workspace.scheduler.start()
        try:
            server = WorkspaceServer(build(workspace), announce, end.begin, trusted)
            asyncio.run(server.serve([listener]))
        finally:
            workspace.scheduler.close()


def defer_sdk_package() -> None:
    """Let `databricks.sdk.service.…` be imported without `databricks.sdk` itself, until that is needed.

    The package's `__init__` imports all of its 45 services (a second), of which the REST answers need seven.
    It is executed when a name of its own is asked for.
    """
    name = "databricks.sdk"
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is None or spec.loader is None:
        return
    loader = spec.loader

    class Deferred(types.ModuleType):
        def __getattr__(self, attribute: str) -> Any:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            object.__setattr__(self, "__class__", types.ModuleType)
            loader.exec_module(self)
            return getattr(self, attribute)

    module = importlib.util.module_from_spec(spec)
    module.__class__ = Deferred
    sys.modules[name] = module
    sys.modules["databricks"].sdk = module  # type: ignore[attr-defined] # as an import sets it


def build(workspace: Workspace) -> ASGIApp:
    """The ASGI application with all services, behind authentication and, if asked for, the fault control."""
    from local_workspace.faults import FaultControl, control_routes
    from local_workspace.http import Services
    from local_workspace.middleware import Authentication, FaultInjection

    loaders = {name: partial(load_routes, module, workspace) for name, module in SERVICES.items()}
    control = FaultControl()
    if workspace.options.allow_faults:
        loaders["_local"] = partial(control_routes, control)
    app: ASGIApp = Services(loaders)
    app = FaultInjection(app, control) if workspace.options.allow_faults else app
    return Authentication(app, workspace.info.token)


def load_routes(module: str, workspace: Workspace) -> list[Route]:
    """The routes of the service in a module of this package."""
    routes: list[Route] = importlib.import_module(f"local_workspace.{module}").routes(workspace)
    return routes

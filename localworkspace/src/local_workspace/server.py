"""The server process of a local workspace: engine, services, listening socket, and their end."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import socket
import sys
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from local_workspace.errors import ApiError, WorkspaceError
from local_workspace.layout import Layout
from local_workspace.options import HTTP_PATH, USER, WAREHOUSE_ID, WorkspaceInfo, WorkspaceOptions

if TYPE_CHECKING:
    from starlette.routing import Route
    from starlette.types import ASGIApp

    from local_workspace.engine import Engine
    from local_workspace.jobs.scheduler import Scheduler
    from local_workspace.services.serving import ScriptedModel
    from local_workspace.state import Database


def serve(options: WorkspaceOptions, on_ready: Callable[[WorkspaceInfo], None]) -> None:
    """Serve the workspace in the foreground until SIGTERM or SIGINT; main thread only.

    `on_ready` is called once, when requests are being answered. On the way out all job processes are ended.
    Raises WorkspaceError when the workspace cannot start.
    """
    layout = Layout(root=options.root.resolve())
    layout.create()
    with contextlib.closing(layout.lock()):
        layout.clear_uploads()
        starting = _EngineStart(options)
        try:
            with contextlib.closing(_listen(options.port)) as listener:
                _run(options, layout, listener, starting, on_ready)
        finally:
            layout.server_file.unlink(missing_ok=True)
            starting.stop()


class _EngineStart:
    """Starts the engine in a thread, while the rest of the server is being imported and set up."""

    def __init__(self, options: WorkspaceOptions) -> None:
        self._options = options
        self._engine: Engine | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._start, name="engine-start", daemon=True)
        self._thread.start()

    def _start(self) -> None:
        options = self._options
        try:
            from local_workspace.engine import EngineOptions, create_engine

            self._engine = create_engine(
                EngineOptions(root=options.root, catalogs=options.catalogs, kind=options.engine, user=USER)
            )
            self._engine.start()
        except Exception as error:  # noqa: BLE001 - raised again, with its reason, by engine()
            self._error = error

    def engine(self) -> Engine:
        """The running engine. Raises WorkspaceError when it did not start."""
        from local_workspace.engine import EngineError

        self._thread.join()
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
) -> None:
    defer_sdk_package()
    from local_workspace.http import WorkspaceServer
    from local_workspace.services.serving import read_model
    from local_workspace.state import Database

    model = read_model(options.model)
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
            options=options, layout=layout, database=database, engine=engine, model=model, info=info
        )
        app, scheduler = build(parts)

        def announce() -> None:
            layout.write_server_file(info.to_json())
            on_ready(info)

        scheduler.start()
        try:
            asyncio.run(WorkspaceServer(app, announce).serve([listener]))
        finally:
            scheduler.close()


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


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the services stand on."""

    options: WorkspaceOptions
    layout: Layout
    database: Database
    engine: Engine
    model: ScriptedModel | None
    info: WorkspaceInfo


def build(parts: Parts) -> tuple[ASGIApp, Scheduler]:
    """The ASGI application with all services, and its job scheduler, which is not started yet."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response

    from local_workspace.faults import FaultControl, control_routes
    from local_workspace.http import error_reply
    from local_workspace.middleware import Authentication, FaultInjection

    async def unknown(request: Request, _error: HTTPException) -> Response:
        message = f"No API found for '{request.method} {request.url.path}'"
        return error_reply(ApiError(404, "ENDPOINT_NOT_FOUND", message))

    scheduler, routes = build_services(parts)
    control = FaultControl() if parts.options.allow_faults else None
    app: ASGIApp = Starlette(
        routes=[*routes, *(control_routes(control) if control else [])],
        exception_handlers={404: unknown, 405: unknown},  # type: ignore[dict-item] # narrower than Exception
    )
    app = FaultInjection(app, control) if control else app
    return Authentication(app, parts.info.token), scheduler


def build_services(parts: Parts) -> tuple[Scheduler, list[Route]]:
    """The job scheduler and the routes of all services."""
    from local_workspace.jobs.api import JobsService
    from local_workspace.jobs.launcher import Launcher
    from local_workspace.jobs.scheduler import Limits, Scheduler
    from local_workspace.jobs.store import RunStore
    from local_workspace.services import (
        files,
        identity,
        secrets,
        serving,
        statements,
        unity_catalog,
        workspace_objects,
    )
    from local_workspace.warehouse import protocol

    layout, database, engine, host = parts.layout, parts.database, parts.engine, parts.info.host
    store = RunStore(database)
    launcher = Launcher(
        layout=layout,
        secret=database.secret,
        host=host,
        token=parts.info.token,
        spark_remote=engine.connect_url_of,
    )
    limits = Limits(processes=parts.options.max_processes)
    scheduler = Scheduler(store, layout.runs, launcher.prepare, limits, engine.end_job)
    jobs = JobsService(database=database, store=store, scheduler=scheduler, folder=layout.runs, host=host)
    return scheduler, [
        *protocol.routes(engine, WAREHOUSE_ID),
        *jobs.routes(),
        *files.routes(layout),
        *secrets.routes(database),
        *statements.routes(engine, host),
        *unity_catalog.routes(engine.catalog, layout, database),
        *workspace_objects.routes(layout),
        *identity.routes(database, host),
        *serving.routes(parts.model),
    ]

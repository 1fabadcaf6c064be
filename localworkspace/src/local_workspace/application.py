"""The ASGI application: all services of one workspace behind its gates."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from local_workspace.errors import ApiError
from local_workspace.faults import FaultBoard
from local_workspace.gate import AuthGate, FaultGate, control_routes
from local_workspace.jobs.api import JobsApi
from local_workspace.jobs.command import Launcher
from local_workspace.jobs.definitions import JobDefinitions
from local_workspace.jobs.scheduler import Limits, Scheduler
from local_workspace.jobs.store import RunStore
from local_workspace.jobs.views import RunViews
from local_workspace.layout import Layout
from local_workspace.options import WAREHOUSE_ID, WorkspaceOptions
from local_workspace.seam import SqlEngine
from local_workspace.services import (
    catalog,
    directories,
    files,
    identity,
    jobs,
    secrets,
    serving,
    statements,
    volumecatalog,
    workspacefiles,
)
from local_workspace.services.stub import Stub
from local_workspace.state import Database
from local_workspace.web import refusal


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the services stand on. `host` is the server's own URL."""

    options: WorkspaceOptions
    layout: Layout
    database: Database
    engine: SqlEngine
    stub: Stub | None
    host: str
    token: str


def now_ms() -> int:
    """Unix time in milliseconds."""
    return int(time.time() * 1000)


def build(parts: Parts) -> tuple[ASGIApp, Scheduler]:
    """The application and its job scheduler, which is not started yet."""
    api = _jobs(parts)
    board = FaultBoard()
    faults = parts.options.allow_faults
    services = [*_routes(parts, api), *(control_routes(board) if faults else [])]
    handlers = {404: _unknown, 405: _unknown}
    app: ASGIApp = Starlette(routes=services, exception_handlers=handlers)  # type: ignore[arg-type]
    app = FaultGate(app, board) if faults else app
    return AuthGate(app, parts.token), api.scheduler


def _jobs(parts: Parts) -> JobsApi:
    store = RunStore(parts.database)
    launcher = Launcher(
        layout=parts.layout,
        secret=parts.database.secret,
        host=parts.host,
        token=parts.token,
        spark_remote=parts.engine.connect_url_of,
    )
    limits = Limits(processes=parts.options.max_processes)
    return JobsApi(
        database=parts.database,
        store=store,
        scheduler=Scheduler(store, parts.layout.runs, launcher.prepare, limits, parts.engine.end_job),
        definitions=JobDefinitions(database=parts.database, user=identity.USER, now=now_ms),
        views=RunViews(host=parts.host, user=identity.USER),
        folder=parts.layout.runs,
        now=now_ms,
    )


def _routes(parts: Parts, api: JobsApi) -> list[Route]:
    from local_workspace import warehouse

    tree = parts.engine.catalog
    engine: Any = parts.engine  # the warehouse names its concrete class
    return [
        *warehouse.routes(engine, warehouse_id=WAREHOUSE_ID),
        *jobs.routes(api),
        *files.routes(parts.layout),
        *directories.routes(parts.layout),
        *secrets.routes(parts.database, identity.USER),
        *statements.routes(parts.engine, parts.host),
        *catalog.routes(tree),
        *volumecatalog.routes(parts.layout, tree, parts.database, now_ms),
        *workspacefiles.routes(parts.layout),
        *identity.routes(parts.database, parts.host),
        *serving.routes(parts.stub),
    ]


async def _unknown(request: Request, _error: HTTPException) -> Response:
    message = f"No API found for '{request.method} {request.url.path}'"
    return refusal(ApiError(404, "ENDPOINT_NOT_FOUND", message))

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

from databricks_rlm_agent.localworkspace.faults import FaultBoard
from databricks_rlm_agent.localworkspace.gate import AuthGate, FaultGate, control_routes
from databricks_rlm_agent.localworkspace.info import WAREHOUSE_ID
from databricks_rlm_agent.localworkspace.jobs.api import JobsApi
from databricks_rlm_agent.localworkspace.jobs.command import Launcher
from databricks_rlm_agent.localworkspace.jobs.definitions import JobDefinitions
from databricks_rlm_agent.localworkspace.jobs.scheduler import Limits, Scheduler
from databricks_rlm_agent.localworkspace.jobs.store import RunStore
from databricks_rlm_agent.localworkspace.jobs.views import RunViews
from databricks_rlm_agent.localworkspace.layout import Layout
from databricks_rlm_agent.localworkspace.options import WorkspaceOptions
from databricks_rlm_agent.localworkspace.problem import ApiError
from databricks_rlm_agent.localworkspace.seam import Engine
from databricks_rlm_agent.localworkspace.services import (
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
from databricks_rlm_agent.localworkspace.services.stub import Stub
from databricks_rlm_agent.localworkspace.state import Database
from databricks_rlm_agent.localworkspace.web import refusal


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the services stand on. `host` is the server's own URL."""

    options: WorkspaceOptions
    layout: Layout
    database: Database
    engine: Engine
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
    from databricks_rlm_agent.localworkspace import warehouse

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

"""The routes of the Jobs API, for versions 2.0, 2.1 and 2.2 alike."""

from __future__ import annotations

from starlette.routing import Route

from local_workspace.jobs.api import JobsApi
from local_workspace.web import route


def routes(api: JobsApi) -> list[Route]:
    """The routes of `/api/2.x/jobs`."""
    base = "/api/2.{minor:int}/jobs"
    jobs = api.definitions
    return [
        route("GET", f"{base}/runs/get", api.get),
        route("POST", f"{base}/runs/submit", api.submit),
        route("GET", f"{base}/runs/list", api.list),
        route("GET", f"{base}/runs/get-output", api.get_output),
        route("POST", f"{base}/runs/cancel", api.cancel),
        route("POST", f"{base}/runs/cancel-all", api.cancel_all),
        route("POST", f"{base}/runs/delete", api.delete),
        route("POST", f"{base}/run-now", api.run_now),
        route("POST", f"{base}/create", jobs.create),
        route("GET", f"{base}/get", jobs.get),
        route("GET", f"{base}/list", jobs.list),
        route("POST", f"{base}/reset", jobs.reset),
        route("POST", f"{base}/update", jobs.update),
        route("POST", f"{base}/delete", jobs.delete),
    ]

"""The Jobs API, versions 2.0 to 2.2: jobs."""

from __future__ import annotations

import json
from dataclasses import dataclass

from databricks.sdk.service import jobs as shapes
from starlette.routing import Route

from local_workspace.http import Call, Json, route
from local_workspace.options import USER
from local_workspace.services.identity import Permissions
from local_workspace.services.job_documents import job_settings, page_limit, saved_settings, tasks_of
from local_workspace.state import Database, now_ms
from local_workspace.workspace import Workspace

_JOBS_PER_PAGE, _MOST_JOBS_PER_PAGE = 20, 100
_DEFAULTS: Json = {"name": "Untitled", "max_concurrent_runs": 1}


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """The functions for jobs."""

    database: Database

    def create_job(self, call: Call) -> shapes.CreateResponse:
        """Save a new job."""
        settings = _checked({**_DEFAULTS, **call.body})
        entries = settings.pop("access_control_list", None)
        job_id = self.database.new_ids(1)[0]
        with self.database.transaction():  # a list that is refused leaves no job
            self.database.run("INSERT INTO jobs VALUES (?, ?, ?)", job_id, now_ms(), json.dumps(settings))
            if entries:
                target = {"type": "jobs", "id": str(job_id)}
                Permissions(self.database).patch(Call(path=target, body={"access_control_list": entries}))
        return shapes.CreateResponse(job_id=job_id)

    def get_job(self, call: Call) -> shapes.Job:
        """A job."""
        job_id = call.number("job_id")
        saved_settings(self.database, job_id)
        row = self.database.row("SELECT created_time, settings FROM jobs WHERE job_id = ?", job_id)
        assert row is not None
        settings = json.loads(row[1])
        run_as = settings.get("run_as") or {}
        return shapes.Job(
            job_id=job_id,
            created_time=row[0],
            creator_user_name=USER,
            run_as_user_name=next(iter(run_as.values()), USER),
            settings=job_settings(settings),
        )

    def list_jobs(self, call: Call) -> shapes.ListJobsResponse:
        """Jobs, newest first; `name` filters exactly, whatever the case."""
        limit = page_limit(call, _JOBS_PER_PAGE, _MOST_JOBS_PER_PAGE)
        offset = call.number("page_token", 0) if call.query.get("page_token") else call.number("offset", 0)
        name, expand = call.query.get("name", "").lower(), call.flag("expand_tasks")
        found = []
        for job_id, created, text in self.database.rows("SELECT * FROM jobs ORDER BY job_id DESC"):
            settings = json.loads(text)
            if not name or str(settings.get("name", "")).lower() == name:
                found.append((job_id, created, settings))
        more = offset + limit < len(found)
        return shapes.ListJobsResponse(
            has_more=more,
            next_page_token=str(offset + limit) if more else None,
            jobs=[
                shapes.BaseJob(
                    job_id=job_id,
                    created_time=created,
                    creator_user_name=USER,
                    settings=job_settings(settings if expand else {**settings, "tasks": None}),
                )
                for job_id, created, settings in found[offset : offset + limit]
            ],
        )

    def reset_job(self, call: Call) -> None:
        """Replace all settings of a job."""
        job_id = call.number("job_id")
        saved_settings(self.database, job_id)
        self._save(job_id, {**_DEFAULTS, **call.value("new_settings")})

    def update_job(self, call: Call) -> None:
        """Replace top-level settings of a job, or remove those of `fields_to_remove`."""
        job_id = call.number("job_id")
        settings = saved_settings(self.database, job_id) | (call.body.get("new_settings") or {})
        for name in call.body.get("fields_to_remove") or []:
            settings.pop(name, None)
        self._save(job_id, settings)

    def delete_job(self, call: Call) -> None:
        """Delete a job. Its runs stay readable."""
        job_id = call.number("job_id")
        saved_settings(self.database, job_id)
        with self.database.transaction():
            self.database.run("DELETE FROM jobs WHERE job_id = ?", job_id)
            self.database.run("DELETE FROM permissions WHERE object = ?", f"jobs/{job_id}")

    def _save(self, job_id: int, settings: Json) -> None:
        text = json.dumps(_checked(settings))
        self.database.run("UPDATE jobs SET settings = ? WHERE job_id = ?", text, job_id)


def _checked(settings: Json) -> Json:
    """Settings as they are kept: whole, whatever the API shows of them. Raises ApiError (400)."""
    job_settings(settings)
    if settings.get("tasks"):
        tasks_of(settings)
    return settings


def routes(workspace: Workspace) -> list[Route]:
    """The routes of `/api/2.x/jobs` that are for jobs."""
    service = Jobs(database=workspace.database)
    base = "/api/2.{minor:int}/jobs"
    return [
        route("POST", f"{base}/create", service.create_job),
        route("GET", f"{base}/get", service.get_job),
        route("GET", f"{base}/list", service.list_jobs),
        route("POST", f"{base}/reset", service.reset_job),
        route("POST", f"{base}/update", service.update_job),
        route("POST", f"{base}/delete", service.delete_job),
    ]

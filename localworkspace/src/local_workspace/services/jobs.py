"""The Jobs API, versions 2.0 to 2.2: jobs, and their runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from databricks.sdk.service import jobs as shapes
from starlette.routing import Route

from local_workspace.errors import ApiError, invalid
from local_workspace.http import Call, Json, route
from local_workspace.jobs import model
from local_workspace.jobs.model import Run
from local_workspace.jobs.process import read_log
from local_workspace.jobs.scheduler import Scheduler
from local_workspace.jobs.store import Filter, RunStore
from local_workspace.options import USER
from local_workspace.services.job_documents import (
    OVERRIDES,
    RunView,
    job_parameters,
    job_settings,
    submitted_run,
    task_runs,
    tasks_of,
)
from local_workspace.state import Database, now_ms
from local_workspace.workspace import Workspace

_RUNS_PER_PAGE, _MOST_RUNS_PER_PAGE = 20, 25
_JOBS_PER_PAGE, _MOST_JOBS_PER_PAGE = 20, 100
_DEFAULTS: Json = {"name": "Untitled", "max_concurrent_runs": 1}


@dataclass(frozen=True, kw_only=True)
class JobsService:
    """The service's functions. `folder` holds the runs' logs, `host` is for links."""

    database: Database
    store: RunStore
    scheduler: Scheduler
    folder: Path
    host: str

    # --- runs

    def submit(self, call: Call) -> shapes.SubmitRunResponse:
        """Start a one-time run."""
        ids = self.database.new_ids(len(tasks_of(call.body)) + 2)
        run, new = self.store.insert(_token(call), 0, lambda: submitted_run(call.body, ids, now_ms()))
        if new:
            self.scheduler.add(run)
        return shapes.SubmitRunResponse(run_id=run.run_id)

    def run_now(self, call: Call) -> shapes.RunNowResponse:
        """Start a run of a job."""
        job_id = call.number("job_id")
        settings = self._settings(job_id)
        tasks = tasks_of(settings)
        ids = self.database.new_ids(len(tasks) + 1)

        def make() -> Run:
            run = Run(
                run_id=ids[0],
                job_id=job_id,
                name=settings.get("name") or "Untitled",
                run_type="JOB_RUN",
                settings={key: value for key, value in settings.items() if key != "tasks"},
                tasks=task_runs(tasks, ids[1:]),
                start_time=now_ms(),
                number_in_job=self.store.count(job_id) + 1,
                parameters=job_parameters(settings, call.body.get("job_parameters")),
                overrides={name: call.body[name] for name in OVERRIDES if call.body.get(name)},
            )
            return self._admit(run, call)

        run, new = self.store.insert(_token(call), job_id, make)
        if new and run.active:
            self.scheduler.add(run)
        return shapes.RunNowResponse(run_id=run.run_id, number_in_job=run.number_in_job)

    def _admit(self, run: Run, call: Call) -> Run:
        """Queue or skip the run where the job has no room. API 2.2 queues by default."""
        most = int(run.settings.get("max_concurrent_runs") or 1)
        if self.scheduler.active_runs(run.job_id) < most:
            return run
        queue = call.body.get("queue") or run.settings.get("queue") or {"enabled": True}
        if queue.get("enabled"):
            return replace(run, held=True)
        ending, now = model.TOO_MANY, now_ms()
        tasks = tuple(replace(task, life=ending.life, ending=ending, end_time=now) for task in run.tasks)
        return replace(run, tasks=tasks, ending=ending, end_time=now)

    def get_run(self, call: Call) -> shapes.Run:
        """A run, by its own id or by a task run's."""
        run = self.store.get(call.number("run_id"))
        return self._view().run(shapes.Run, run, offset=call.number("page_token", 0))

    def get_run_output(self, call: Call) -> shapes.RunOutput:
        """The log and the error of a task run, or of a run with one task."""
        run_id = call.number("run_id")
        run = self.store.get(run_id)
        if run.run_id == run_id and len(run.tasks) > 1:
            raise invalid(
                "Retrieving the output of runs with multiple tasks is not supported. "
                "Please retrieve the output of each individual task run instead."
            )
        task = next((item for item in run.tasks if item.run_id == run_id), run.tasks[0])
        logs, truncated = read_log(self.folder / str(task.run_id))
        return shapes.RunOutput(
            metadata=self._view().task_run(run, task),
            logs=logs,
            logs_truncated=truncated,
            error=task.ending.error if task.ending else None,
            error_trace=task.ending.error_trace if task.ending else None,
        )

    def cancel_run(self, call: Call) -> None:
        """Ask for the end of a run; one that is over stays as it is."""
        self.scheduler.cancel(self.store.get(call.number("run_id")).run_id)

    def cancel_all_runs(self, call: Call) -> None:
        """Ask for the end of all runs of one job, or of everything queued or running."""
        job_id = call.number("job_id", 0)
        for run in self.store.active():
            if job_id in {0, run.job_id}:
                self.scheduler.cancel(run.run_id)

    def delete_run(self, call: Call) -> None:
        """Delete a run that is over, with its logs."""
        run = self.store.get(call.number("run_id"))
        self.store.delete(run)
        for task in run.tasks:
            shutil.rmtree(self.folder / str(task.run_id), ignore_errors=True)

    def list_runs(self, call: Call) -> shapes.ListRunsResponse:
        """Runs, newest first."""
        limit = _limit(call, _RUNS_PER_PAGE, _MOST_RUNS_PER_PAGE)
        wanted = _filter(call)
        found = self.store.list(wanted, limit + 1)
        more, backwards = len(found) > limit, wanted.after is not None
        if more:
            found = found[-limit:] if backwards else found[:limit]
        older = True if backwards else more
        newer = more if backwards else wanted.before is not None
        view, expand = self._view(), call.flag("expand_tasks")
        return shapes.ListRunsResponse(
            has_more=older,
            runs=[view.run(shapes.BaseRun, run, tasks=expand) for run in found],
            next_page_token=f"older:{found[-1].run_id}" if found and older else None,
            prev_page_token=f"newer:{found[0].run_id}" if found and newer else None,
        )

    def _view(self) -> RunView:
        return RunView(host=self.host, now=now_ms())

    # --- jobs

    def create_job(self, call: Call) -> shapes.CreateResponse:
        """Save a new job."""
        settings = _checked({**_DEFAULTS, **call.body})
        job_id = self.database.new_ids(1)[0]
        self.database.run("INSERT INTO jobs VALUES (?, ?, ?)", job_id, now_ms(), json.dumps(settings))
        return shapes.CreateResponse(job_id=job_id)

    def get_job(self, call: Call) -> shapes.Job:
        """A job."""
        job_id = call.number("job_id")
        self._settings(job_id)
        row = self.database.row("SELECT created_time, settings FROM jobs WHERE job_id = ?", job_id)
        assert row is not None
        return shapes.Job(
            job_id=job_id,
            created_time=row[0],
            creator_user_name=USER,
            run_as_user_name=USER,
            settings=job_settings(json.loads(row[1])),
        )

    def list_jobs(self, call: Call) -> shapes.ListJobsResponse:
        """Jobs, newest first; `name` filters exactly, whatever the case."""
        limit = _limit(call, _JOBS_PER_PAGE, _MOST_JOBS_PER_PAGE)
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
        self._settings(job_id)
        self._save(job_id, {**_DEFAULTS, **call.value("new_settings")})

    def update_job(self, call: Call) -> None:
        """Replace top-level settings of a job, or remove those of `fields_to_remove`."""
        job_id = call.number("job_id")
        settings = self._settings(job_id) | (call.body.get("new_settings") or {})
        for name in call.body.get("fields_to_remove") or []:
            settings.pop(name, None)
        self._save(job_id, settings)

    def delete_job(self, call: Call) -> None:
        """Delete a job. Its runs stay readable."""
        job_id = call.number("job_id")
        self._settings(job_id)
        self.database.run("DELETE FROM jobs WHERE job_id = ?", job_id)

    def _settings(self, job_id: int) -> Json:
        """The settings of a job. Raises ApiError (400: "Job N does not exist.")."""
        found = self.database.row("SELECT settings FROM jobs WHERE job_id = ?", job_id)
        if found is None:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"Job {job_id} does not exist.")
        settings: Json = json.loads(found[0])
        return settings

    def _save(self, job_id: int, settings: Json) -> None:
        text = json.dumps(_checked(settings))
        self.database.run("UPDATE jobs SET settings = ? WHERE job_id = ?", text, job_id)


def _checked(settings: Json) -> Json:
    """Settings as they are kept: whole, whatever the API shows of them. Raises ApiError (400)."""
    job_settings(settings)
    if settings.get("tasks"):
        tasks_of(settings)
    return settings


def _token(call: Call) -> str | None:
    token = call.body.get("idempotency_token")
    if token is not None and not isinstance(token, str):
        raise invalid("idempotency_token must be a string")
    return token or None


def _limit(call: Call, default: int, most: int) -> int:
    limit = call.number("limit", default) or default
    if not 1 <= limit <= most:
        raise invalid(f"limit must be between 1 and {most}, got {limit}")
    return limit


def _filter(call: Call) -> Filter:
    active, completed = call.flag("active_only"), call.flag("completed_only")
    if active and completed:
        raise invalid("active_only and completed_only exclude each other")
    direction, _, bound = call.query.get("page_token", "").partition(":")
    if direction and (direction not in {"older", "newer"} or not bound.isdigit()):
        raise invalid("page_token is not one that this API returned")

    def number(name: str) -> Any:
        return call.number(name) if call.query.get(name) else None

    return Filter(
        active=True if active else False if completed else None,
        job_id=number("job_id"),
        run_type=call.query.get("run_type") or None,
        start_from=number("start_time_from"),
        start_to=number("start_time_to"),
        before=int(bound) if direction == "older" else None,
        after=int(bound) if direction == "newer" else None,
    )


def routes(workspace: Workspace) -> list[Route]:
    """The routes of `/api/2.x/jobs`."""
    service = JobsService(
        database=workspace.database,
        store=workspace.runs,
        scheduler=workspace.scheduler,
        folder=workspace.layout.runs,
        host=workspace.info.host,
    )
    base = "/api/2.{minor:int}/jobs"
    return [
        route("GET", f"{base}/runs/get", service.get_run),
        route("POST", f"{base}/runs/submit", service.submit),
        route("GET", f"{base}/runs/list", service.list_runs),
        route("GET", f"{base}/runs/get-output", service.get_run_output),
        route("POST", f"{base}/runs/cancel", service.cancel_run),
        route("POST", f"{base}/runs/cancel-all", service.cancel_all_runs),
        route("POST", f"{base}/runs/delete", service.delete_run),
        route("POST", f"{base}/run-now", service.run_now),
        route("POST", f"{base}/create", service.create_job),
        route("GET", f"{base}/get", service.get_job),
        route("GET", f"{base}/list", service.list_jobs),
        route("POST", f"{base}/reset", service.reset_job),
        route("POST", f"{base}/update", service.update_job),
        route("POST", f"{base}/delete", service.delete_job),
    ]

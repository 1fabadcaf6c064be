"""The Jobs API's functions on runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from local_workspace.errors import invalid
from local_workspace.jobs import submission, verdict
from local_workspace.jobs.definitions import JobDefinitions
from local_workspace.jobs.logfile import read_log
from local_workspace.jobs.records import Run
from local_workspace.jobs.scheduler import Scheduler
from local_workspace.jobs.store import Filter, RunStore
from local_workspace.jobs.views import RunViews
from local_workspace.state import Database
from local_workspace.web import Call

Json = dict[str, Any]
LARGEST_PAGE = 25
_PAGE = 20


@dataclass(frozen=True, kw_only=True)
class JobsApi:
    """runs/* and run-now."""

    database: Database
    store: RunStore
    scheduler: Scheduler
    definitions: JobDefinitions
    views: RunViews
    folder: Path
    now: Callable[[], int]

    def submit(self, call: Call) -> Json:
        """`runs/submit`."""
        tasks = submission.tasks_of(call.body)
        ids = self.database.new_ids(len(tasks) + 2)
        run, new = self.store.insert(
            _token(call), 0, lambda: submission.submitted_run(call.body, ids, self.now())
        )
        if new:
            self.scheduler.add(run)
        return {"run_id": run.run_id}

    def run_now(self, call: Call) -> Json:
        """`run-now`."""
        job_id = call.number("job_id")
        settings = self.definitions.settings(job_id)
        tasks = submission.tasks_of(settings)
        ids = self.database.new_ids(len(tasks) + 1)

        def make() -> Run:
            run = Run(
                run_id=ids[0],
                job_id=job_id,
                name=settings.get("name") or "Untitled",
                run_type="JOB_RUN",
                settings={key: value for key, value in settings.items() if key != "tasks"},
                tasks=submission.task_runs(tasks, ids[1:]),
                start_time=self.now(),
                number_in_job=self.store.count(job_id) + 1,
                parameters=submission.job_parameters(settings, call.body.get("job_parameters")),
                overrides={name: call.body[name] for name in submission.OVERRIDES if call.body.get(name)},
            )
            return self._admitted(run, call)

        run, new = self.store.insert(_token(call), job_id, make)
        if new and run.active:
            self.scheduler.add(run)
        return {"run_id": run.run_id, "number_in_job": run.number_in_job}

    def _admitted(self, run: Run, call: Call) -> Run:
        """Queued, or skipped, when the job has no room. API 2.2 queues by default."""
        most = int(run.settings.get("max_concurrent_runs") or 1)
        if self.scheduler.active_runs(run.job_id) < most:
            return run
        queue = call.body.get("queue") or run.settings.get("queue") or {"enabled": True}
        if queue.get("enabled"):
            return replace(run, held=True)
        now = self.now()
        tasks = tuple(
            replace(task, life=verdict.TOO_MANY.life, ending=verdict.TOO_MANY, end_time=now)
            for task in run.tasks
        )
        return replace(run, tasks=tasks, ending=verdict.TOO_MANY, end_time=now)

    def get(self, call: Call) -> Json:
        """`runs/get`, by a run's or a task run's id."""
        run = self.store.get(call.number("run_id"))
        return self.views.run(run, self.now(), offset=call.number("page_token", 0))

    def get_output(self, call: Call) -> Json:
        """`runs/get-output`."""
        run_id = call.number("run_id")
        run = self.store.get(run_id)
        if run.run_id == run_id and len(run.tasks) > 1:
            raise invalid(
                "Retrieving the output of runs with multiple tasks is not supported. "
                "Please retrieve the output of each individual task run instead."
            )
        task = next((item for item in run.tasks if item.run_id == run_id), run.tasks[0])
        logs, truncated = read_log(self.folder / str(task.run_id))
        output: Json = {"metadata": self.views.task_run(run, task, self.now())}
        output |= {"logs": logs, "logs_truncated": truncated}
        if task.ending and task.ending.error:
            output["error"] = task.ending.error
        if task.ending and task.ending.error_trace:
            output["error_trace"] = task.ending.error_trace
        return output

    def cancel(self, call: Call) -> Json:
        """`runs/cancel`: asynchronous; a run that is over stays as it is."""
        self.scheduler.cancel(self.store.get(call.number("run_id")).run_id)
        return {}

    def cancel_all(self, call: Call) -> Json:
        """`runs/cancel-all` of one job, or of everything queued or running."""
        job_id = call.number("job_id", 0)
        for run in self.store.active():
            if job_id in {0, run.job_id}:
                self.scheduler.cancel(run.run_id)
        return {}

    def delete(self, call: Call) -> Json:
        """`runs/delete` of a run that is over."""
        run = self.store.get(call.number("run_id"))
        self.store.delete(run)
        for task in run.tasks:
            shutil.rmtree(self.folder / str(task.run_id), ignore_errors=True)
        return {}

    def list(self, call: Call) -> Json:
        """`runs/list`, newest first."""
        limit = call.number("limit", _PAGE) or _PAGE
        if not 1 <= limit <= LARGEST_PAGE:
            raise invalid(f"limit must be between 1 and {LARGEST_PAGE}, got {limit}")
        wanted = _filter(call)
        found = self.store.list(wanted, limit + 1)
        backwards = wanted.after is not None
        runs = (found[-limit:] if backwards else found[:limit]) if len(found) > limit else found
        older = len(found) > limit if not backwards else True
        newer = len(found) > limit if backwards else wanted.before is not None
        reply: Json = {"has_more": older}
        if runs:
            expand = call.flag("expand_tasks")
            reply["runs"] = [self.views.run(run, self.now(), tasks=expand) for run in runs]
            reply |= {"next_page_token": f"older:{runs[-1].run_id}"} if older else {}
            reply |= {"prev_page_token": f"newer:{runs[0].run_id}"} if newer else {}
        return reply


def _token(call: Call) -> str | None:
    token = call.body.get("idempotency_token")
    if token is not None and not isinstance(token, str):
        raise invalid("idempotency_token must be a string")
    return token or None


def _filter(call: Call) -> Filter:
    active, completed = call.flag("active_only"), call.flag("completed_only")
    if active and completed:
        raise invalid("active_only and completed_only exclude each other")
    direction, _, bound = call.query.get("page_token", "").partition(":")
    if direction and (direction not in {"older", "newer"} or not bound.isdigit()):
        raise invalid("page_token is not one that this API returned")
    return Filter(
        active=True if active else False if completed else None,
        job_id=call.number("job_id") if call.query.get("job_id") else None,
        run_type=call.query.get("run_type") or None,
        start_from=call.number("start_time_from") if call.query.get("start_time_from") else None,
        start_to=call.number("start_time_to") if call.query.get("start_time_to") else None,
        before=int(bound) if direction == "older" else None,
        after=int(bound) if direction == "newer" else None,
    )

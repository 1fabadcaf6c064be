"""Runs of jobs: submit, run-now, repair, cancel, delete, and what the Jobs API shows of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from databricks.sdk.service import jobs as shapes
from starlette.routing import Route

from local_workspace.errors import ApiError, invalid
from local_workspace.http import Call, Json, route
from local_workspace.jobs import model
from local_workspace.jobs.model import Run
from local_workspace.jobs.process import read_log
from local_workspace.jobs.store import Filter
from local_workspace.services.job_documents import (
    OVERRIDES,
    RunView,
    chosen_tasks,
    job_parameters,
    page_limit,
    saved_settings,
    submitted_run,
    task_runs,
    tasks_of,
)
from local_workspace.state import now_ms
from local_workspace.workspace import Workspace

_RUNS_PER_PAGE, _MOST_RUNS_PER_PAGE = 20, 25


class Runs:
    """The service's functions."""

    def __init__(self, workspace: Workspace) -> None:
        self.database, self.store, self.scheduler = workspace.database, workspace.runs, workspace.scheduler
        self.references, self.host = workspace.references, workspace.info.host
        self.folder = workspace.layout.runs  # with the logs

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
        settings = saved_settings(self.database, job_id)
        tasks = chosen_tasks(tasks_of(settings), call.body.get("only"))
        ids = self.database.new_ids(len(tasks) + 1)

        def make() -> Run:
            parameters = job_parameters(settings, call.body.get("job_parameters"))
            run = Run(
                run_id=ids[0],
                job_id=job_id,
                name=settings.get("name") or "Untitled",
                run_type="JOB_RUN",
                settings={key: value for key, value in settings.items() if key != "tasks"},
                tasks=task_runs(tasks, ids[1:]),
                start_time=now_ms(),
                number_in_job=self.store.count(job_id) + 1,
                overrides=_overrides(call),
            )
            filled = {name: self.references.fill(value, run) for name, value in parameters.items()}
            return self._admit(replace(run, parameters=filled), call)

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
        return run.ended(model.TOO_MANY, now_ms())

    def get_run(self, call: Call) -> shapes.Run:
        """A run, by its own id or by a task run's."""
        run = self.store.get(call.number("run_id"))
        history = call.flag("include_history")
        return self._view().run(shapes.Run, run, offset=call.number("page_token", 0), history=history)

    def get_run_output(self, call: Call) -> shapes.RunOutput:
        """The log and the error of a task run, or of a run with one task."""
        run_id = call.number("run_id")
        run = self.store.get(run_id)
        if run.run_id == run_id and len(run.tasks) > 1:
            raise invalid(
                "Retrieving the output of runs with multiple tasks is not supported. "
                "Please retrieve the output of each individual task run instead."
            )
        task = next((item for item in (*run.earlier, *run.tasks) if item.run_id == run_id), run.tasks[0])
        logs, truncated = read_log(self.folder / str(task.run_id))
        return shapes.RunOutput(
            metadata=self._view().task_run(run, task),
            logs=logs,
            logs_truncated=truncated,
            error=task.ending.error if task.ending else None,
            error_trace=task.ending.error_trace if task.ending else None,
        )

    def repair_run(self, call: Call) -> shapes.RepairRunResponse:
        """Run tasks of a run that has ended again, as a part of the same run."""
        run_id = call.number("run_id")
        ids = self.store.new_ids(len(self.store.get(run_id).tasks) + 1)
        with self.database.transaction():
            run = self.store.get(run_id)
            if run.active:
                message = f"Run {run_id} is active: only a run that has ended can be repaired"
                raise ApiError(400, "INVALID_STATE", message)
            if run.repair_id and call.number("latest_repair_id", 0) != run.repair_id:
                raise invalid(f"latest_repair_id must be that of the latest repair, {run.repair_id}")
            specs = self._specs(run, _rerun_keys(run, call))
            ids = ids[: len(specs) + 1]
            given = job_parameters({}, call.body.get("job_parameters"))
            run = replace(
                model.repaired(run, specs, ids, now_ms()),
                overrides=run.overrides | _overrides(call),
                parameters=run.parameters | given,
            )
            self.store.save(run)
        self.scheduler.add(run)
        return shapes.RepairRunResponse(repair_id=ids[0])

    def _specs(self, run: Run, keys: Sequence[str]) -> dict[str, Json]:
        """The tasks to run again, as the job has them now: "they use the current job and task settings"."""
        found = self.database.row("SELECT settings FROM jobs WHERE job_id = ?", run.job_id)
        now = {task["task_key"]: task for task in json.loads(found[0]).get("tasks") or []} if found else {}
        old = {task.task_key: task.spec for task in run.tasks}
        return {key: now.get(key, old[key]) for key in keys}

    def cancel_run(self, call: Call) -> None:
        """Ask for the end of a run; one that is over stays as it is."""
        self.scheduler.cancel(self.store.get(call.number("run_id")).run_id)

    def cancel_all_runs(self, call: Call) -> None:
        """Ask for the end of all runs of one job; with `all_queued_runs` of those that wait, of any job."""
        job_id, queued = call.number("job_id", 0), call.flag("all_queued_runs")
        if not job_id and not queued:
            raise invalid("cancel-all needs job_id, or all_queued_runs")
        for run in self.store.active():
            if job_id in {0, run.job_id} and (run.held or not queued):
                self.scheduler.cancel(run.run_id)

    def delete_run(self, call: Call) -> None:
        """Delete a run that is over, with its logs."""
        run = self.store.get(call.number("run_id"))
        self.store.delete(run)
        for number in (run.run_id, *(task.run_id for task in (*run.earlier, *run.tasks))):
            shutil.rmtree(self.folder / str(number), ignore_errors=True)

    def list_runs(self, call: Call) -> shapes.ListRunsResponse:
        """Runs, newest first."""
        limit = page_limit(call, _RUNS_PER_PAGE, _MOST_RUNS_PER_PAGE)
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


def _rerun_keys(run: Run, call: Call) -> list[str]:
    """The tasks that a repair asks for. Raises ApiError (400) where there is none, or an unknown one."""
    keys, given = [task.task_key for task in run.tasks], call.body.get("rerun_tasks") or []
    if unknown := sorted(set(given) - set(keys)):
        raise invalid(f"rerun_tasks names a task that the run does not have: {unknown[0]!r}")
    wanted = set(model.failed_keys(run) if call.flag("rerun_all_failed_tasks") else given)
    if call.flag("rerun_dependent_tasks"):
        for _ in keys:
            wanted |= {task.task_key for task in run.tasks if wanted.intersection(task.depends_on)}
    if not wanted:
        raise invalid("A repair needs rerun_tasks, or rerun_all_failed_tasks where a task has failed")
    return [key for key in keys if key in wanted]


def _overrides(call: Call) -> Json:
    """The parameters of tasks that a request gives in place of the tasks' own."""
    return {name: call.body[name] for name in OVERRIDES if call.body.get(name)}


def _token(call: Call) -> str | None:
    return call.text("idempotency_token") if call.body.get("idempotency_token") else None


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
    """The routes of `/api/2.x/jobs` that are for runs."""
    runs, base = Runs(workspace), "/api/2.{minor:int}/jobs"
    # Parameters of kinds of tasks that do not run here.
    other = "dbt_commands duration_target pipeline_params spark_submit_params sql_params"
    return [
        route("GET", f"{base}/runs/get", runs.get_run, refuses="include_resolved_values"),
        route("POST", f"{base}/runs/submit", runs.submit),
        route("GET", f"{base}/runs/list", runs.list_runs, refuses="offset"),
        route("GET", f"{base}/runs/get-output", runs.get_run_output),
        route("POST", f"{base}/runs/cancel", runs.cancel_run),
        route("POST", f"{base}/runs/cancel-all", runs.cancel_all_runs),
        route("POST", f"{base}/runs/delete", runs.delete_run),
        route("POST", f"{base}/runs/repair", runs.repair_run, refuses=other),
        route("POST", f"{base}/run-now", runs.run_now, refuses=other),
    ]

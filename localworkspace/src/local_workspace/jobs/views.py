"""Runs as the Jobs API shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from local_workspace.jobs.records import Ending, Run, TaskRun
from local_workspace.jobs.verdict import run_life

Json = dict[str, Any]

# The newer `status.state` for each legacy life cycle (databricks-sdk 0.156, jobs.RunLifecycleStateV2State).
_V2 = {"SKIPPED": "TERMINATED", "INTERNAL_ERROR": "TERMINATED", "WAITING_FOR_RETRY": "WAITING"}
PAGE_OF_TASKS = 100


@dataclass(frozen=True, kw_only=True)
class RunViews:
    """Builds the documents; `host` is for links, `user` owns everything, `now` is the time in ms."""

    host: str
    user: str

    def run(self, run: Run, now: int, *, tasks: bool = True, offset: int = 0) -> Json:
        """A run, with the page of its tasks that begins at `offset`."""
        document: Json = {
            "job_id": run.job_id,
            "run_id": run.run_id,
            "job_run_id": run.run_id,
            "number_in_job": run.number_in_job,
            "original_attempt_run_id": run.run_id,
            "creator_user_name": self.user,
            "run_as_user_name": self.user,
            "run_name": run.name,
            "run_page_url": self._url(run),
            "run_type": run.run_type,
            "trigger": "ONE_TIME",
            "format": "MULTI_TASK",
            **_durations(run, now),
            **_state(run_life(run), run.ending, stopped=run.stop is not None),
        }
        if run.parameters:
            document["job_parameters"] = [{"name": k, "value": v} for k, v in run.parameters.items()]
        if run.overrides:
            document["overriding_parameters"] = run.overrides
        if tasks:
            page = run.tasks[offset : offset + PAGE_OF_TASKS]
            document["tasks"] = [self._task(run, task, now) for task in page]
            if offset + PAGE_OF_TASKS < len(run.tasks):
                document["next_page_token"] = str(offset + PAGE_OF_TASKS)
            # The SDK joins these lists over the pages without asking whether they are there.
            document |= {"job_clusters": [], "job_parameters": document.get("job_parameters", [])}
            document["repair_history"] = []
        return document

    def task_run(self, run: Run, task: TaskRun, now: int) -> Json:
        """`metadata` of get-output: the run, seen as its one task."""
        document = self.run(run, now, tasks=False)
        own = self._task(run, task, now)
        return {**document, **own, "job_run_id": run.run_id, "original_attempt_run_id": task.run_id,
                "tasks": [own]}  # fmt: skip

    def _task(self, run: Run, task: TaskRun, now: int) -> Json:
        end = task.end_time or now
        started = task.start_time or end
        return {
            **task.spec,
            "run_id": task.run_id,
            "task_key": task.task_key,
            "run_if": task.spec.get("run_if") or "ALL_SUCCESS",
            "attempt_number": 0,
            "start_time": task.start_time or run.start_time,
            "setup_duration": max(0, (task.running_time or end) - started) if task.start_time else 0,
            "execution_duration": end - task.running_time if task.running_time else 0,
            "cleanup_duration": 0,
            "queue_duration": max(0, started - run.start_time),
            "end_time": task.end_time,
            "cluster_instance": {"cluster_id": "local", "spark_context_id": str(run.run_id)},
            "run_page_url": self._url(run, task),
            **_state(task.life, task.ending, stopped=run.stop is not None),
        }

    def _url(self, run: Run, task: TaskRun | None = None) -> str:
        return f"{self.host}/jobs/{run.job_id}/runs/{task.run_id if task else run.run_id}"


def _durations(run: Run, now: int) -> Json:
    first = min((task.start_time for task in run.tasks if task.start_time), default=0)
    running = min((task.running_time for task in run.tasks if task.running_time), default=0)
    end = run.end_time or now
    # Multi-task runs report run_duration; the parts are known only where there is one task.
    alone = len(run.tasks) == 1
    return {
        "start_time": run.start_time,
        "setup_duration": max(0, (running or end) - first) if alone and first else 0,
        "execution_duration": end - running if alone and running else 0,
        "cleanup_duration": 0,
        "run_duration": end - run.start_time if run.end_time else 0,
        "queue_duration": max(0, (first or end) - run.start_time),
        "end_time": run.end_time,
    }


def _state(life: str, ending: Ending | None, *, stopped: bool) -> Json:
    state: Json = {"life_cycle_state": life, "state_message": ending.message if ending else ""}
    status: Json = {"state": _V2.get(life, life)}
    # A run that ended by itself before the cancel reached it was not cancelled.
    state["user_cancelled_or_timedout"] = (
        stopped if ending is None else ending.result in {"CANCELED", "TIMEDOUT"}
    )
    if ending is not None:
        state["result_state"] = ending.result
        status["termination_details"] = {"code": ending.code, "type": ending.kind, "message": ending.message}
    elif life == "QUEUED":
        message = "Waiting for other runs to end."
        status["queue_details"] = {"code": "ACTIVE_RUNS_LIMIT_REACHED", "message": message}
        state["queue_reason"] = message
    return {"state": state, "status": status}

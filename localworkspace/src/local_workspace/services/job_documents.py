"""The Jobs API's documents: requests parsed into runs, runs and jobs shown as the SDK's dataclasses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeVar

from databricks.sdk.service import jobs as shapes

from local_workspace.errors import invalid
from local_workspace.http import Call, Json
from local_workspace.jobs import references
from local_workspace.jobs.model import DISABLED, RUN_IF, Ending, Life, Pass, Run, TaskRun, run_life
from local_workspace.options import CLUSTER_ID, USER
from local_workspace.state import Database

ShownRun = TypeVar("ShownRun", "shapes.Run", "shapes.BaseRun")
Document = TypeVar("Document", "shapes.RunTask", "shapes.JobSettings")

_SINGLE_TASK = ("spark_python_task", "python_wheel_task", "notebook_task", "spark_jar_task")
_CLUSTER = ("new_cluster", "existing_cluster_id", "libraries")
OVERRIDES = ("python_params", "python_named_params", "notebook_params", "jar_params")
TASKS_PER_PAGE = 100
# The newer `status.state` for each legacy life cycle (databricks-sdk 0.156, jobs.RunLifecycleStateV2State).
_V2 = {"SKIPPED": "TERMINATED", "INTERNAL_ERROR": "TERMINATED", "WAITING_FOR_RETRY": "WAITING"}


def tasks_of(settings: Json) -> list[Json]:
    """The tasks of a request, checked. Raises ApiError (400).

    The single-task form of API 2.0 (the task's fields on top) is accepted too.
    """
    tasks = settings.get("tasks")
    if tasks is None and any(settings.get(name) for name in _SINGLE_TASK):
        fields = {name: settings[name] for name in (*_SINGLE_TASK, *_CLUSTER) if name in settings}
        tasks = [{"task_key": "main", **fields}]
    if not isinstance(tasks, list) or not tasks:
        raise invalid("At least one task must be specified in tasks")
    for item in (*tasks, *(settings.get("job_clusters") or [])):
        _check_cluster(item)
    for task in tasks:
        _check(task)
    keys = [task["task_key"] for task in tasks]
    if len(set(keys)) != len(keys):
        raise invalid("Duplicate task_key: every task of a run needs a key of its own")
    _check_order(tasks)
    return tasks


def _check(task: Any) -> None:
    if not isinstance(task, dict) or not isinstance(task.get("task_key"), str) or not task["task_key"]:
        raise invalid("Every task needs a task_key")
    key = task["task_key"]
    if (task.get("run_if") or "ALL_SUCCESS") not in RUN_IF:
        raise invalid(f"Task {key}: unknown run_if {task['run_if']!r}")
    for name in ("timeout_seconds", "max_retries", "min_retry_interval_millis"):
        if not isinstance(task.get(name) or 0, int):
            raise invalid(f"Task {key}: {name} must be an integer")
    dependencies = task.get("depends_on") or []
    if not all(isinstance(item, dict) and isinstance(item.get("task_key"), str) for item in dependencies):
        raise invalid(f"Task {key}: depends_on must be a list of {{task_key}}")
    shown = _read(shapes.RunTask, task, f"Task {key} is")
    for name in ("spark_python_task", "python_wheel_task"):
        kind = getattr(shown, name)
        if kind and not all(isinstance(item, str) for item in kind.parameters or []):
            raise invalid(f"Task {key}: parameters must be strings")
        references.check(task.get(name))


def _read(kind: type[Document], document: Json, what: str) -> Document:
    """The SDK's reading of a document. Raises ApiError (400) when it is malformed."""
    try:
        return kind.from_dict(document)
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise invalid(f"{what} malformed: {error}") from None


def _check_cluster(holder: Any) -> None:
    """Raise ApiError for what a cluster would do and this machine will not."""
    cluster = holder.get("new_cluster") if isinstance(holder, dict) else None
    for name in ("init_scripts", "docker_image", "cluster_log_conf"):
        if isinstance(cluster, dict) and cluster.get(name):
            raise invalid(f"new_cluster.{name} is not supported by the local workspace: leave it out")


def _check_order(tasks: Sequence[Json]) -> None:
    """Raise ApiError when a dependency is unknown or circular."""
    waits = {task["task_key"]: {d["task_key"] for d in task.get("depends_on") or []} for task in tasks}
    for key, needed in waits.items():
        if unknown := needed - waits.keys():
            raise invalid(f"Task {key} depends on unknown task {sorted(unknown)[0]!r}")
    try:
        TopologicalSorter(waits).prepare()
    except CycleError as error:
        raise invalid(f"The dependencies of the tasks {sorted(set(error.args[1]))} form a cycle") from None


def task_runs(tasks: Sequence[Json], ids: Sequence[int]) -> tuple[TaskRun, ...]:
    """Task runs that have not begun; those of disabled tasks have ended."""
    made = []
    for task, number in zip(tasks, ids, strict=True):
        life: Life = "BLOCKED" if task.get("depends_on") else "PENDING"
        new = TaskRun(run_id=number, task_key=task["task_key"], spec=task, life=life)
        made.append(new.ended(DISABLED, 0) if task.get("disabled") else new)
    return tuple(made)


def chosen_tasks(tasks: Sequence[Json], only: Any) -> list[Json]:
    """The tasks that `only` names, all by default, without dependencies on others. Raises ApiError (400)."""
    if not only:
        return list(tasks)
    if unknown := sorted(set(only) - {task["task_key"] for task in tasks}):
        raise invalid(f"only names a task that the job does not have: {unknown[0]!r}")
    kept = [task for task in tasks if task["task_key"] in only]
    return [
        {**task, "depends_on": [item for item in task.get("depends_on") or [] if item["task_key"] in only]}
        for task in kept
    ]


def submitted_run(settings: Json, ids: Sequence[int], now: int) -> Run:
    """A one-time run. `ids`: first the run's, then one per task. A one-time run has a job id of its own."""
    return Run(
        run_id=ids[0],
        job_id=ids[-1],
        name=settings.get("run_name") or "Untitled",
        run_type="SUBMIT_RUN",
        settings={key: value for key, value in settings.items() if key not in {"tasks", "idempotency_token"}},
        tasks=task_runs(tasks_of(settings), ids[1:-1]),
        start_time=now,
    )


def job_parameters(settings: Json, given: Any) -> dict[str, str]:
    """The job's parameters: the values of one run over the defaults. Raises ApiError."""
    if given is not None and not isinstance(given, dict):
        raise invalid("job_parameters must be an object of strings")
    declared = {item["name"]: str(item.get("default", "")) for item in settings.get("parameters") or []}
    return {**declared, **{str(key): str(value) for key, value in (given or {}).items()}}


def job_settings(settings: Any) -> shapes.JobSettings:
    """The settings of a job as the API shows them. Raises ApiError (400) when they are malformed."""
    if not isinstance(settings, dict):
        raise invalid("new_settings must be an object")
    return _read(shapes.JobSettings, {"format": "MULTI_TASK", **settings}, "The settings of the job are")


def saved_settings(database: Database, job_id: int) -> Json:
    """The settings of a job. Raises ApiError (400: "Job N does not exist.")."""
    found = database.row("SELECT settings FROM jobs WHERE job_id = ?", job_id)
    if found is None:
        raise invalid(f"Job {job_id} does not exist.")
    settings: Json = json.loads(found[0])
    return settings


def page_limit(call: Call, default: int, most: int) -> int:
    """The `limit` of a listing. Raises ApiError (400)."""
    limit = call.number("limit", default) or default
    if not 1 <= limit <= most:
        raise invalid(f"limit must be between 1 and {most}, got {limit}")
    return limit


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunView:
    """Shows runs as they are at `now` (ms); `host` is for links."""

    host: str
    now: int

    def run(
        self, kind: type[ShownRun], run: Run, *, tasks: bool = True, offset: int = 0, history: bool = False
    ) -> ShownRun:
        """A run, with the page of its task runs that begins at `offset`, and its repairs if asked for.

        Where a task was tried again, all its task runs are listed, the latest last.
        """
        parameters = [shapes.JobParameter(name=k, value=v) for k, v in run.parameters.items()]
        listed = (*run.earlier, *run.tasks)
        page = listed[offset : offset + TASKS_PER_PAGE] if tasks else ()
        state, status = _state(run_life(run), run.ending, stopped=run.stop is not None)
        shown = kind(
            job_id=run.job_id,
            run_id=run.run_id,
            job_run_id=run.run_id,
            number_in_job=run.number_in_job,
            original_attempt_run_id=run.run_id,
            creator_user_name=USER,
            run_name=run.name,
            run_page_url=self._url(run),
            run_type=shapes.RunType(run.run_type),
            trigger=shapes.TriggerType.ONE_TIME,
            start_time=run.start_time,
            end_time=run.end_time,
            cleanup_duration=0,
            state=state,
            status=status,
            job_parameters=parameters,
            overriding_parameters=shapes.RunParameters.from_dict(run.overrides) if run.overrides else None,
            tasks=[self._task(run, task) for task in page],
            repair_history=[self._pass(run, item) for item in run.passes] if history else None,
        )
        self._set_durations(shown, run)
        if tasks and offset + TASKS_PER_PAGE < len(listed):
            shown.has_more = True
            if isinstance(shown, shapes.Run):
                shown.next_page_token = str(offset + TASKS_PER_PAGE)
        return shown

    def _pass(self, run: Run, item: Pass) -> shapes.RepairHistoryItem:
        life = item.ending.life if item.ending else run_life(run)
        state, status = _state(life, item.ending, stopped=run.stop is not None)
        kind = shapes.RepairHistoryItemType
        return shapes.RepairHistoryItem(
            id=item.repair_id or None,
            type=kind.REPAIR if item.repair_id else kind.ORIGINAL,
            start_time=item.start_time,
            end_time=item.end_time,
            state=state,
            status=status,
            task_run_ids=list(item.task_run_ids),
        )

    def task_run(self, run: Run, task: TaskRun) -> shapes.Run:
        """The `metadata` of get-output: the run, seen as its one task."""
        shown = self.run(shapes.Run, run, tasks=False)
        own = self._task(run, task)
        for name in (
            "run_id", "attempt_number", "cluster_instance", "run_page_url", "state", "status", "start_time",
            "end_time", "setup_duration", "execution_duration", "queue_duration",
        ):  # fmt: skip
            setattr(shown, name, getattr(own, name))
        shown.original_attempt_run_id = task.run_id
        shown.tasks = [own]
        return shown

    def _task(self, run: Run, task: TaskRun) -> shapes.RunTask:
        end = task.end_time or self.now
        started = task.start_time or end
        state, status = _state(task.life, task.ending, stopped=run.stop is not None)
        return dataclasses.replace(
            shapes.RunTask.from_dict({"run_if": "ALL_SUCCESS", **task.spec}),
            run_id=task.run_id,
            attempt_number=task.attempt,
            start_time=task.start_time or run.start_time,
            setup_duration=max(0, (task.running_time or end) - started) if task.start_time else 0,
            execution_duration=end - task.running_time if task.running_time else 0,
            cleanup_duration=0,
            queue_duration=max(0, started - run.start_time),
            end_time=task.end_time,
            cluster_instance=shapes.ClusterInstance(cluster_id=CLUSTER_ID, spark_context_id=str(run.run_id)),
            run_page_url=self._url(run, task),
            state=state,
            status=status,
        )

    def _set_durations(self, shown: shapes.Run | shapes.BaseRun, run: Run) -> None:
        first = min((task.start_time for task in run.tasks if task.start_time), default=0)
        running = min((task.running_time for task in run.tasks if task.running_time), default=0)
        end = run.end_time or self.now
        # Multi-task runs report run_duration; the parts are known only where there is one task.
        single = len(run.tasks) == 1
        shown.setup_duration = max(0, (running or end) - first) if single and first else 0
        shown.execution_duration = end - running if single and running else 0
        shown.run_duration = end - run.start_time if run.end_time else 0
        shown.queue_duration = max(0, (first or end) - run.start_time)

    def _url(self, run: Run, task: TaskRun | None = None) -> str:
        return f"{self.host}/jobs/{run.job_id}/runs/{task.run_id if task else run.run_id}"


def _state(life: str, ending: Ending | None, *, stopped: bool) -> tuple[shapes.RunState, shapes.RunStatus]:
    """The legacy `state` and the newer `status` of a run or task run."""
    state = shapes.RunState(
        life_cycle_state=shapes.RunLifeCycleState(life),
        state_message=ending.message if ending else "",
        # A run that ended by itself before the cancel reached it was not cancelled.
        user_cancelled_or_timedout=ending.result in {"CANCELED", "TIMEDOUT"} if ending else stopped,
    )
    status = shapes.RunStatus(state=shapes.RunLifecycleStateV2State(_V2.get(life, life)))
    if ending is not None:
        state.result_state = shapes.RunResultState(ending.result)
        status.termination_details = shapes.TerminationDetails(
            code=shapes.TerminationCodeCode(ending.code),
            type=shapes.TerminationTypeType(ending.kind),
            message=ending.message,
        )
    elif life == "QUEUED":
        state.queue_reason = "Waiting for other runs to end."
        code = shapes.QueueDetailsCodeCode.ACTIVE_RUNS_LIMIT_REACHED
        status.queue_details = shapes.QueueDetails(code=code, message=state.queue_reason)
    return state, status

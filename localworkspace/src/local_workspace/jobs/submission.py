"""From a runs/submit or run-now request to a run; whatever is malformed is refused here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from local_workspace.errors import invalid
from local_workspace.jobs.records import Run, TaskRun
from local_workspace.jobs.verdict import RUN_IF

Json = dict[str, Any]

_SINGLE_TASK = ("spark_python_task", "python_wheel_task", "notebook_task", "spark_jar_task")
_CLUSTER = ("new_cluster", "existing_cluster_id", "libraries")
OVERRIDES = ("python_params", "python_named_params", "notebook_params", "jar_params")


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
    for task in tasks:
        _check(task)
    keys = [task["task_key"] for task in tasks]
    if len(set(keys)) != len(keys):
        raise invalid("Duplicate task_key: every task of a run needs a key of its own")
    _order(tasks)
    return tasks


def _check(task: Any) -> None:
    if not isinstance(task, dict) or not isinstance(task.get("task_key"), str) or not task["task_key"]:
        raise invalid("Every task needs a task_key")
    key = task["task_key"]
    if (task.get("run_if") or "ALL_SUCCESS") not in RUN_IF:
        raise invalid(f"Task {key}: unknown run_if {task['run_if']!r}")
    for name in ("timeout_seconds", "max_retries"):
        if not isinstance(task.get(name) or 0, int):
            raise invalid(f"Task {key}: {name} must be an integer")
    dependencies = task.get("depends_on") or []
    if not all(isinstance(item, dict) and isinstance(item.get("task_key"), str) for item in dependencies):
        raise invalid(f"Task {key}: depends_on must be a list of {{task_key}}")
    for name in ("spark_python_task", "python_wheel_task"):
        parameters = (task.get(name) or {}).get("parameters") or []
        if not all(isinstance(item, str) for item in parameters):
            raise invalid(f"Task {key}: parameters must be strings")


def _order(tasks: Sequence[Json]) -> None:
    """Raises ApiError when a dependency is unknown or goes round in a circle."""
    waits = {task["task_key"]: {d["task_key"] for d in task.get("depends_on") or []} for task in tasks}
    for key, needed in waits.items():
        if unknown := needed - waits.keys():
            raise invalid(f"Task {key} depends on unknown task {sorted(unknown)[0]!r}")
    while waits:
        ready = {key for key, needed in waits.items() if not needed & waits.keys()}
        if not ready:
            raise invalid(f"The dependencies of the tasks {sorted(waits)} form a cycle")
        waits = {key: needed for key, needed in waits.items() if key not in ready}


def task_runs(tasks: Sequence[Json], ids: Sequence[int]) -> tuple[TaskRun, ...]:
    """Task runs that have not begun."""
    return tuple(
        TaskRun(
            run_id=number,
            task_key=task["task_key"],
            spec=task,
            life="BLOCKED" if task.get("depends_on") else "PENDING",
        )
        for task, number in zip(tasks, ids, strict=True)
    )


def submitted_run(settings: Json, ids: Sequence[int], now: int) -> Run:
    """A one-time run. `ids`: first the run's, then one per task. A one-time run has a job id of its own."""
    tasks = tasks_of(settings)
    return Run(
        run_id=ids[0],
        job_id=ids[-1],
        name=settings.get("run_name") or "Untitled",
        run_type="SUBMIT_RUN",
        settings={key: value for key, value in settings.items() if key not in {"tasks", "idempotency_token"}},
        tasks=task_runs(tasks, ids[1:-1]),
        start_time=now,
    )


def job_parameters(settings: Json, given: Any) -> dict[str, str]:
    """The job's parameters with the values of one run put over the defaults. Raises ApiError."""
    if given is not None and not isinstance(given, dict):
        raise invalid("job_parameters must be an object of strings")
    declared = {item["name"]: str(item.get("default", "")) for item in settings.get("parameters") or []}
    return {**declared, **{str(key): str(value) for key, value in (given or {}).items()}}

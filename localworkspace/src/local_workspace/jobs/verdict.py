"""Pure decisions: which tasks may start, and what a run's tasks say about the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from local_workspace.jobs.records import FINAL, Ending, Life, Run, TaskRun

WORKLOAD_FAILED = "Workload failed, see run output for details"

SUCCESS = Ending(life="TERMINATED", result="SUCCESS", code="SUCCESS", kind="SUCCESS")
CANCELED = Ending(
    life="TERMINATED",
    result="CANCELED",
    code="USER_CANCELED",
    kind="SUCCESS",
    message="Run cancelled.",
)
# Databricks gives no code of its own to a time-out: CANCELED is "by the platform, for example because the
# maximum run duration was exceeded" (databricks-sdk 0.156, jobs.TerminationCodeCode).
TIMED_OUT = Ending(
    life="TERMINATED",
    result="TIMEDOUT",
    code="CANCELED",
    kind="CLIENT_ERROR",
    message="Run timed out: the maximum run duration was exceeded.",
)
LOST = Ending(
    life="INTERNAL_ERROR",
    result="FAILED",
    code="DRIVER_ERROR",
    kind="CLOUD_FAILURE",
    message="The workspace stopped while the run was active; its processes were ended.",
)
UPSTREAM_FAILED = Ending(
    life="SKIPPED",
    result="UPSTREAM_FAILED",
    code="SKIPPED",
    kind="CLIENT_ERROR",
    message="An upstream task failed.",
)
EXCLUDED = Ending(
    life="SKIPPED",
    result="EXCLUDED",
    code="SKIPPED",
    kind="SUCCESS",
    message="The run_if condition of the task was not met.",
)
TOO_MANY = Ending(
    life="SKIPPED",
    result="MAXIMUM_CONCURRENT_RUNS_REACHED",
    code="MAX_CONCURRENT_RUNS_EXCEEDED",
    kind="CLIENT_ERROR",
    message="The job already has max_concurrent_runs active runs and does not queue.",
)


def failed(
    code: str, message: str, *, kind: str = "CLIENT_ERROR", error: str | None = None, trace: str | None = None
) -> Ending:
    """A task that failed. Its life cycle is TERMINATED; only the run's becomes INTERNAL_ERROR."""
    return Ending(
        life="TERMINATED",
        result="FAILED",
        code=code,
        kind=kind,
        message=message,
        error=error or message,
        error_trace=trace,
    )


_FAILURES = frozenset({"FAILED", "TIMEDOUT", "CANCELED", "UPSTREAM_FAILED"})
_RUN_IF: Mapping[str, Callable[[Sequence[str]], bool]] = {
    "ALL_SUCCESS": lambda results: all(result == "SUCCESS" for result in results),
    "ALL_DONE": lambda _results: True,
    "NONE_FAILED": lambda results: not _FAILURES.intersection(results),
    "AT_LEAST_ONE_SUCCESS": lambda results: "SUCCESS" in results,
    "AT_LEAST_ONE_FAILED": lambda results: bool(_FAILURES.intersection(results)),
    "ALL_FAILED": lambda results: all(result in _FAILURES for result in results),
}
RUN_IF = frozenset(_RUN_IF)


def unblocked(task: TaskRun, by_key: Mapping[str, TaskRun]) -> Ending | Life | None:
    """What becomes of a BLOCKED task: None (still blocked), PENDING, or the ending of a skipped one."""
    upstream = [by_key[key] for key in task.depends_on]
    if any(item.life not in FINAL for item in upstream):
        return None
    condition = task.spec.get("run_if") or "ALL_SUCCESS"
    results = [item.ending.result for item in upstream if item.ending]
    if _RUN_IF[condition](results):
        return "PENDING"
    spread = condition == "ALL_SUCCESS" and _FAILURES.intersection(results)
    return UPSTREAM_FAILED if spread else EXCLUDED


def run_life(run: Run) -> Life:
    """The life cycle of a run from its tasks'."""
    if run.ending is not None:
        return run.ending.life
    lives = {task.life for task in run.tasks}
    if run.held:
        return "QUEUED"
    if run.stop is not None or "TERMINATING" in lives:
        return "TERMINATING"
    if "RUNNING" in lives or lives & FINAL:
        return "RUNNING"
    return "QUEUED" if "QUEUED" in lives and "PENDING" not in lives else "PENDING"


def run_ending(run: Run) -> Ending:
    """The ending of a run whose tasks have all ended.

    A task whose code raised makes the run INTERNAL_ERROR with result FAILED, as measured on Databricks.
    """
    endings = [task.ending for task in run.tasks if task.ending]
    upstream = {key for task in run.tasks for key in task.depends_on}
    if all(_fine(task) for task in run.tasks):
        return SUCCESS
    if run.stop == "cancel" and CANCELED in endings:
        return CANCELED
    if run.stop == "timeout" or TIMED_OUT in endings:
        return TIMED_OUT
    lost = next((ending for ending in endings if ending.kind == LOST.kind), None)
    if lost is not None:
        return lost
    if all(_fine(task) for task in run.tasks if task.task_key not in upstream):
        return Ending(
            life="TERMINATED", result="SUCCESS_WITH_FAILURES", code="SUCCESS_WITH_FAILURES", kind="SUCCESS"
        )
    first = next(task for task in run.tasks if task.ending and task.ending.result == "FAILED")
    assert first.ending is not None
    return Ending(
        life="INTERNAL_ERROR",
        result="FAILED",
        code=first.ending.code,
        kind=first.ending.kind,
        message=f"Task {first.task_key} failed with message: {first.ending.message.rstrip('.')}.",
    )


def _fine(task: TaskRun) -> bool:
    """Ended without harm to its run: a task that its run_if excludes does none."""
    return task.ending is not None and task.ending.result in {"SUCCESS", "EXCLUDED"}

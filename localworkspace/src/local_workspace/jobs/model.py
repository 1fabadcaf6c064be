"""Runs and task runs as values, and the decisions about them. Times are Unix milliseconds; 0: not yet."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

# The life-cycle names of the Jobs API's `state` field; its newer `status` derives from them when shown.
Life = Literal[
    "BLOCKED", "QUEUED", "PENDING", "WAITING_FOR_RETRY", "RUNNING", "TERMINATING", "TERMINATED", "SKIPPED",
    "INTERNAL_ERROR",
]  # fmt: skip
FINAL: frozenset[str] = frozenset({"TERMINATED", "SKIPPED", "INTERNAL_ERROR"})
WAITING: frozenset[str] = frozenset({"BLOCKED", "QUEUED", "PENDING", "WAITING_FOR_RETRY"})

Stop = Literal["cancel", "timeout"]


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The end of a run or task run: the fields of `state` and `status.termination_details`."""

    life: Life
    result: str
    code: str
    kind: str
    message: str = ""
    error: str | None = None
    error_trace: str | None = None


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """One task of a run. `spec` is the task as submitted; `attempt` counts from 0 over retries and repairs.

    It does not begin before `not_before`.
    """

    run_id: int
    task_key: str
    spec: dict[str, Any]
    attempt: int = 0
    not_before: int = 0
    life: Life = "PENDING"
    start_time: int = 0
    running_time: int = 0
    end_time: int = 0
    pid: int | None = None
    pid_started: str | None = None
    ending: Ending | None = None

    @property
    def depends_on(self) -> tuple[str, ...]:
        """Keys of the tasks that must end first."""
        return tuple(item["task_key"] for item in self.spec.get("depends_on") or ())

    def ended(self, ending: Ending, now: int) -> TaskRun:
        """The task run after its end."""
        return replace(self, life=ending.life, ending=ending, end_time=now)


@dataclass(frozen=True, kw_only=True)
class Pass:
    """A run from its start, or from a repair (`repair_id`), to its end: an entry of its `repair_history`."""

    repair_id: int
    start_time: int
    end_time: int
    ending: Ending | None
    task_run_ids: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a job, or a one-time submitted run (`job_id` is then the run's own id, as on Databricks).

    `tasks` holds the latest task run of every task, `earlier` those that a retry or a repair took the place
    of. `history` holds the passes before the present one, which began with the repair `repair_id` at `began`.
    """

    run_id: int
    job_id: int
    name: str
    run_type: Literal["SUBMIT_RUN", "JOB_RUN"]
    settings: dict[str, Any]
    tasks: tuple[TaskRun, ...]
    start_time: int
    number_in_job: int = 1
    parameters: dict[str, str] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    stop: Stop | None = None
    held: bool = False
    end_time: int = 0
    ending: Ending | None = None
    earlier: tuple[TaskRun, ...] = ()
    history: tuple[Pass, ...] = ()
    repair_id: int = 0
    began: int = 0

    @property
    def passes(self) -> tuple[Pass, ...]:
        """All passes, the present one last."""
        old = {number for item in self.history for number in item.task_run_ids}
        present = Pass(
            repair_id=self.repair_id,
            start_time=self.began or self.start_time,
            end_time=self.end_time,
            ending=self.ending,
            task_run_ids=tuple(
                task.run_id for task in (*self.earlier, *self.tasks) if task.run_id not in old
            ),
        )
        return (*self.history, present)

    @property
    def active(self) -> bool:
        """Not ended yet."""
        return self.ending is None

    @property
    def timeout_seconds(self) -> int:
        """The whole run's time limit; 0 is none."""
        return int(self.settings.get("timeout_seconds") or 0)

    def ended(self, ending: Ending, now: int) -> Run:
        """The run after its end, which is also that of the tasks that have not ended yet."""
        tasks = tuple(task if task.life in FINAL else task.ended(ending, now) for task in self.tasks)
        return replace(self, tasks=tasks, ending=ending, end_time=now, held=False)

    def with_task(self, task: TaskRun, instead_of: int | None = None) -> Run:
        """The run with a task run in the place of its former version, or of the task run `instead_of`."""
        old = task.run_id if instead_of is None else instead_of
        return replace(self, tasks=tuple(task if item.run_id == old else item for item in self.tasks))

    def to_json(self) -> str:
        """For the database."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Run:
        """From the database."""
        fields: dict[str, Any] = json.loads(text)
        for name, kind in (("tasks", TaskRun), ("earlier", TaskRun), ("history", Pass)):
            items = fields.get(name) or ()
            fields[name] = tuple(kind(**{**item, "ending": _ending(item["ending"])}) for item in items)
        return Run(**{**fields, "ending": _ending(fields["ending"])})


def _ending(fields: dict[str, Any] | None) -> Ending | None:
    return Ending(**fields) if fields else None


WORKLOAD_FAILED = "Workload failed, see run output for details"

SUCCESS = Ending(life="TERMINATED", result="SUCCESS", code="SUCCESS", kind="SUCCESS")
CANCELED = Ending(
    life="TERMINATED", result="CANCELED", code="USER_CANCELED", kind="SUCCESS", message="Run cancelled."
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
ENGINE_LOST = replace(
    LOST, message="The engine has ended, and the run's session with it; so has the run, as with its driver."
)


def _skipped(result: str, message: str, *, kind: str, code: str = "SKIPPED") -> Ending:
    return Ending(life="SKIPPED", result=result, code=code, kind=kind, message=message)


UPSTREAM_FAILED = _skipped("UPSTREAM_FAILED", "An upstream task failed.", kind="CLIENT_ERROR")
EXCLUDED = _skipped("EXCLUDED", "The run_if condition of the task was not met.", kind="SUCCESS")
DISABLED = _skipped("DISABLED", "The task is disabled.", kind="SUCCESS", code="DISABLED")
TOO_MANY = _skipped(
    "MAXIMUM_CONCURRENT_RUNS_REACHED",
    "The job already has max_concurrent_runs active runs and does not queue.",
    kind="CLIENT_ERROR",
    code="MAX_CONCURRENT_RUNS_EXCEEDED",
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
    """The next state of a BLOCKED task: None (still blocked), PENDING, or the ending of a skipped one."""
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
    if all(_harmless(task) for task in run.tasks):
        return SUCCESS
    if run.stop == "cancel" and CANCELED in endings:
        return CANCELED
    if run.stop == "timeout" or TIMED_OUT in endings:
        return TIMED_OUT
    lost = next((ending for ending in endings if ending.kind == LOST.kind), None)
    if lost is not None:
        return lost
    if all(_harmless(task) for task in run.tasks if task.task_key not in upstream):
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


def _harmless(task: TaskRun) -> bool:
    """Return whether the task does not make its run fail. One that its run_if excludes does not."""
    return task.ending is not None and task.ending.result in {"SUCCESS", "EXCLUDED", "DISABLED"}


def wants_retry(task: TaskRun, ending: Ending) -> bool:
    """Return whether a task run that ended so is to be tried again. `max_retries` -1 is without limit."""
    most = int(task.spec.get("max_retries") or 0)
    if ending.result != "FAILED" and not (ending.result == "TIMEDOUT" and task.spec.get("retry_on_timeout")):
        return False
    return ending.kind != LOST.kind and (most < 0 or task.attempt < most)


def retried(run: Run, task: TaskRun, run_id: int, now: int) -> Run:
    """The run with a new task run, `run_id`, in the place of one that has ended."""
    wait = int(task.spec.get("min_retry_interval_millis") or 0)
    again = TaskRun(
        run_id=run_id,
        task_key=task.task_key,
        spec=task.spec,
        attempt=task.attempt + 1,
        not_before=now + wait if wait else 0,
        life="WAITING_FOR_RETRY" if wait else "PENDING",
    )
    return replace(run.with_task(again, task.run_id), earlier=(*run.earlier, task))


def failed_keys(run: Run) -> list[str]:
    """The tasks of a run that has ended that a repair of everything that failed runs again."""
    return [task.task_key for task in run.tasks if not _harmless(task)]


def repaired(run: Run, specs: Mapping[str, dict[str, Any]], ids: Sequence[int], now: int) -> Run:
    """The run, active again, with new task runs of `specs` by key. `ids`: the repair's, one per task."""
    new_ids = dict(zip(specs, ids[1:], strict=True))
    tasks = tuple(
        TaskRun(
            run_id=new_ids[task.task_key],
            task_key=task.task_key,
            spec=specs[task.task_key],
            attempt=task.attempt + 1,
            life="BLOCKED" if specs[task.task_key].get("depends_on") else "PENDING",
        )
        if task.task_key in specs
        else task
        for task in run.tasks
    )
    replaced = tuple(task for task in run.tasks if task.task_key in specs)
    return replace(
        run, tasks=tasks, earlier=(*run.earlier, *replaced), history=run.passes, repair_id=ids[0], began=now,
        ending=None, end_time=0, stop=None,
    )  # fmt: skip

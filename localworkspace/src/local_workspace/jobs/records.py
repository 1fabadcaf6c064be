"""A run and its task runs, as values. Times are Unix milliseconds; 0 means not yet."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

# The life-cycle names of the Jobs API's `state` field (legacy; `status` derives from them, see views.py).
Life = Literal[
    "BLOCKED", "QUEUED", "PENDING", "RUNNING", "TERMINATING", "TERMINATED", "SKIPPED", "INTERNAL_ERROR"
]
FINAL: frozenset[str] = frozenset({"TERMINATED", "SKIPPED", "INTERNAL_ERROR"})
WAITING: frozenset[str] = frozenset({"BLOCKED", "QUEUED", "PENDING"})

Stop = Literal["cancel", "timeout"]


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run or task run ended: the fields of `state` and `status.termination_details`."""

    life: Life
    result: str
    code: str
    kind: str
    message: str = ""
    error: str | None = None
    error_trace: str | None = None


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """One task of a run. `spec` is the task as submitted."""

    run_id: int
    task_key: str
    spec: dict[str, Any]
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


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a job, or a one-time submitted run (`job_id` is then the run's own id, as on Databricks)."""

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

    @property
    def active(self) -> bool:
        """Not ended yet."""
        return self.ending is None

    @property
    def timeout_seconds(self) -> int:
        """The whole run's time limit; 0 is none."""
        return int(self.settings.get("timeout_seconds") or 0)

    def to_json(self) -> str:
        """For the database."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Run:
        """From the database."""
        fields: dict[str, Any] = json.loads(text)
        tasks = tuple(TaskRun(**{**task, "ending": _ending(task["ending"])}) for task in fields.pop("tasks"))
        return Run(**{**fields, "tasks": tasks, "ending": _ending(fields["ending"])})


def _ending(fields: dict[str, Any] | None) -> Ending | None:
    return Ending(**fields) if fields else None

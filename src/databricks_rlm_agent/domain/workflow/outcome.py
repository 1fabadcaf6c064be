"""What became of a workflow: of each step, and of the whole. Pure values, and how they are summed up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from databricks_rlm_agent.domain.workflow.convergence import LoopEnd, Measure
from databricks_rlm_agent.domain.workflow.model import Plan, Step
from databricks_rlm_agent.domain.workflow.sqlerrors import Problem


class StepStatus(StrEnum):
    """What became of a step. KEPT: an earlier run did it, and it still counts."""

    DONE = "done"
    KEPT = "kept"
    FAILED = "failed"
    SKIPPED = "skipped"  # a step that it needs has failed
    INTERRUPTED = "interrupted"
    NOT_RUN = "not run"


class RunStatus(StrEnum):
    """How the workflow ended."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """What became of one step. ``rows`` affected where the warehouse says; ``seconds`` of this run only.

    ``accepted``: it failed, and what it left is good enough for the steps that need it.
    """

    id: str
    status: StepStatus
    seconds: float = 0.0
    statements: int = 0
    rows: int | None = None
    problem: Problem | None = None
    warnings: tuple[Problem, ...] = ()
    iterations: tuple[Measure, ...] = ()
    end: LoopEnd | None = None
    accepted: bool = False

    @property
    def good(self) -> bool:
        """Whether steps that need it may run."""
        return self.status in {StepStatus.DONE, StepStatus.KEPT} or self.accepted

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class TableCheck:
    """What was found of a table that the workflow makes. ``unique`` None: no key was declared for it."""

    table: str
    exists: bool
    rows: int | None = None
    key: tuple[str, ...] = ()
    unique: bool | None = None
    note: str | None = None

    @property
    def good(self) -> bool:
        """Whether it is as it should be."""
        return self.exists and self.unique is not False and self.note is None


@dataclass(frozen=True, kw_only=True)
class Report:
    """The end of a workflow. ``path`` is the critical path: the chain of steps that took ``path_seconds``."""

    workflow_run_id: str
    workflow: str
    status: RunStatus
    started_at: datetime
    finished_at: datetime
    steps: tuple[StepOutcome, ...]
    path: tuple[str, ...] = ()
    path_seconds: float = 0.0
    tables: tuple[TableCheck, ...] = ()
    notices: tuple[str, ...] = ()
    next: tuple[str, ...] = field(default=())

    @property
    def seconds(self) -> float:
        """Wall time."""
        return (self.finished_at - self.started_at).total_seconds()

    @property
    def exit_code(self) -> int:
        """As the command line documents it."""
        return {RunStatus.SUCCEEDED: 0, RunStatus.INTERRUPTED: 130}.get(self.status, 1)

    def count(self, status: StepStatus) -> int:
        """How many steps ended so."""
        return sum(step.status is status for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            **asdict(self),
            "started_at": self.started_at.isoformat(),
            "finished_at": self.finished_at.isoformat(),
            "seconds": round(self.seconds, 3),
            "counts": {status.value: self.count(status) for status in StepStatus if self.count(status)},
        }


def critical_path(plan: Plan, seconds: Mapping[str, float]) -> tuple[tuple[str, ...], float]:
    """The chain of steps that no parallelism makes shorter, and its length.

    A step comes after all steps of earlier stages, and after those of its own that it needs.
    """
    ends: dict[str, tuple[float, tuple[str, ...]]] = {}
    before: tuple[float, tuple[str, ...]] = (0.0, ())
    for _stage, steps in plan.stages:
        for step in steps:
            waits = [ends[need.step] for need in step.needs if need.step in ends]
            length, path = max([before, *waits], key=lambda found: found[0])
            took = seconds.get(step.id, 0.0)
            ends[step.id] = (length + took, (*path, step.id) if took else path)
        before = max([before, *(ends[step.id] for step in steps)], key=lambda found: found[0])
    return before[1], before[0]


def status_of(
    steps: Sequence[StepOutcome], tables: Sequence[TableCheck], *, interrupted: bool = False
) -> RunStatus:
    """How a workflow with such steps and tables has ended."""
    whole = all(step.status in {StepStatus.DONE, StepStatus.KEPT} for step in steps)
    if interrupted and not whole:
        return RunStatus.INTERRUPTED
    return RunStatus.SUCCEEDED if whole and all(table.good for table in tables) else RunStatus.FAILED


def advice(report: Report) -> tuple[str, ...]:
    """What to do next, a sentence each."""
    lines = []
    for step in report.steps:
        if step.problem is not None:
            where = f" ({step.problem.where})" if step.problem.where else ""
            lines.append(f"{step.id}{where}: {step.problem.hint}")
    for table in report.tables:
        if not table.exists:
            lines.append(
                f"{table.table} is not there although its file was run: look who drops or renames it."
            )
        elif table.unique is False:
            lines.append(
                f"{table.table} has rows with the same {', '.join(table.key)}: look at what makes it."
            )
    left = sum(step.status not in {StepStatus.DONE, StepStatus.KEPT} for step in report.steps)
    if left:
        lines.append(f"{left} of {len(report.steps)} steps are left: run the same command with --resume.")
    return tuple(lines)


def blocked(step: Step, outcomes: Mapping[str, StepOutcome]) -> str | None:
    """The step that this one needs and that is not good; None if there is none."""
    return next(
        (need.step for need in step.needs if need.step in outcomes and not outcomes[need.step].good), None
    )

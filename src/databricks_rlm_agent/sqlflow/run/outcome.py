"""The outcomes of iterations, loops, steps, checks and runs, and advice for what to do next. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from databricks_rlm_agent.sqlflow.model import Plan, Step, percent
from databricks_rlm_agent.sqltext.errors import Problem


class LoopEnd(StrEnum):
    """The end of a loop. Only CONVERGED is good."""

    CONVERGED = "converged"
    NOT_CONVERGED = "not converged"
    OSCILLATING = "oscillating"
    MEASURE_FAILED = "measure failed"
    FAILED = "iteration failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """The measure after iteration ``n``.

    ``changed`` is the number of rows that differ from the iteration before; None after the first, which has
    none before it. ``rows`` and ``fingerprint`` are those of the iteration's table, whatever the order of its
    rows; None where no table is known (a loop with a convergence query only).
    """

    n: int
    changed: int | None = None
    rows: int | None = None
    fingerprint: str | None = None
    seconds: float = 0.0
    file: str = ""


class StepStatus(StrEnum):
    """The state of a step. KEPT: an earlier run did it, and it still counts."""

    DONE = "done"
    KEPT = "kept"
    FAILED = "failed"
    SKIPPED = "skipped"  # a step that it needs has failed
    INTERRUPTED = "interrupted"
    NOT_RUN = "not run"

    @property
    def complete(self) -> bool:
        """Return whether nothing of the step is left to do."""
        return self in {StepStatus.DONE, StepStatus.KEPT}


class RunStatus(StrEnum):
    """The status of a run."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """The outcome of one step. ``rows``: affected rows, where the warehouse says; ``seconds``: of this run.

    ``started_at`` is when its last try began, None if it did not run now. The first ``iterations_before`` of
    its iterations belong to an earlier run or try. ``accepted``: it failed, but its tables are good enough
    for the steps that need it.
    """

    id: str
    status: StepStatus
    stage: int | None = None
    started_at: datetime | None = None
    seconds: float = 0.0
    statements: int = 0
    rows: int | None = None
    problem: Problem | None = None
    warnings: tuple[Problem, ...] = ()
    iterations: tuple[Measure, ...] = ()
    iterations_before: int = 0
    end: LoopEnd | None = None
    accepted: bool = False

    @property
    def good(self) -> bool:
        """Return whether steps that need it may run."""
        return self.status.complete or self.accepted

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome for JSON."""
        return {**asdict(self), "started_at": self.started_at.isoformat() if self.started_at else None}


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """The keys of ``table`` that were found. ``on``: columns of both tables, in pairs, that make a key.

    Distinct keys without a NULL are counted. ``wanted`` is the least share, 0 to 1.
    """

    table: str
    on: tuple[tuple[str, str], ...]
    keys: int
    found: int
    wanted: float = 1.0

    @property
    def share(self) -> float | None:
        """The share of keys that were found, 0 to 1; None where there are none."""
        return self.found / self.keys if self.keys else None

    @property
    def good(self) -> bool:
        """Return whether enough were found."""
        return self.share is None or self.share >= self.wanted

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**asdict(self), "on": dict(self.on), "share": self.share, "good": self.good}


@dataclass(frozen=True, kw_only=True)
class TableCheck:
    """The result for a table or view that the workflow makes, or that ``workflow.yml`` names.

    ``rows`` None: not counted, as views are not unless something is declared of them. ``key`` empty: none was
    declared; ``duplicates`` are the rows beyond the first of each key. ``errors`` are checks that could not
    be made: they count as faults.
    """

    table: str
    exists: bool
    view: bool = False
    step: str | None = None
    rows: int | None = None
    min_rows: int | None = None
    key: tuple[str, ...] = ()
    duplicates: int | None = None
    coverage: tuple[Coverage, ...] = ()
    errors: tuple[str, ...] = ()

    @property
    def unique(self) -> bool | None:
        """Return whether no two rows have the same key; None if that was not declared or is not known."""
        return None if self.duplicates is None else self.duplicates == 0

    @property
    def good(self) -> bool:
        """Return whether all checks hold."""
        return not self.faults

    @property
    def faults(self) -> tuple[str, ...]:
        """The checks that do not hold, in words."""
        found = [] if self.exists else ["it is not there"]
        if self.rows is not None and self.min_rows is not None and self.rows < self.min_rows:
            found.append(f"it has {self.rows:,} rows, and {self.min_rows:,} are the least")
        if self.duplicates:
            found.append(f"{self.duplicates:,} rows have the {', '.join(self.key)} of another row")
        found += [
            f"{each.keys - each.found:,} of {each.keys:,} keys of {each.table} are missing "
            f"({percent(each.share)} are there, {percent(each.wanted)} are the least)"
            for each in self.coverage
            if each.share is not None and not each.good
        ]
        return (*found, *self.errors)

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            **asdict(self),
            "coverage": [each.to_dict() for each in self.coverage],
            "unique": self.unique,
            "faults": list(self.faults),
            "good": self.good,
        }


@dataclass(frozen=True, kw_only=True)
class Report:
    """The report of a run. ``path`` is the critical path: the chain of steps that took ``path_seconds``.

    ``place``: the catalog and schema of the record. ``optimized``: whether tables were optimized.
    """

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
    next: tuple[str, ...] = ()
    place: str | None = None
    optimized: bool = False

    @property
    def seconds(self) -> float:
        """The wall time."""
        return (self.finished_at - self.started_at).total_seconds()

    @property
    def step_seconds(self) -> float:
        """The time of all steps together: what a run with one step at a time would take."""
        return sum(step.seconds for step in self.steps)

    @property
    def exit_code(self) -> int:
        """The exit code that the command line documents."""
        return {RunStatus.SUCCEEDED: 0, RunStatus.INTERRUPTED: 130}.get(self.status, 1)

    @property
    def complete_steps(self) -> int:
        """The number of steps that are done or kept."""
        return sum(step.status.complete for step in self.steps)

    def count(self, status: StepStatus) -> int:
        """Return the number of steps with this status."""
        return sum(step.status is status for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {
            **vars(self),
            "exit_code": self.exit_code,
            "started_at": self.started_at.isoformat(),
            "finished_at": self.finished_at.isoformat(),
            "seconds": round(self.seconds, 3),
            "step_seconds": round(self.step_seconds, 3),
            "counts": {status.value: self.count(status) for status in StepStatus if self.count(status)},
            "steps": [step.to_dict() for step in self.steps],
            "tables": [table.to_dict() for table in self.tables],
        }


def critical_path(plan: Plan, seconds: Mapping[str, float]) -> tuple[tuple[str, ...], float]:
    """Return the chain of steps that no parallelism makes shorter, and its length in seconds.

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


def run_status(
    steps: Sequence[StepOutcome], tables: Sequence[TableCheck], *, interrupted: bool = False
) -> RunStatus:
    """Return the status of a run; INTERRUPTED only if its tables could not be checked any more."""
    good = all(step.status.complete for step in steps) and all(table.good for table in tables)
    if interrupted and not (good and tables):
        return RunStatus.INTERRUPTED
    return RunStatus.SUCCEEDED if good else RunStatus.FAILED


def blocked_by(step: Step, outcomes: Mapping[str, StepOutcome]) -> str | None:
    """Return the failed step that this one needs; None if there is none."""
    return next(
        (need.step for need in step.needs if need.step in outcomes and not outcomes[need.step].good), None
    )


def advice(report: Report) -> tuple[str, ...]:
    """Return what to do next, one sentence each."""
    return (*_fixes(report), *_remaining(report), *_suggestions(report))


def _fixes(report: Report) -> Iterator[str]:
    for step in report.steps:
        if step.problem is not None:
            where = f" ({step.problem.where})" if step.problem.where else ""
            yield f"{step.id}{where}: {step.problem.hint}"
    for table in report.tables:
        if not table.exists and table.step is None:
            yield f"{table.table} is not there, and no file makes it: correct workflow.yml, or make it."
        elif not table.exists:
            yield f"{table.table} is not there although its file was run: see which file drops or renames it."
        elif table.errors:
            yield f"{table.table} could not be checked: see the error, and what workflow.yml declares of it."
        elif not table.good:
            maker = f" ({table.step})" if table.step else ""
            yield f"{table.table}: {'; '.join(table.faults)}: look at what makes it{maker}."


def _remaining(report: Report) -> Iterator[str]:
    if left := len(report.steps) - report.complete_steps:
        yield f"{left} of {len(report.steps)} steps are left: run the same command with --resume."
    warnings = sum(len(step.warnings) for step in report.steps)
    if warnings:
        subject = "A warning was" if warnings == 1 else f"{warnings} warnings were"
        yield f"{subject} passed over: see the steps marked with ! above."


def _suggestions(report: Report) -> Iterator[str]:
    if report.status is not RunStatus.SUCCEEDED:
        return
    if report.tables and not report.optimized:
        yield "The tables are as they were written: --optimize-tables compacts what a step has made."
    if report.tables and not any(table.key or table.coverage or table.min_rows for table in report.tables):
        yield "No key is declared for any table: `tables:` in workflow.yml has keys and coverage checked."
    if report.place:
        yield (
            f"The record is in {report.place}.sql_workflow_runs and {report.place}.sql_workflow_steps, "
            f"workflow_run_id '{report.workflow_run_id}'."
        )

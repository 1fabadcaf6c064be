"""The record of a run, and its writing in the background while the next steps run, several rows in a commit.

A commit on a warehouse takes a second or more, and every step on the critical path would wait for its own.
Rows become durable in the order in which they were appended. Rows that must be durable before anything else
happens (checkpoints, failures, steps that ``deferrable_rows`` does not name) are waited for, with all rows
before them.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.sqlflow.model import Loop, Plan, Step
from databricks_rlm_agent.sqlflow.plan.iterations import iteration
from databricks_rlm_agent.sqlflow.run.checkpoints import required_checkpoints
from databricks_rlm_agent.sqltext.names import Name, common

RUNNING = "running"
# Statuses of steps.
DONE = "done"
BEGUN = "begun"  # a checkpoint in a file, which is in ``detail``
VOID = "void"  # all earlier rows of the step, or of the iteration and later ones, count no more
STALE = "stale"  # the step's row counts no more, but those of its iterations do


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """A step (``iteration`` 0), or an iteration of one. ``detail`` is a measure or a checkpoint."""

    step: str
    iteration: int = 0
    status: str
    file: str
    sha256: str
    started_at: datetime
    finished_at: datetime
    rows_affected: int | None = None
    changed: int | None = None
    detail: Mapping[str, Any] | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class RecordedRun:
    """A run on record, with its last status."""

    workflow_run_id: str
    started_at: datetime
    status: str


class Record(Protocol):
    """Records runs and their steps. Raises TakenOverError when another process owns the run."""

    def find_run(self, workflow: str, workflow_run_id: str | None = None) -> RecordedRun | None:
        """Return the run with that id, or the newest run of a workflow."""

    def begin(self, workflow: str, workflow_run_id: str, started_at: datetime) -> Sequence[StepRow]:
        """Begin a run, or take it over; return the rows of its steps so far."""

    def check_owner(self) -> None:
        """Raise TakenOverError if another process owns the run."""

    def append(self, rows: Sequence[StepRow]) -> None:
        """Append rows; they are durable when it returns."""

    def end(self, status: str, report: Mapping[str, Any]) -> None:
        """End the run with this status."""


@dataclass(frozen=True, kw_only=True)
class DeferrableRows:
    """Rows that may be written in the background: those of ``steps``, and of iterations of ``loops``.

    Of a loop, one iteration at a time may be deferred.
    """

    steps: frozenset[str] = frozenset()
    loops: frozenset[str] = frozenset()


def deferrable_rows(plan: Plan) -> DeferrableRows:
    """Return the rows that may be written in the background: running their steps again does no harm. Pure.

    What a step reads must not change until then: of a loop also its tables, from the last of which the alias
    is made.
    """
    before = _steps_before(plan)
    return DeferrableRows(
        steps=frozenset(
            step.id
            for step in plan.steps
            if _is_repeatable(step)
            and not _may_write(
                [each for each in plan.steps if each.id not in before[step.id]],
                [*step.reads, *(step.writes if step.loop else ())],
            )
        ),
        loops=frozenset(step.id for step in plan.steps if step.loop and _iterations_repeatable(step.loop)),
    )


def _steps_before(plan: Plan) -> dict[str, set[str]]:
    """Return for every step those that have ended when it begins, and itself."""
    found: dict[str, set[str]] = {}
    earlier: set[str] = set()
    for _stage, steps in plan.stages:
        for step in steps:
            needed = (found.get(need.step, set()) for need in step.needs)
            found[step.id] = earlier.union({step.id}, *needed)
        earlier |= {step.id for step in steps}
    return found


def _is_repeatable(step: Step) -> bool:
    """Return whether a step may be run again from its start; of a loop, what comes after its iterations."""
    return step.problem is None and (step.file is None or not required_checkpoints(step.file))


def _may_write(steps: Iterable[Step], names: Iterable[Name]) -> bool:
    written = [name for step in steps for name in step.writes]
    return any(step.problem for step in steps) or common(written, names) is not None


def _iterations_repeatable(loop: Loop) -> bool:
    """Return whether each iteration may be run again and measured after the next one has run."""
    try:
        iterations = [iteration(loop, loop.first + n) for n in range(len(loop.files) + 2)]
    except UsageError:  # there is no file beyond those, and none can be made
        iterations = [iteration(loop, loop.first + n) for n in range(len(loop.files))]
    return all(
        not required_checkpoints(each.file) and each.file.problem is None for each in iterations
    ) and all(
        common(following.file.writes, [*each.file.reads, *filter(None, (each.table, each.before))]) is None
        for each, following in itertools.pairwise(iterations)
    )


class WriteBehindRecord:
    """A Record over another one. Safe to use from several threads.

    An error while writing is raised by the next call; the rows are written again with the next rows.
    """

    def __init__(self, record: Record, deferrable: DeferrableRows) -> None:
        self._record, self._deferrable = record, deferrable
        self._changed = threading.Condition()
        self._pending: list[StepRow] = []  # not durable yet, in their order
        self._appended = self._durable = 0  # how many rows
        self._writing = False
        self._error: BaseException | None = None

    def find_run(self, workflow: str, workflow_run_id: str | None = None) -> RecordedRun | None:
        """Return the run with that id, or the newest run of a workflow."""
        return self._record.find_run(workflow, workflow_run_id)

    def begin(self, workflow: str, workflow_run_id: str, started_at: datetime) -> Sequence[StepRow]:
        """Begin a run, or take it over; return the rows of its steps so far."""
        return self._record.begin(workflow, workflow_run_id, started_at)

    def check_owner(self) -> None:
        """Raise TakenOverError if another process owns the run, and the error of an earlier write."""
        if (error := self._error) is not None:
            raise error
        self._record.check_owner()

    def append(self, rows: Sequence[StepRow]) -> None:
        """Append rows. When it returns, those that may not be deferred are durable."""
        with self._changed:
            if all(row.iteration and self._is_deferrable(row) for row in rows):
                steps = {row.step for row in rows}
                self._wait(lambda: all(pending.step not in steps for pending in self._pending))
            defer = self._error is None and all(map(self._is_deferrable, rows))
            self._pending += rows
            self._appended += len(rows)
            self._start()
            if not defer:
                self._wait_until_durable()

    def end(self, status: str, report: Mapping[str, Any]) -> None:
        """End the run with this status; all rows are durable then."""
        with self._changed:
            self._start()
            self._wait_until_durable()
        self._record.end(status, report)

    def _is_deferrable(self, row: StepRow) -> bool:
        steps = self._deferrable.loops if row.iteration else self._deferrable.steps
        return row.status == DONE and row.step in steps

    def _wait_until_durable(self) -> None:
        last = self._appended
        self._wait(lambda: self._durable >= last)
        if self._durable < last and self._error is not None:
            raise self._error

    def _wait(self, reached: Callable[[], bool]) -> None:
        """Wait until ``reached``, or until nothing is being written. Needs the lock."""
        self._changed.wait_for(lambda: reached() or not self._writing)

    def _start(self) -> None:
        """Write the pending rows in the background. Needs the lock."""
        if self._pending and not self._writing:
            self._writing, self._error = True, None
            # A daemon: a process that is ended by a second Ctrl-C waits for no commit.
            threading.Thread(target=self._write, name="sql-record", daemon=True).start()

    def _write(self) -> None:
        error: BaseException | None = None
        while True:
            with self._changed:
                rows = list(self._pending)
                if error is not None or not rows:
                    self._writing, self._error = False, error
                    self._changed.notify_all()
                    return
            try:
                self._record.append(rows)
            except BaseException as raised:  # noqa: BLE001 - raised by the next call
                error = raised
                continue
            with self._changed:
                del self._pending[: len(rows)]
                self._durable += len(rows)
                self._changed.notify_all()

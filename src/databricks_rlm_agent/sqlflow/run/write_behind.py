"""A record that is written while the next steps run, several rows in one commit.

A commit on a warehouse takes a second or more, and every step on the critical path would wait for its own.
Rows become durable in the order in which they were given. What must be durable before anything else happens
(notes, failures, steps that ``late`` does not name) is waited for, with all that was given before it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.sqlflow.model import Iteration, Loop, Plan, Step
from databricks_rlm_agent.sqlflow.plan.iterations import iteration
from databricks_rlm_agent.sqlflow.run.checkpoints import checkpoints
from databricks_rlm_agent.sqlflow.run.record import DONE, Earlier, Record, StepRow
from databricks_rlm_agent.sqltext.names import Name, common


@dataclass(frozen=True, kw_only=True)
class Late:
    """``steps`` of which it holds, and ``loops`` each of whose iterations may be on record one later."""

    steps: frozenset[str] = frozenset()
    loops: frozenset[str] = frozenset()


def late(plan: Plan) -> Late:
    """What may be put on record late."""
    before = _before(plan)
    return Late(
        steps=frozenset(
            step.id
            for step in plan.steps
            if _again(step)
            and not _changes([each for each in plan.steps if each.id not in before[step.id]], _read(step))
        ),
        loops=frozenset(step.id for step in plan.steps if step.loop and _one_after_another(step.loop)),
    )


def _before(plan: Plan) -> dict[str, set[str]]:
    """Of every step those that are over when it begins, and itself."""
    found: dict[str, set[str]] = {}
    earlier: set[str] = set()
    for _stage, steps in plan.stages:
        for step in steps:
            needed = (found.get(need.step, set()) for need in step.needs)
            found[step.id] = earlier.union({step.id}, *needed)
        earlier |= {step.id for step in steps}
    return found


def _again(step: Step) -> bool:
    """Whether it may be run again from its start; of a loop that is its end, behind its iterations."""
    return step.problem is None and (step.file is None or not checkpoints(step.file))


def _read(step: Step) -> tuple[Name, ...]:
    """What must not change: of a loop also its tables, the last of which gets the alias."""
    return (*step.reads, *step.writes) if step.loop else step.reads


def _changes(others: Iterable[Step], names: Iterable[Name]) -> bool:
    written = [name for step in others for name in step.writes]
    return any(step.problem for step in others) or common(written, names) is not None


def _one_after_another(loop: Loop) -> bool:
    try:
        some = [iteration(loop, loop.first + n) for n in range(len(loop.files) + 2)]
    except UsageError:  # there is no file beyond those, and none can be made
        some = [iteration(loop, loop.first + n) for n in range(len(loop.files))]
    return all(not checkpoints(each.file) and each.file.problem is None for each in some) and all(
        common(following.file.writes, _measured(each)) is None for each, following in itertools.pairwise(some)
    )


def _measured(each: Iteration) -> list[Name]:
    """What running and measuring an iteration reads, but for what it makes itself."""
    tables = [name for name in (each.table, each.before) if name is not None]
    return [*each.file.reads, *tables]


class WriteBehindRecord:
    """A Record over another one. Safe to use from several threads.

    That a row could not be written is told to who comes next; it is tried again with the next rows.
    """

    def __init__(self, record: Record, late: Late) -> None:
        self._record, self._late = record, late
        self._changed = threading.Condition()
        self._rows: list[StepRow] = []  # not durable yet, in their order
        self._given = self._durable = 0  # how many rows
        self._writing = False
        self._error: BaseException | None = None

    def newest(self, workflow: str) -> Earlier | None:
        """The newest run of a workflow."""
        return self._record.newest(workflow)

    def named(self, workflow_run_id: str) -> Earlier | None:
        """The run of that id."""
        return self._record.named(workflow_run_id)

    def begin(self, workflow: str, workflow_run_id: str, started_at: datetime) -> Sequence[StepRow]:
        """A run begins, or is taken over; the rows of its steps so far."""
        return self._record.begin(workflow, workflow_run_id, started_at)

    def check(self, *, now: bool = False) -> None:
        """Raise TakenOverError if the run is another's, and what stands against the rows given before."""
        error = self._error
        if error is not None:
            raise error
        self._record.check(now=now)

    def steps(self, rows: Sequence[StepRow]) -> None:
        """Append rows. When it returns those are durable that may not be late."""
        with self._changed:
            if all(row.iteration and self._may_be_late(row) for row in rows):
                self._wait(lambda: all(each.step != row.step for each in self._rows for row in rows))
            may_be_late = self._error is None and all(map(self._may_be_late, rows))
            self._rows += rows
            self._given += len(rows)
            self._start()
            if not may_be_late:
                self._until_durable()

    def end(self, status: str, report: Mapping[str, Any]) -> None:
        """The run ends so; all rows are durable then."""
        with self._changed:
            self._start()
            self._until_durable()
        self._record.end(status, report)

    def _may_be_late(self, row: StepRow) -> bool:
        return row.status == DONE and row.step in (self._late.loops if row.iteration else self._late.steps)

    def _until_durable(self) -> None:
        last = self._given
        self._wait(lambda: self._durable >= last)
        if self._durable < last and self._error is not None:
            raise self._error

    def _wait(self, reached: Callable[[], bool]) -> None:
        """Until something is so, or nothing is written any more. The lock is held."""
        self._changed.wait_for(lambda: reached() or not self._writing)

    def _start(self) -> None:
        """Write what is there in the background. The lock is held."""
        if self._rows and not self._writing:
            self._writing, self._error = True, None
            # A daemon: who is killed by a second Ctrl-C waits for no commit.
            threading.Thread(target=self._write, name="sql-record", daemon=True).start()

    def _write(self) -> None:
        error: BaseException | None = None
        while True:
            with self._changed:
                rows = list(self._rows)
                if error is not None or not rows:
                    self._writing, self._error = False, error
                    self._changed.notify_all()
                    return
            try:
                self._record.steps(rows)
            except BaseException as raised:  # noqa: BLE001 - told to who comes next
                error = raised
                continue
            with self._changed:
                del self._rows[: len(rows)]
                self._durable += len(rows)
                self._changed.notify_all()

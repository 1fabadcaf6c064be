"""A record that is written while the next steps run, several rows in one commit.

A commit on a warehouse takes a second or more, and every step on the critical path would wait for its own.
Rows become durable in the order in which they were given. What must be durable before anything else happens
(notes, failures, steps that ``late`` does not name) is waited for, with all that was given before it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from databricks_rlm_agent.domain.workflow.running.late import Late
from databricks_rlm_agent.sqlflow.record import DONE, Earlier, Record, StepRow


class WrittenBehind:
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

"""Makes statements that are not safe to repeat take effect once, whatever dies in between.

Before such a statement a checkpoint records the version of the table that it writes (a row ``begun`` in
``sql_workflow_steps``); a later process compares. Files that make their tables anew need no checkpoints. What
follows from where a process has died, and what is not covered: docs/sql-resume.md.

*Fence*: a table property set before a statement is run again. A metadata change makes writers that began
before it fail. A statement that changes no row leaves no commit, and may be run again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from databricks_rlm_agent.errors import Forbidden, NotFound, Rejected
from databricks_rlm_agent.sqlflow.model import SqlFile
from databricks_rlm_agent.sqlflow.run.checkpoints import (
    InDoubt,
    StartPoint,
    find_start,
    hash_texts,
    new_checkpoint,
    required_checkpoints,
)
from databricks_rlm_agent.sqlflow.run.record import BEGUN, Record, StepRow
from databricks_rlm_agent.sqlflow.run.versions import (
    FENCE,
    HISTORY_LIMIT,
    NO_TABLE,
    Checkpoint,
    StatementOutcome,
    TableState,
    commit_of,
)
from databricks_rlm_agent.sqltext.errors import Cause, Problem, Severity, head
from databricks_rlm_agent.sqltext.names import Name, quoted
from databricks_rlm_agent.sqltext.statement import StatementKind
from databricks_rlm_agent.values import Clock, NewId, Row

Key = tuple[str, int]
"""A step, and the ordinal of an iteration of it; 0 for a step that is no loop."""
# Statements that may have been carried out in part when they fail, unless they were never begun.
_NOT_ATOMIC = {StatementKind.BLOCK}


class CheckpointLog:
    """The checkpoints of a run, in memory and on record. Safe to use from several threads."""

    def __init__(self, record: Record, clock: Clock) -> None:
        self._record, self._clock = record, clock
        self._checkpoints: dict[Key, list[Checkpoint]] = {}
        self._lock = threading.Lock()

    def load(self, recorded: Mapping[Key, Sequence[Checkpoint]]) -> None:
        """Begin with the checkpoints of an earlier process."""
        self._checkpoints = {key: list(each) for key, each in recorded.items()}

    def of(self, key: Key) -> tuple[Checkpoint, ...]:
        """Return the checkpoints of a step or iteration, in their order."""
        with self._lock:
            return tuple(self._checkpoints.get(key, ()))

    def write(self, key: Key, file: SqlFile, checkpoint: Checkpoint) -> None:
        """Record a checkpoint; raise RlmError, TakenOverError."""
        now = self._clock()
        row = StepRow(
            step=key[0],
            iteration=key[1],
            status=BEGUN,
            file=file.name,
            sha256=file.sha256,
            started_at=now,
            finished_at=now,
            detail=checkpoint.to_dict(),
        )
        self._record.append([row])
        with self._lock:
            self._checkpoints[key] = with_checkpoint(self._checkpoints.get(key, ()), checkpoint)


def with_checkpoint(recorded: Sequence[Checkpoint], checkpoint: Checkpoint) -> list[Checkpoint]:
    """Return the checkpoints of a step with one more, which replaces one before the same statement."""
    kept = [] if checkpoint.first else [each for each in recorded if each.index < checkpoint.index]
    return [*kept, checkpoint]


class ExactlyOnce:
    """Checkpoints of one try of a file. ``ask`` runs a query of ours in the file's session."""

    def __init__(
        self,
        log: CheckpointLog,
        file: SqlFile,
        key: Key,
        *,
        ask: Callable[[str], Sequence[Row]],
        new_id: NewId,
    ) -> None:
        self._log, self._file, self._key = log, file, key
        self._ask, self._new_id = ask, new_id
        self._required = required_checkpoints(file)
        self._first = False
        self._maybe_sent: int | None = None  # a statement that an earlier process may have sent

    def start_point(self, execute: Callable[[str], Any]) -> StartPoint | InDoubt:
        """Return where the file begins or goes on; set the fence if a statement may still be running."""
        found = self._find_start()
        if isinstance(found, StartPoint) and found.fence is not None and found.fence.table is not None:
            token = self._new_id("f")
            execute(f"ALTER TABLE {quoted(found.fence.table)} SET TBLPROPERTIES ('{FENCE}' = '{token}')")
            found = self._find_start()
        self._first = isinstance(found, StartPoint) and found.at == 0
        last = self._last
        self._maybe_sent = last.index if last and last.outcome is StatementOutcome.BEGUN else None
        if isinstance(found, InDoubt):
            self._write_outcome(found.checkpoint, StatementOutcome.DOUBT)
        return found

    def is_unsafe(self, index: int) -> bool:
        """Return whether a statement must not be repeated by itself."""
        return self._required.get(index) is False

    def write_checkpoint(self, index: int, rows: Mapping[str, int]) -> None:
        """Write the checkpoint before a statement, if it needs one and has none yet."""
        if index not in self._required:
            return
        safe = self._required[index]
        checkpoint = new_checkpoint(self._file, index, safe=safe, rows=rows, first=self._first)
        if checkpoint.table is not None:
            state = self.read_state(checkpoint.table, newest=1)
            newest = state.commits[0] if state.commits else None
            version, at = (newest.version, newest.at) if newest else (None, None)
            checkpoint = replace(checkpoint, existed=state.exists, version=version, at=at)
        last = self._last
        if last is None or replace(last, first=False) != replace(checkpoint, first=False):
            self._log.write(self._key, self._file, checkpoint)
        self._first = False

    def mark_done(self, index: int) -> None:
        """Record that a statement has taken effect, where its table's history would not show it."""
        last = self._last
        if last and last.index == index and last.table is None and self.is_unsafe(index):
            self._write_outcome(last, StatementOutcome.TAKEN)

    def was_applied_meanwhile(self, index: int, problem: Problem) -> bool:
        """Return whether it fails because an earlier process's same statement has just taken effect."""
        last = self._last
        if last is None or not index == last.index == self._maybe_sent:
            return False
        created = last.kind is StatementKind.CREATE and not last.existed and problem.kind is Cause.EXISTS
        return created or (last.new is not None and problem.kind in {Cause.EXISTS, Cause.MISSING})

    def mark_failed(self, index: int, problem: Problem) -> None:
        """Record that a statement has failed, if it is known then that it changed nothing."""
        last = self._last
        if last is None or last.index != index or problem.outcome_unknown:
            return
        partial = last.kind in _NOT_ATOMIC and problem.kind is not Cause.SYNTAX
        self._write_outcome(last, StatementOutcome.DOUBT if partial else StatementOutcome.UNDONE)

    def read_state(self, name: Name, *, newest: int = HISTORY_LIMIT) -> TableState:
        """Return the state of a table now, with so many of its newest commits."""
        try:
            rows = self._ask(f"DESCRIBE HISTORY {quoted(name)} LIMIT {newest}")
            return TableState(exists=True, commits=tuple(commit_of(row) for row in rows))
        except NotFound:
            return NO_TABLE
        except (Rejected, Forbidden):  # a view, a table without a history, or one that may only be written
            return self._without_history(name)

    @property
    def _last(self) -> Checkpoint | None:
        return next(reversed(self._log.of(self._key)), None)

    def _write_outcome(self, checkpoint: Checkpoint, outcome: StatementOutcome) -> None:
        in_doubt = outcome is StatementOutcome.DOUBT
        reported = hash_texts(each.text for each in self._file.statements) if in_doubt else None
        updated = replace(checkpoint, outcome=outcome, reported=reported, first=False)
        self._log.write(self._key, self._file, updated)

    def _without_history(self, name: Name) -> TableState:
        try:
            self._ask(f"DESCRIBE TABLE {quoted(name)}")
        except NotFound:
            return NO_TABLE
        except Forbidden:
            pass
        return TableState(exists=True)

    def _find_start(self) -> StartPoint | InDoubt:
        return find_start(self._file, self._log.of(self._key), self.read_state)


def in_doubt_problem(doubt: InDoubt, file: SqlFile) -> Problem:
    """Return the problem that a step in doubt ends with."""
    line = doubt.checkpoint.line
    statement = next((head(each.text) for each in file.statements if each.line == line), None)
    return Problem(
        kind=Cause.DOUBT,
        severity=Severity.CRITICAL,
        message=doubt.reason,
        hint=doubt.hint,
        file=file.name,
        line=line,
        statement=statement,
        outcome_unknown=True,
    )

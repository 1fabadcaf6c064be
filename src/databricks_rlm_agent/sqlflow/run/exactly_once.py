"""Statements that are not safe to repeat take effect once, whatever dies between.

Before such a statement the version of the table that it writes is put on record (a *note*: a row ``begun`` in
``sql_workflow_steps``); who comes after compares. Files that make their tables anew need no notes.

| dies | what is found | what follows |
|---|---|---|
| before the note | the notes before it | all since the last note is safe to repeat, and is |
| after the note, before the statement | the noted version | fence, run it |
| while the statement runs | the noted version | the fence makes it fail when it commits; run it |
| after its commit, before its answer | one more commit, of a fitting kind | go on behind it |
| after its answer, before the next note or the step's record | the same | the same |
| while the fence is set | the noted version, a fence perhaps | fence, run it |
| after the step's record | the step is done | it is kept |

More commits, of other kinds, no history, another table of that name: nobody guesses, the step fails "in
doubt". ``RESTORE TABLE … TO VERSION AS OF`` the noted version counts as undone.

*Fence*: a table property set before a statement is run again. A metadata change makes writers that began
before it fail. A statement that changes no row leaves no commit, and may be run again.

Not covered: a statement that was sent before the crash, and begins at the warehouse only after the fence; a
process that is stopped between asking whose the run is and sending the statement, until another has sent it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from databricks_rlm_agent.errors import Forbidden, NotFound, Rejected
from databricks_rlm_agent.sqlflow.model import SqlFile
from databricks_rlm_agent.sqlflow.run.checkpoints import Doubt, Entry, checkpoints, entry, hash_of, note_of
from databricks_rlm_agent.sqlflow.run.record import BEGUN, Record, StepRow
from databricks_rlm_agent.sqlflow.run.versions import (
    FENCE,
    GONE,
    HISTORY,
    StatementOutcome,
    Table,
    VersionNote,
    commit_of,
)
from databricks_rlm_agent.sqltext.errors import Cause, Problem, Severity, head
from databricks_rlm_agent.sqltext.names import Name, quoted
from databricks_rlm_agent.sqltext.statement import StatementKind
from databricks_rlm_agent.values import Clock, NewId, Row

Key = tuple[str, int]
"""A step and an iteration of it, 0 for a step that is no loop."""
# May have been done in part when they fail, unless they were never begun.
_IN_PARTS = {StatementKind.BLOCK}


class CheckpointLog:
    """The notes of a run, in memory and on record. Safe to use from several threads."""

    def __init__(self, record: Record, clock: Clock) -> None:
        self._record, self._clock = record, clock
        self._notes: dict[Key, list[VersionNote]] = {}
        self._lock = threading.Lock()

    def load(self, notes: Mapping[Key, Sequence[VersionNote]]) -> None:
        """Take over what an earlier process has noted."""
        self._notes = {key: list(each) for key, each in notes.items()}

    def of(self, key: Key) -> tuple[VersionNote, ...]:
        """The notes of a step or iteration, in their order."""
        with self._lock:
            return tuple(self._notes.get(key, ()))

    def write(self, key: Key, file: SqlFile, note: VersionNote) -> None:
        """Put a note on record; raises RlmError, TakenOverError."""
        now = self._clock()
        step, iteration = key
        self._record.steps(
            [
                StepRow(
                    step=step,
                    iteration=iteration,
                    status=BEGUN,
                    file=file.name,
                    sha256=file.sha256,
                    started_at=now,
                    finished_at=now,
                    detail=note.to_dict(),
                )
            ]
        )
        with self._lock:
            self._notes[key] = with_note(self._notes.get(key, ()), note)


def with_note(notes: Sequence[VersionNote], note: VersionNote) -> list[VersionNote]:
    """The notes of a step with one more: it takes the place of one before the same statement."""
    kept = [] if note.first else [each for each in notes if each.index < note.index]
    return [*kept, note]


Ask = Callable[[str], Sequence[Row]]


class ExactlyOnce:
    """What a file's runner does so that nothing happens twice. One for one run of one file."""

    def __init__(self, notebook: CheckpointLog, file: SqlFile, key: Key, *, ask: Ask, new_id: NewId) -> None:
        self._notebook, self._file, self._key = notebook, file, key
        self._ask, self._new_id = ask, new_id
        self._due = checkpoints(file)
        self._first = False
        self._suspect: int | None = None  # a statement that an earlier process may have sent

    def entry(self, execute: Callable[[str], Any]) -> Entry | Doubt:
        """Where the file begins or goes on; a statement that may still be on its way is fenced off first."""
        found = self._entry()
        if isinstance(found, Entry) and found.fence is not None and found.fence.table is not None:
            token = self._new_id("f")
            execute(f"ALTER TABLE {quoted(found.fence.table)} SET TBLPROPERTIES ('{FENCE}' = '{token}')")
            found = self._entry()
        self._first = isinstance(found, Entry) and found.at == 0
        last = self._notebook.of(self._key)[-1:]
        self._suspect = last[0].index if last and last[0].outcome is StatementOutcome.BEGUN else None
        if isinstance(found, Doubt):
            self._settle(found.note, StatementOutcome.DOUBT)
        return found

    def careful(self, index: int) -> bool:
        """Whether a statement must not be repeated by itself."""
        return self._due.get(index) is False

    def before(self, index: int, rows: Mapping[str, int]) -> None:
        """Note what there is before a statement, if that is due and is not noted yet."""
        if index not in self._due:
            return
        note = note_of(self._file, index, safe=self._due[index], rows=rows, first=self._first)
        if note.table is not None:
            found = self.look(note.table, newest=1)
            newest = found.commits[0] if found.commits else None
            version, at = (newest.version, newest.at) if newest else (None, None)
            note = replace(note, there=found.there, version=version, at=at)
        last = self._notebook.of(self._key)[-1:]
        if not last or replace(last[0], first=False) != replace(note, first=False):
            self._notebook.write(self._key, self._file, note)
        self._first = False

    def done(self, index: int) -> None:
        """Note that a statement has taken effect, where nothing else would tell."""
        last = self._notebook.of(self._key)[-1:]
        if last and last[0].index == index and last[0].table is None and self.careful(index):
            self._settle(last[0], StatementOutcome.TAKEN)

    def late(self, index: int, problem: Problem) -> bool:
        """Whether it fails since the same statement, sent by an earlier process, arrived after we looked."""
        last = self._notebook.of(self._key)[-1:]
        if not last or not index == last[0].index == self._suspect:
            return False
        made = last[0].kind is StatementKind.CREATE and not last[0].there and problem.kind is Cause.EXISTS
        return made or (last[0].new is not None and problem.kind in {Cause.EXISTS, Cause.MISSING})

    def failed(self, index: int, problem: Problem) -> None:
        """Note that a statement has failed, if it is known then that it changed nothing."""
        last = self._notebook.of(self._key)[-1:]
        if not last or last[0].index != index or problem.outcome_unknown:
            return
        half = last[0].kind in _IN_PARTS and problem.kind is not Cause.SYNTAX
        self._settle(last[0], StatementOutcome.DOUBT if half else StatementOutcome.UNDONE)

    def look(self, name: Name, *, newest: int = HISTORY) -> Table:
        """What is under a name now, with so many of its newest commits."""
        try:
            rows = self._ask(f"DESCRIBE HISTORY {quoted(name)} LIMIT {newest}")
            return Table(there=True, commits=tuple(commit_of(row) for row in rows))
        except NotFound:
            return GONE
        except (Rejected, Forbidden):  # a view, a table without a history, or who may write it but not read
            return self._without_history(name)

    def _settle(self, note: VersionNote, outcome: StatementOutcome) -> None:
        told = (
            hash_of(each.text for each in self._file.statements)
            if outcome is StatementOutcome.DOUBT
            else None
        )
        self._notebook.write(self._key, self._file, replace(note, outcome=outcome, told=told, first=False))

    def _without_history(self, name: Name) -> Table:
        try:
            self._ask(f"DESCRIBE TABLE {quoted(name)}")
        except NotFound:
            return GONE
        except Forbidden:
            pass
        return Table(there=True)

    def _entry(self) -> Entry | Doubt:
        return entry(self._file, self._notebook.of(self._key), self.look)


def in_doubt(doubt: Doubt, file: SqlFile) -> Problem:
    """The problem that a step ends with that nobody can go on with."""
    same = [each for each in file.statements if each.line == doubt.note.line]
    return Problem(
        kind=Cause.DOUBT,
        severity=Severity.CRITICAL,
        message=doubt.why,
        hint=doubt.hint,
        file=file.name,
        line=doubt.note.line,
        statement=head(same[0].text) if same else None,
        outcome_unknown=True,
    )

"""A file's statements, in order, in a session of their own; repeated where that is safe."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from databricks_rlm_agent.domain.workflow.model import Kind, SqlFile, Statement
from databricks_rlm_agent.domain.workflow.names import Name, common
from databricks_rlm_agent.domain.workflow.sqlerrors import Problem, Severity, classify
from databricks_rlm_agent.errors import RlmError
from databricks_rlm_agent.sqlflow.engine import Engine, Session
from databricks_rlm_agent.sqlflow.events import EventKind, Feed
from databricks_rlm_agent.sqlflow.interruption import InterruptedRunError, Interruption

ATTEMPTS = 6
RESTARTS = 2
# They may have been half done when they fail, whatever the reason.
_NOT_ATOMIC = {Kind.BLOCK, Kind.OTHER}
_IF_NOT_THERE = re.compile(r"\bIF\s+NOT\s+EXISTS\b", re.IGNORECASE)


class StepFailedError(Exception):
    """A step cannot go on; ``problem`` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class _LostError(Exception):
    """What a statement did is not known, or its session is gone with what earlier ones made there."""

    def __init__(self, problem: Problem, index: int) -> None:
        super().__init__(problem.message)
        self.problem, self.index = problem, index


@dataclass(frozen=True, kw_only=True)
class FileResult:
    """What became of a file. ``by_table`` are rows affected by the last part of the table's name."""

    statements: int
    rows: int | None
    warnings: tuple[Problem, ...]
    by_table: dict[str, int]


def backoff(attempt: int) -> float:
    """Seconds to wait after so many tries: random below a bound that doubles, at most 20."""
    return random.uniform(0.5, 1.0) * min(20.0, 0.25 * 2.0**attempt)  # noqa: S311 - no secret


def repeatable(file: SqlFile, upto: int | None = None) -> bool:
    """Whether the file may be run again from its start after ``upto`` statements of it, the last in doubt.

    Every one of them must be safe to repeat, or change only what the file itself makes anew before; and
    nothing is changed that the file has read as it was before.
    """
    fresh: list[Name] = []
    read: list[Name] = []
    for statement in file.statements[:upto]:
        own = all(name in fresh for name in statement.writes)
        if not (statement.repeatable or (own and statement.writes)):
            return False
        read += [name for name in statement.reads if name not in fresh]
        if common([name for name in statement.writes if name not in fresh], read):
            return False
        if statement.kind is Kind.REPLACE and not _IF_NOT_THERE.search(statement.text):
            fresh += [*statement.makes, *statement.gone]  # not what is only overwritten, perhaps in part
        elif own:
            fresh += statement.makes
    return True


class FileRunner:
    """Runs files, each in a session of its own. Safe to use from several threads."""

    def __init__(
        self,
        engine: Engine,
        feed: Feed,
        interruption: Interruption,
        *,
        wait_s: Callable[[int], float] = backoff,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._feed, self._interruption = engine, feed, interruption
        self._wait_s, self._monotonic = wait_s, monotonic

    def run(self, file: SqlFile, *, step: str, iteration: int | None = None) -> FileResult:
        """Run a file; raise StepFailedError or InterruptedRunError."""
        tell: dict[str, Any] = {"step": step, "file": file.name, "iteration": iteration}
        for begun in range(RESTARTS + 1):
            try:
                with self._interruption.watching(self._open(file)) as session:
                    return self._whole(session, file, tell)
            except _LostError as lost:
                if begun == RESTARTS or not repeatable(file, lost.index + 1):
                    raise StepFailedError(_in_doubt(lost.problem)) from None
                self._feed.tell(
                    EventKind.RETRY,
                    "the file begins again",
                    problem=lost.problem,
                    line=lost.problem.line,
                    **tell,
                )
                self._interruption.wait(self._wait_s(begun))
        raise AssertionError("unreachable")

    def _open(self, file: SqlFile) -> Session:
        for attempt in range(1, ATTEMPTS + 1):
            self._interruption.check()
            try:
                return self._engine.session()
            except RlmError as error:
                problem = replace(classify(error, file=file.name), outcome_unknown=False)
                if problem.severity is not Severity.TRANSIENT or attempt == ATTEMPTS:
                    raise StepFailedError(problem) from None
                self._interruption.wait(_pause(error, self._wait_s(attempt)))
        raise AssertionError("unreachable")

    def _whole(self, session: Session, file: SqlFile, tell: dict[str, Any]) -> FileResult:
        rows: list[int] = []
        warnings: list[Problem] = []
        by_table: dict[str, int] = {}
        for index, statement in enumerate(file.statements):
            started = self._monotonic()
            place = {"line": statement.line, "statement": index + 1, "statements": len(file.statements)}
            self._feed.tell(EventKind.STATEMENT_STARTED, statement.kind.value, **place, **tell)
            changed, warning = self._statement(session, statement, index, tell)
            if warning is not None:
                warnings.append(warning)
            if changed is not None:
                rows.append(changed)
                for name in statement.writes[:1]:
                    by_table[name[-1]] = by_table.get(name[-1], 0) + changed
            self._feed.tell(
                EventKind.STATEMENT_DONE,
                statement.kind.value,
                rows=changed,
                seconds=self._monotonic() - started,
                **place,
                **tell,
            )
        return FileResult(
            statements=len(file.statements),
            rows=sum(rows) if rows else None,
            warnings=tuple(warnings),
            by_table=by_table,
        )

    def _statement(
        self, session: Session, statement: Statement, index: int, tell: dict[str, Any]
    ) -> tuple[int | None, Problem | None]:
        """Rows affected, or the warning that it ended with."""
        for attempt in range(1, ATTEMPTS + 1):
            self._interruption.check()
            try:
                return session.execute(statement.text), None
            except RlmError as error:
                problem = self._judge(error, statement)
                if problem.severity is Severity.WARNING:
                    self._feed.tell(EventKind.WARNING, problem=problem, line=statement.line, **tell)
                    return None, problem
                if not session.alive or (problem.outcome_unknown and not statement.repeatable):
                    raise _LostError(problem, index) from None
                if problem.severity is not Severity.TRANSIENT or attempt == ATTEMPTS:
                    raise StepFailedError(problem) from None
                self._feed.tell(
                    EventKind.RETRY, "the statement again", problem=problem, line=statement.line, **tell
                )
                self._interruption.wait(_pause(error, self._wait_s(attempt)))
        raise AssertionError("unreachable")

    def _judge(self, error: RlmError, statement: Statement) -> Problem:
        if self._interruption.asked:
            raise InterruptedRunError from None
        problem = classify(error, file=statement.file, line=statement.line, statement=statement.text)
        if problem.severity is Severity.TRANSIENT and statement.kind in _NOT_ATOMIC:
            return replace(problem, outcome_unknown=True)
        return problem


def _pause(error: RlmError, seconds: float) -> float:
    return max(seconds, getattr(error, "retry_after", None) or 0.0)


def _in_doubt(problem: Problem) -> Problem:
    return replace(
        problem,
        severity=Severity.CRITICAL,
        outcome_unknown=True,
        hint="The statement may have taken effect, and it is not safe to repeat: look at the table that it "
        "writes, undo it (RESTORE TABLE … TO VERSION AS OF …) if it did, then run with --resume.",
    )

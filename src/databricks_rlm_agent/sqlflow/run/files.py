"""A file's statements, in order, in a session of their own; repeated where that is safe."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from databricks_rlm_agent.errors import RlmError
from databricks_rlm_agent.retry import WORKFLOWS, RetryPolicy
from databricks_rlm_agent.sqlflow.model import SqlFile
from databricks_rlm_agent.sqlflow.run.checkpoints import Doubt, Entry, sessional
from databricks_rlm_agent.sqlflow.run.events import EventKind, Feed
from databricks_rlm_agent.sqlflow.run.exactly_once import CheckpointLog, ExactlyOnce, in_doubt
from databricks_rlm_agent.sqlflow.run.interruption import InterruptedRunError, Interruption
from databricks_rlm_agent.sqlflow.run.record import Record
from databricks_rlm_agent.sqltext.errors import Cause, Problem, Severity, classify
from databricks_rlm_agent.sqltext.statement import Statement, StatementKind
from databricks_rlm_agent.values import NewId, SqlEngine, SqlSession

T = TypeVar("T")
RESTARTS = 2
# They may have been half done when they fail, whatever the reason.
_NOT_ATOMIC = {StatementKind.BLOCK, StatementKind.OTHER}


class StepFailedError(Exception):
    """A step cannot go on; ``problem`` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class _LostError(Exception):
    """What a statement did is not known, or its session is gone with what earlier ones made there."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass(frozen=True)
class _Place:
    """A statement's place in a file that began ``at``; ``rows`` affected so far."""

    exactly: ExactlyOnce
    index: int
    at: int
    rows: dict[str, int]

    @property
    def again(self) -> bool:
        """Whether it is repeated for what it leaves in the session only."""
        return self.index < self.at


@dataclass(frozen=True, kw_only=True)
class FileResult:
    """What became of a file. ``by_table`` are rows affected by the last part of the table's name."""

    statements: int
    rows: int | None
    warnings: tuple[Problem, ...]
    by_table: dict[str, int]


class FileRunner:
    """Runs files, each in a session of its own. Safe to use from several threads."""

    def __init__(
        self,
        engine: SqlEngine,
        feed: Feed,
        interruption: Interruption,
        *,
        record: Record,
        notebook: CheckpointLog,
        new_id: NewId,
        retry: RetryPolicy = WORKFLOWS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._feed, self._interruption = engine, feed, interruption
        self._record, self._notebook, self._new_id = record, notebook, new_id
        self._retry, self._monotonic = retry, monotonic

    def run(self, file: SqlFile, *, step: str, iteration: int | None = None, place: int = 0) -> FileResult:
        """Run a file, from where it was left; raise StepFailedError or InterruptedRunError.

        ``place`` is that of an iteration on record (`Loop.place`).
        """
        tell: dict[str, Any] = {"step": step, "file": file.name, "iteration": iteration}
        for begun in range(RESTARTS + 1):
            try:
                with self._interruption.watching(self._open(file)) as session:
                    return self._whole(session, file, place, tell)
            except _LostError as lost:
                if begun == RESTARTS:
                    raise StepFailedError(_lost_again(lost.problem)) from None
                self._feed.tell(
                    EventKind.RETRY,
                    "in a new session",
                    problem=lost.problem,
                    line=lost.problem.line,
                    **tell,
                )
                self._interruption.wait(self._retry.first_wait_s * 2**begun)
        raise AssertionError("unreachable")

    def _open(self, file: SqlFile) -> SqlSession:
        try:
            return self._repeated(self._engine.session)
        except RlmError as error:
            problem = replace(classify(error, file=file.name), outcome_unknown=False)
            raise StepFailedError(problem) from None

    def _whole(self, session: SqlSession, file: SqlFile, place: int, tell: dict[str, Any]) -> FileResult:
        exactly = ExactlyOnce(
            self._notebook,
            file,
            (tell["step"], place),
            ask=lambda sql: self._ours(session, file, lambda: session.fetch(sql)),
            new_id=self._new_id,
        )
        begin = self._begin(session, file, exactly, tell)
        warnings: list[Problem] = []
        rows = dict(begin.rows)
        for index, statement in enumerate(file.statements):
            if index < begin.at and not sessional(statement):
                continue
            started = self._monotonic()
            where = {"line": statement.line, "statement": index + 1, "statements": len(file.statements)}
            self._feed.tell(EventKind.STATEMENT_STARTED, statement.kind.value, **where, **tell)
            changed, warning = self._statement(
                session, statement, _Place(exactly, index, begin.at, rows), tell
            )
            if warning is not None:
                warnings.append(warning)
            if changed is not None:
                name = statement.writes[0][-1] if statement.writes else ""
                rows[name] = rows.get(name, 0) + changed
            self._feed.tell(
                EventKind.STATEMENT_DONE,
                statement.kind.value,
                rows=changed,
                seconds=self._monotonic() - started,
                **where,
                **tell,
            )
        return FileResult(
            statements=len(file.statements),
            rows=sum(rows.values()) if rows else None,
            warnings=tuple(warnings),
            by_table=rows,
        )

    def _begin(self, session: SqlSession, file: SqlFile, exactly: ExactlyOnce, tell: dict[str, Any]) -> Entry:
        """Where the file begins: behind what an earlier try has done."""
        try:
            found = exactly.entry(lambda sql: self._ours(session, file, lambda: session.execute(sql)))
        except RlmError as error:
            raise StepFailedError(classify(error, file=file.name)) from None
        if isinstance(found, Doubt):
            raise StepFailedError(in_doubt(found, file))
        if found.said:
            self._feed.tell(EventKind.NOTICE, found.said, **tell)
        return found

    def _statement(
        self, session: SqlSession, statement: Statement, place: _Place, tell: dict[str, Any]
    ) -> tuple[int | None, Problem | None]:
        """Return the rows affected, or the warning that the statement ended with."""
        exactly, index = place.exactly, place.index

        def once() -> tuple[int | None, Problem | None]:
            try:
                if not place.again:
                    exactly.before(index, place.rows)
                self._record.check()
            except RlmError as error:
                raise StepFailedError(classify(error, file=statement.file, line=statement.line)) from None
            try:
                return session.execute(statement.text), None
            except RlmError as error:
                problem = self._judge(error, statement)
                if problem.severity is Severity.WARNING or (place.again and problem.kind is Cause.MISSING):
                    self._feed.tell(EventKind.WARNING, problem=problem, line=statement.line, **tell)
                    return None, problem
                unsafe = exactly.careful(index) or not statement.repeatable
                unknown = (problem.outcome_unknown and unsafe) or exactly.late(index, problem)
                if not session.alive or unknown:
                    raise _LostError(problem) from None
                raise

        def on_retry(error: BaseException) -> None:
            assert isinstance(error, RlmError)
            problem = self._judge(error, statement)
            self._feed.tell(
                EventKind.RETRY, "the statement again", problem=problem, line=statement.line, **tell
            )

        try:
            changed, warning = self._repeated(once, on_retry)
        except RlmError as error:
            raise StepFailedError(self._failed(exactly, index, self._judge(error, statement))) from None
        if warning is None:
            with suppress(RlmError):  # then it is in doubt if we die here, and only then
                exactly.done(index)
        return changed, warning

    def _failed(self, exactly: ExactlyOnce, index: int, problem: Problem) -> Problem:
        with suppress(RlmError):  # then it is found out when the file goes on
            exactly.failed(index, problem)
        return problem

    def _ours(self, session: SqlSession, file: SqlFile, call: Callable[[], T]) -> T:
        """Run a statement of ours, which is safe to repeat; raise _LostError if the session is gone."""

        def once() -> T:
            try:
                return call()
            except RlmError as error:
                if self._interruption.asked:
                    raise InterruptedRunError from None
                if not session.alive:
                    raise _LostError(classify(error, file=file.name)) from None
                raise

        return self._repeated(once)

    def _repeated(self, call: Callable[[], T], on_retry: Callable[[BaseException], None] | None = None) -> T:
        """Repeat a call on transient errors, until the workflow is interrupted; raise the last error."""

        def once() -> T:
            self._interruption.check()
            return call()

        retrying = self._retry.retrying(self._interruption.wait, repeats=_is_transient, on_retry=on_retry)
        answer: T = retrying(once)
        return answer

    def _judge(self, error: RlmError, statement: Statement) -> Problem:
        if self._interruption.asked:
            raise InterruptedRunError from None
        problem = classify(error, file=statement.file, line=statement.line, statement=statement.text)
        if problem.severity is Severity.TRANSIENT and statement.kind in _NOT_ATOMIC:
            return replace(problem, outcome_unknown=True)
        return problem


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, RlmError) and classify(error).severity is Severity.TRANSIENT


def _lost_again(problem: Problem) -> Problem:
    return replace(
        problem,
        severity=Severity.CRITICAL,
        outcome_unknown=True,
        hint="The connection was lost again and again. Run with --resume when it is better: what has taken "
        "effect is found out then.",
    )

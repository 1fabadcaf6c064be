"""Executes SQL in a run: the context that its parts share, and the statements of a file in order.

Each file has a session of its own. Statements are repeated where that is safe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from databricks_rlm_agent.errors import RlmError
from databricks_rlm_agent.retry import RetryingSession, RetryPolicy
from databricks_rlm_agent.sqlflow.model import SqlFile
from databricks_rlm_agent.sqlflow.run.checkpoints import InDoubt, StartPoint, is_session_only
from databricks_rlm_agent.sqlflow.run.events import EventEmitter, EventKind
from databricks_rlm_agent.sqlflow.run.exactly_once import CheckpointLog, ExactlyOnce, in_doubt_problem
from databricks_rlm_agent.sqlflow.run.record import Record, StepRow
from databricks_rlm_agent.sqlflow.run.sessions import InterruptedRunError, Interruption
from databricks_rlm_agent.sqltext.errors import Cause, Problem, Severity, classify
from databricks_rlm_agent.sqltext.statement import Statement, StatementKind
from databricks_rlm_agent.values import Clock, NewId, SqlEngine, SqlSession

if TYPE_CHECKING:
    from tenacity import Retrying

T = TypeVar("T")
RESTARTS = 2  # of a file in a new session
# When these fail, they may have been carried out in part, whatever the reason.
_NOT_ATOMIC = {StatementKind.BLOCK, StatementKind.OTHER}


class ProblemError(Exception):
    """Base of the errors that carry a problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class StepFailedError(ProblemError):
    """A step cannot go on; ``problem`` says why."""

    @classmethod
    def of(cls, error: RlmError, file: str, what: str, **changes: Any) -> StepFailedError:
        """Return it for an error, whose message comes after ``what``."""
        problem = classify(error, file=file)
        return cls(replace(problem, message=f"{what}: {problem.message}", **changes))


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """One per run; safe to use from several threads. ``retry``: the policy for statements of files."""

    engine: SqlEngine
    record: Record
    checkpoints: CheckpointLog
    events: EventEmitter
    interruption: Interruption
    clock: Clock
    new_id: NewId
    retry: RetryPolicy

    @contextmanager
    def retrying_session(self) -> Iterator[RetryingSession]:
        """Provide a session for statements of ours; it is cancelled when the run is interrupted."""
        session = RetryingSession(self.engine.session, self.interruption.wait)
        with self.interruption.cancelling(session):
            yield session

    def retrying(
        self, kind: type[ProblemError], what: str, fields: Mapping[str, Any], *, attempts: int | None = None
    ) -> Retrying:
        """Repeat a call while it raises errors of this kind, each time with an event; raise the last one."""

        def emit(error: BaseException) -> None:
            assert isinstance(error, ProblemError)
            self.events.emit(
                EventKind.RETRY, what, problem=error.problem, **{"line": error.problem.line, **fields}
            )

        policy = replace(self.retry, attempts=attempts or self.retry.attempts)
        return policy.retrying(
            self.interruption.wait, repeats=lambda error: isinstance(error, kind), on_retry=emit
        )

    def append(self, row: StepRow) -> None:
        """Record what is done; raise StepFailedError, because without a row it would run again."""
        try:
            self.record.append([row])
        except RlmError as error:
            raise StepFailedError.of(
                error,
                row.file,
                "It is done, but could not be recorded",
                severity=Severity.CRITICAL,
                hint="Run again with --resume when the cause is removed; it will be repeated.",
            ) from None


class _LostError(ProblemError):
    """The effect of a statement is not known, or the session is gone with its temporary objects."""


class _TransientError(ProblemError):
    """A statement failed without effect, and may succeed when it is repeated."""

    def __init__(self, problem: Problem, retry_after: float | None) -> None:
        super().__init__(problem)
        self.retry_after = retry_after


class _WarningError(ProblemError):
    """A statement failed, and the file goes on."""


@dataclass(frozen=True, kw_only=True)
class FileResult:
    """The result of a file. ``by_table``: affected rows by the last part of the table's name."""

    statements: int
    rows: int | None
    warnings: tuple[Problem, ...]
    by_table: dict[str, int]


class FileRunner:
    """Runs files, each in a session of its own. Safe to use from several threads."""

    def __init__(self, context: RunContext) -> None:
        self._context = context

    def run(self, file: SqlFile, *, step: str, iteration: int | None = None, ordinal: int = 0) -> FileResult:
        """Run a file, from where it was left; raise StepFailedError or InterruptedRunError.

        ``ordinal`` is that of an iteration (`Loop.ordinal`), by which it is recorded.
        """
        fields: dict[str, Any] = {"step": step, "file": file.name, "iteration": iteration}

        def once() -> FileResult:
            with self._context.interruption.cancelling(self._open(file)) as session:
                return _FileRun(self._context, session, file, (step, ordinal), fields).run()

        try:
            result: FileResult = self._context.retrying(
                _LostError, "in a new session", fields, attempts=1 + RESTARTS
            )(once)
            return result
        except _LostError as lost:
            problem = replace(
                lost.problem,
                severity=Severity.CRITICAL,
                outcome_unknown=True,
                hint="The connection was lost again and again. Run with --resume when it is better: what has "
                "taken effect is found out then.",
            )
            raise StepFailedError(problem) from None

    def _open(self, file: SqlFile) -> SqlSession:
        try:
            return _own(self._context, self._context.engine.session)
        except RlmError as error:
            problem = replace(classify(error, file=file.name), outcome_unknown=False)
            raise StepFailedError(problem) from None


def _own(context: RunContext, call: Callable[[], T]) -> T:
    """Repeat a call of ours, which is safe, while its errors are transient; raise the last error."""

    def once() -> T:
        context.interruption.check()
        return call()

    def transient(error: BaseException) -> bool:
        return isinstance(error, RlmError) and classify(error).severity is Severity.TRANSIENT

    answer: T = context.retry.retrying(context.interruption.wait, repeats=transient)(once)
    return answer


@dataclass(kw_only=True)
class _Progress:
    """The progress of a file. Statements before ``start`` are repeated only for the session."""

    start: int
    rows: dict[str, int] = field(default_factory=dict)  # affected so far, by table
    warnings: list[Problem] = field(default_factory=list)


class _FileRun:
    """One try of a file, in one session."""

    def __init__(
        self,
        context: RunContext,
        session: SqlSession,
        file: SqlFile,
        key: tuple[str, int],
        fields: dict[str, Any],
    ) -> None:
        self._context, self._session, self._file, self._fields = context, session, file, fields
        self._guard = ExactlyOnce(
            context.checkpoints,
            file,
            key,
            ask=lambda sql: self._own_statement(lambda: session.fetch(sql)),
            new_id=context.new_id,
        )

    def run(self) -> FileResult:
        """Run the statements; raise _LostError, StepFailedError or InterruptedRunError."""
        start = self._start_point()
        progress = _Progress(start=start.at, rows=dict(start.rows))
        for index, statement in enumerate(self._file.statements):
            if index >= start.at or is_session_only(statement):
                self._observed(index, statement, progress)
        return FileResult(
            statements=len(self._file.statements),
            rows=sum(progress.rows.values()) if progress.rows else None,
            warnings=tuple(progress.warnings),
            by_table=progress.rows,
        )

    def _start_point(self) -> StartPoint:
        """Return where the file begins: after what an earlier try has done."""
        try:
            found = self._guard.start_point(
                lambda sql: self._own_statement(lambda: self._session.execute(sql))
            )
        except RlmError as error:
            raise StepFailedError(classify(error, file=self._file.name)) from None
        if isinstance(found, InDoubt):
            raise StepFailedError(in_doubt_problem(found, self._file))
        if found.notice:
            self._context.events.emit(EventKind.NOTICE, found.notice, **self._fields)
        return found

    def _observed(self, index: int, statement: Statement, progress: _Progress) -> None:
        started = time.monotonic()
        where = {"line": statement.line, "statement": index + 1, "statements": len(self._file.statements)}
        emit, kind = self._context.events.emit, statement.kind.value
        emit(EventKind.STATEMENT_STARTED, kind, **where, **self._fields)
        changed = self._execute(index, statement, progress)
        if changed is not None:
            table = statement.writes[0][-1] if statement.writes else ""
            progress.rows[table] = progress.rows.get(table, 0) + changed
        seconds = time.monotonic() - started
        emit(EventKind.STATEMENT_DONE, kind, rows=changed, seconds=seconds, **where, **self._fields)

    def _execute(self, index: int, statement: Statement, progress: _Progress) -> int | None:
        """Run a statement, repeated while that is safe and helps; return how many rows it affected."""
        emit = self._context.events.emit
        fields: dict[str, Any] = {"line": statement.line, **self._fields}
        retrying = self._context.retrying(_TransientError, "the statement again", fields)
        try:
            changed: int | None = retrying(self._execute_once, index, statement, progress)
        except _WarningError as warning:
            emit(EventKind.WARNING, problem=warning.problem, **fields)
            progress.warnings.append(warning.problem)
            return None
        except _TransientError as error:
            raise self._failed(index, error.problem) from None
        with suppress(RlmError):  # then the statement is in doubt if we die here, and only then
            self._guard.mark_done(index)
        return changed

    def _execute_once(self, index: int, statement: Statement, progress: _Progress) -> int | None:
        session_only = index < progress.start
        self._context.interruption.check()
        try:
            if not session_only:
                self._guard.write_checkpoint(index, progress.rows)
            self._context.record.check_owner()
        except RlmError as error:
            raise StepFailedError(classify(error, file=statement.file, line=statement.line)) from None
        try:
            return self._session.execute(statement.text)
        except RlmError as error:
            if self._context.interruption.requested:
                raise InterruptedRunError from None
            problem = _classified(error, statement)
            missing = session_only and problem.kind is Cause.MISSING
            if problem.severity is Severity.WARNING or missing:
                raise _WarningError(problem) from None
            unsafe = self._guard.is_unsafe(index) or not statement.repeatable
            unknown = problem.outcome_unknown and unsafe
            if not self._session.alive or unknown or self._guard.was_applied_meanwhile(index, problem):
                raise _LostError(problem) from None
            if problem.severity is Severity.TRANSIENT:
                raise _TransientError(problem, getattr(error, "retry_after", None)) from None
            raise self._failed(index, problem) from None

    def _failed(self, index: int, problem: Problem) -> StepFailedError:
        with suppress(RlmError):  # then it is found out when the file goes on
            self._guard.mark_failed(index, problem)
        return StepFailedError(problem)

    def _own_statement(self, call: Callable[[], T]) -> T:
        """Run a statement of ours, which is safe to repeat; raise _LostError if the session is gone."""

        def once() -> T:
            try:
                return call()
            except RlmError as error:
                if self._context.interruption.requested:
                    raise InterruptedRunError from None
                if not self._session.alive:
                    raise _LostError(classify(error, file=self._file.name)) from None
                raise

        return _own(self._context, once)


def _classified(error: RlmError, statement: Statement) -> Problem:
    problem = classify(error, file=statement.file, line=statement.line, statement=statement.text)
    if problem.severity is Severity.TRANSIENT and statement.kind in _NOT_ATOMIC:
        return replace(problem, outcome_unknown=True)
    return problem

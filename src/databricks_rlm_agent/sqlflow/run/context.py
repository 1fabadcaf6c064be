"""The context that all parts of a run share: engine, record, events, clock and interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from databricks_rlm_agent.errors import RlmError
from databricks_rlm_agent.retry import RetryingSession, RetryPolicy
from databricks_rlm_agent.sqlflow.run.events import EventEmitter
from databricks_rlm_agent.sqlflow.run.exactly_once import CheckpointLog
from databricks_rlm_agent.sqlflow.run.record import Record, StepRow
from databricks_rlm_agent.sqlflow.run.sessions import Interruption
from databricks_rlm_agent.sqltext.errors import Problem, Severity, classify
from databricks_rlm_agent.values import Clock, NewId, SqlEngine


class ProblemError(Exception):
    """Base of the errors that carry a problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class StepFailedError(ProblemError):
    """A step cannot go on; ``problem`` says why."""


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
    monotonic: Callable[[], float]
    retry: RetryPolicy

    @contextmanager
    def retrying_session(self) -> Iterator[RetryingSession]:
        """Provide a session for statements of ours; it is cancelled when the run is interrupted."""
        session = RetryingSession(self.engine.session, self.interruption.wait)
        with self.interruption.cancelling(session):
            yield session

    def append(self, row: StepRow) -> None:
        """Record what is done; raise StepFailedError, because without a row it would run again."""
        try:
            self.record.append([row])
        except RlmError as error:
            problem = classify(error, file=row.file)
            raise StepFailedError(
                replace(
                    problem,
                    severity=Severity.CRITICAL,
                    message=f"It is done, but could not be recorded: {problem.message}",
                    hint="Run again with --resume when the cause is removed; it will be repeated.",
                )
            ) from None

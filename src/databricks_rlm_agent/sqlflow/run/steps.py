"""One step of a plan, from its start to its record."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from databricks_rlm_agent.errors import RlmError
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.sqlflow.model import SqlFile, Step
from databricks_rlm_agent.sqlflow.plan.iterations import iteration
from databricks_rlm_agent.sqlflow.run.convergence import LoopEnd, Measure
from databricks_rlm_agent.sqlflow.run.events import EventKind, Feed
from databricks_rlm_agent.sqlflow.run.files import FileRunner, StepFailedError
from databricks_rlm_agent.sqlflow.run.interruption import InterruptedRunError, Interruption, TakenOverError
from databricks_rlm_agent.sqlflow.run.loops import LoopRunner, put_on_record
from databricks_rlm_agent.sqlflow.run.outcome import StepOutcome, StepStatus
from databricks_rlm_agent.sqlflow.run.record import DONE, Record, StepRow
from databricks_rlm_agent.sqlflow.run.resume import identity
from databricks_rlm_agent.sqltext.errors import Problem, classify
from databricks_rlm_agent.sqltext.names import Name, quoted, shown
from databricks_rlm_agent.values import Clock, SqlEngine

_VIEW = re.compile(r"CREATE\s+(OR\s+(REPLACE|REFRESH)\s+)?(MATERIALIZED\s+)?VIEW\b", re.IGNORECASE)
_NO_TABLE = set("*(")  # in the names of schemas, and of functions

_ENDS = {LoopEnd.CONVERGED: StepStatus.DONE, LoopEnd.INTERRUPTED: StepStatus.INTERRUPTED}


@dataclass(kw_only=True)
class StepRunner:
    """Runs steps. Safe to use from several threads."""

    files: FileRunner
    loops: LoopRunner
    engine: SqlEngine
    record: Record
    feed: Feed
    interruption: Interruption
    clock: Clock
    max_iterations: int
    optimize: bool = False
    monotonic: Callable[[], float] = time.monotonic

    def run(self, step: Step, earlier: Sequence[Measure] = ()) -> StepOutcome:
        """Run a step, and put it on record. Errors of the workspace become its outcome."""
        started, began = self.clock(), self.monotonic()
        self.feed.tell(EventKind.STEP_STARTED, step=step.id)
        outcome = self._done(step, earlier)
        took = round(self.monotonic() - began, 3)
        outcome = replace(outcome, stage=step.stage, started_at=started, seconds=took)
        row = StepRow(
            step=step.id,
            status=DONE if outcome.status is StepStatus.DONE else outcome.status.value,
            file=step.file.name if step.file else step.id,
            sha256=identity(step),
            started_at=started,
            finished_at=self.clock(),
            rows_affected=outcome.rows,
            error=outcome.problem.message if outcome.problem else None,
        )
        if outcome.status is StepStatus.DONE:
            outcome = self._recorded(outcome, row)
        else:
            with suppress(RlmError, TakenOverError):  # without a record it is not done: nothing is lost
                self.record.steps([row])
        self._tell(outcome)
        return outcome

    def _recorded(self, outcome: StepOutcome, row: StepRow) -> StepOutcome:
        try:
            put_on_record(self.record, row)
        except StepFailedError as failed:
            return replace(outcome, status=StepStatus.FAILED, problem=failed.problem)
        except TakenOverError as error:
            self.interruption.lost(error)
            return replace(outcome, status=StepStatus.INTERRUPTED)
        return outcome

    def accept(self, step: Step, outcome: StepOutcome) -> StepOutcome:
        """Let later files take what a loop that has not converged has made."""
        if outcome.end is not LoopEnd.NOT_CONVERGED:
            return outcome
        try:
            self.loops.accept(step, outcome.iterations[-1])
        except (StepFailedError, InterruptedRunError):
            return outcome
        return replace(outcome, accepted=True)

    def _done(self, step: Step, earlier: Sequence[Measure]) -> StepOutcome:
        nothing = StepOutcome(id=step.id, status=StepStatus.INTERRUPTED)
        try:
            self.record.check()
            outcome = self._file(step, step.file) if step.file else self._loop(step, earlier)
            if outcome.status is StepStatus.DONE and self.optimize:
                outcome = replace(outcome, warnings=(*outcome.warnings, *self._optimized(step, outcome)))
            return outcome
        except StepFailedError as failed:
            return replace(nothing, status=StepStatus.FAILED, problem=failed.problem)
        except RlmError as error:  # of the record
            return replace(nothing, status=StepStatus.FAILED, problem=classify(error, file=step.id))
        except TakenOverError as error:
            self.interruption.lost(error)
            return nothing
        except InterruptedRunError:
            return nothing

    def _file(self, step: Step, file: SqlFile) -> StepOutcome:
        result = self.files.run(file, step=step.id)
        return StepOutcome(
            id=step.id,
            status=StepStatus.DONE,
            statements=result.statements,
            rows=result.rows,
            warnings=result.warnings,
        )

    def _loop(self, step: Step, earlier: Sequence[Measure]) -> StepOutcome:
        assert step.loop is not None
        limit = step.loop.limit or self.max_iterations
        result = self.loops.run(step, limit=limit, earlier=earlier)
        return StepOutcome(
            id=step.id,
            status=_ENDS.get(result.end, StepStatus.FAILED),
            statements=result.statements,
            rows=result.rows,
            warnings=result.warnings,
            iterations=result.history,
            iterations_before=len(earlier),
            end=result.end,
            problem=result.problem,
        )

    def _optimized(self, step: Step, outcome: StepOutcome) -> list[Problem]:
        """OPTIMIZE what the step has made; that it fails is no more than a warning."""
        warnings = []
        with self.interruption.watching(
            RetryingSession(self.engine.session, self.interruption.wait)
        ) as session:
            for table in tables_of(step, outcome):
                began = self.monotonic()
                statement = f"OPTIMIZE {quoted(table)}"
                try:
                    session.execute(statement)
                except RlmError as error:
                    self.interruption.check()
                    warnings.append(classify(error, file=step.id, statement=statement))
                    self.feed.tell(EventKind.WARNING, step=step.id, problem=warnings[-1])
                else:
                    took = self.monotonic() - began
                    self.feed.tell(EventKind.OPTIMIZED, shown(table), step=step.id, seconds=took)
        return warnings

    def _tell(self, outcome: StepOutcome) -> None:
        kinds = {StepStatus.DONE: EventKind.STEP_DONE}
        self.feed.tell(
            kinds.get(outcome.status, EventKind.STEP_FAILED),
            outcome.end.value if outcome.end else outcome.status.value,
            step=outcome.id,
            rows=outcome.rows,
            seconds=outcome.seconds,
            problem=outcome.problem,
        )


def tables_of(step: Step, outcome: StepOutcome) -> tuple[Name, ...]:
    """The tables that a step has left behind: of a loop the one that later files name."""
    if step.loop is None:
        views = {
            name
            for statement in (step.file.statements if step.file else ())
            if _VIEW.match(statement.text)
            for name in statement.makes
        }
        return tuple(name for name in step.makes if name not in views and not _NO_TABLE & set("".join(name)))
    last = iteration(step.loop, outcome.iterations[-1].n).table if outcome.iterations else None
    found = step.loop.alias or last
    return (found,) if found is not None else ()

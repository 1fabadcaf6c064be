"""Runs one step of a plan, from its start to its record."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from databricks_rlm_agent.errors import RlmError
from databricks_rlm_agent.sqlflow.model import Step
from databricks_rlm_agent.sqlflow.plan.iterations import iteration
from databricks_rlm_agent.sqlflow.run.context import RunContext, StepFailedError
from databricks_rlm_agent.sqlflow.run.events import EventKind
from databricks_rlm_agent.sqlflow.run.files import FileRunner
from databricks_rlm_agent.sqlflow.run.loops import LoopRunner
from databricks_rlm_agent.sqlflow.run.outcome import LoopEnd, Measure, StepOutcome, StepStatus
from databricks_rlm_agent.sqlflow.run.record import DONE, StepRow
from databricks_rlm_agent.sqlflow.run.resume import step_hash
from databricks_rlm_agent.sqlflow.run.sessions import InterruptedRunError, TakenOverError
from databricks_rlm_agent.sqltext.errors import Problem, classify
from databricks_rlm_agent.sqltext.names import Name, quoted, shown

_NO_TABLE = set("*(")  # in the names of schemas, and of functions


@dataclass(kw_only=True)
class StepRunner:
    """Runs steps. Safe to use from several threads."""

    context: RunContext
    max_iterations: int
    optimize: bool = False

    def __post_init__(self) -> None:
        self._files = FileRunner(self.context)
        self._loops = LoopRunner(self.context, self._files)

    def run(self, step: Step, earlier: Sequence[Measure] = ()) -> StepOutcome:
        """Run a step and record it. Errors of the workspace become its outcome."""
        context = self.context
        started, began = context.clock(), context.monotonic()
        context.events.emit(EventKind.STEP_STARTED, step=step.id)
        outcome = self._outcome(step, earlier)
        seconds = round(context.monotonic() - began, 3)
        outcome = replace(outcome, stage=step.stage, started_at=started, seconds=seconds)
        row = StepRow(
            step=step.id,
            status=DONE if outcome.status is StepStatus.DONE else outcome.status.value,
            file=step.file.name if step.file else step.id,
            sha256=step_hash(step),
            started_at=started,
            finished_at=context.clock(),
            rows_affected=outcome.rows,
            error=outcome.problem.message if outcome.problem else None,
        )
        if outcome.status is StepStatus.DONE:
            outcome = self._recorded(outcome, row)
        else:
            with suppress(RlmError, TakenOverError):  # without a record it is not done: nothing is lost
                context.record.append([row])
        context.events.emit(
            EventKind.STEP_DONE if outcome.status is StepStatus.DONE else EventKind.STEP_FAILED,
            outcome.end.value if outcome.end else outcome.status.value,
            step=outcome.id,
            rows=outcome.rows,
            seconds=outcome.seconds,
            problem=outcome.problem,
        )
        return outcome

    def accept(self, step: Step, outcome: StepOutcome) -> StepOutcome:
        """Let later files use what a loop that has not converged has made."""
        if outcome.end is not LoopEnd.NOT_CONVERGED:
            return outcome
        try:
            self._loops.accept(step, outcome.iterations[-1])
        except (StepFailedError, InterruptedRunError):
            return outcome
        return replace(outcome, accepted=True)

    def _recorded(self, outcome: StepOutcome, row: StepRow) -> StepOutcome:
        try:
            self.context.append(row)
        except StepFailedError as failed:
            return replace(outcome, status=StepStatus.FAILED, problem=failed.problem)
        except TakenOverError as error:
            self.context.interruption.request(error)
            return replace(outcome, status=StepStatus.INTERRUPTED)
        return outcome

    def _outcome(self, step: Step, earlier: Sequence[Measure]) -> StepOutcome:
        interrupted = StepOutcome(id=step.id, status=StepStatus.INTERRUPTED)
        try:
            self.context.record.check_owner()
            outcome = self._file_or_loop(step, earlier)
            if outcome.status is StepStatus.DONE and self.optimize:
                outcome = replace(outcome, warnings=(*outcome.warnings, *self._optimize(step, outcome)))
            return outcome
        except StepFailedError as failed:
            return replace(interrupted, status=StepStatus.FAILED, problem=failed.problem)
        except RlmError as error:  # of the record
            return replace(interrupted, status=StepStatus.FAILED, problem=classify(error, file=step.id))
        except TakenOverError as error:
            self.context.interruption.request(error)
            return interrupted
        except InterruptedRunError:
            return interrupted

    def _file_or_loop(self, step: Step, earlier: Sequence[Measure]) -> StepOutcome:
        if step.loop is not None:
            limit = step.loop.limit or self.max_iterations
            return self._loops.run(step, limit=limit, earlier=earlier)
        assert step.file is not None
        result = self._files.run(step.file, step=step.id)
        return StepOutcome(
            id=step.id,
            status=StepStatus.DONE,
            statements=result.statements,
            rows=result.rows,
            warnings=result.warnings,
        )

    def _optimize(self, step: Step, outcome: StepOutcome) -> list[Problem]:
        """Run OPTIMIZE on the tables that the step has made; its failures are only warnings."""
        warnings = []
        with self.context.retrying_session() as session:
            for table in tables_of(step, outcome):
                began = self.context.monotonic()
                statement = f"OPTIMIZE {quoted(table)}"
                try:
                    session.execute(statement)
                except RlmError as error:
                    self.context.interruption.check()
                    warnings.append(classify(error, file=step.id, statement=statement))
                    self.context.events.emit(EventKind.WARNING, step=step.id, problem=warnings[-1])
                else:
                    seconds = self.context.monotonic() - began
                    self.context.events.emit(EventKind.OPTIMIZED, shown(table), step=step.id, seconds=seconds)
        return warnings


def tables_of(step: Step, outcome: StepOutcome) -> tuple[Name, ...]:
    """Return the tables that a step has left: of a loop the one that later files read."""
    if step.loop is None:
        views = {
            name
            for statement in (step.file.statements if step.file else ())
            if statement.words.startswith("CREATE") and "VIEW" in statement.words.split()
            for name in statement.makes
        }
        return tuple(name for name in step.makes if name not in views and not _NO_TABLE & set("".join(name)))
    last = iteration(step.loop, outcome.iterations[-1].n).table if outcome.iterations else None
    table = step.loop.alias or last
    return (table,) if table is not None else ()

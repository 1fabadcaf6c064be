"""Runs one step of a plan, a file or a loop, from its start to its record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from databricks_rlm_agent.errors import RlmError, UsageError
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.sqlflow.model import Iteration, Loop, Step
from databricks_rlm_agent.sqlflow.plan.iterations import iteration
from databricks_rlm_agent.sqlflow.run.checking import tables_of
from databricks_rlm_agent.sqlflow.run.events import EventKind
from databricks_rlm_agent.sqlflow.run.execution import FileResult, FileRunner, RunContext, StepFailedError
from databricks_rlm_agent.sqlflow.run.measures import ChangeCounter
from databricks_rlm_agent.sqlflow.run.outcome import LoopEnd, Measure, StepOutcome, StepStatus
from databricks_rlm_agent.sqlflow.run.record import DONE, StepRow
from databricks_rlm_agent.sqlflow.run.resume import step_hash
from databricks_rlm_agent.sqlflow.run.sessions import InterruptedRunError, TakenOverError
from databricks_rlm_agent.sqltext.errors import Cause, Problem, Severity, classify
from databricks_rlm_agent.sqltext.names import quoted, shown

_STATUSES = {LoopEnd.CONVERGED: StepStatus.DONE, LoopEnd.INTERRUPTED: StepStatus.INTERRUPTED}
_HINTS = {
    LoopEnd.NOT_CONVERGED: "Allow more with --max-iterations and --resume, or see whether it can converge.",
    LoopEnd.OSCILLATING: "Let an iteration never undo what the one before did: it must only ever take less "
    "(the least of all neighbours, one's own value included).",
}


@dataclass(frozen=True, kw_only=True)
class LoopVerdict:
    """The decision about a loop; ``end`` None: it goes on."""

    end: LoopEnd | None
    reason: str = ""


def judge_loop(history: Sequence[Measure], *, limit: int) -> LoopVerdict:
    """Decide from the measures of iterations 1 to n whether there is to be another one. Pure.

    Zero changed rows mean converged. Rows that an earlier iteration had already will come again and again:
    each iteration is a function of the one before.
    """
    if not history:
        return LoopVerdict(end=None)
    last = history[-1]
    if last.changed == 0:
        return LoopVerdict(end=LoopEnd.CONVERGED, reason=f"iteration {last.n} changed no row")
    for earlier in reversed(history[:-1]):
        same = (earlier.rows, earlier.fingerprint) == (last.rows, last.fingerprint)
        if last.fingerprint is not None and same:
            return LoopVerdict(
                end=LoopEnd.OSCILLATING,
                reason=f"iteration {last.n} has the rows of iteration {earlier.n} again, and "
                f"{last.changed} of them differ from iteration {last.n - 1}: it would never end",
            )
    if len(history) >= limit:
        changed = f"{last.changed} rows still changed" if last.changed is not None else "nothing to compare"
        reason = f"{limit} iterations were allowed, and in the last {changed}"
        return LoopVerdict(end=LoopEnd.NOT_CONVERGED, reason=reason)
    return LoopVerdict(end=None)


@dataclass(kw_only=True)
class StepRunner:
    """Runs steps. Safe to use from several threads."""

    context: RunContext
    max_iterations: int
    optimize: bool = False

    def __post_init__(self) -> None:
        self._files = FileRunner(self.context)

    def run(self, step: Step, earlier: Sequence[Measure] = ()) -> StepOutcome:
        """Run a step and record it. Errors of the workspace become its outcome."""
        context = self.context
        started, began = context.clock(), time.monotonic()
        context.events.emit(EventKind.STEP_STARTED, step=step.id)
        outcome = self._outcome(step, earlier)
        seconds = round(time.monotonic() - began, 3)
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
        assert step.loop is not None
        try:
            with self.context.retrying_session() as session:
                self._make_alias(step.loop, outcome.iterations[-1], session)
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
            outcome = self._loop(step, step.loop, earlier) if step.loop else self._file(step)
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

    def _file(self, step: Step) -> StepOutcome:
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
                began = time.monotonic()
                statement = f"OPTIMIZE {quoted(table)}"
                try:
                    session.execute(statement)
                except RlmError as error:
                    self.context.interruption.check()
                    warnings.append(classify(error, file=step.id, statement=statement))
                    self.context.events.emit(EventKind.WARNING, step=step.id, problem=warnings[-1])
                else:
                    seconds = time.monotonic() - began
                    self.context.events.emit(EventKind.OPTIMIZED, shown(table), step=step.id, seconds=seconds)
        return warnings

    def _loop(self, step: Step, loop: Loop, earlier: Sequence[Measure]) -> StepOutcome:
        """Run a loop to its end, from the first iteration that ``earlier`` lacks."""
        history, results = list(earlier), list[FileResult]()
        limit = loop.limit or self.max_iterations
        problem: Problem | None = None
        try:
            end = self._iterations(step, loop, history, results, limit)
        except StepFailedError as error:
            problem = error.problem
            measuring = problem.kind is Cause.MEASURE
            end = LoopEnd.MEASURE_FAILED if measuring else LoopEnd.FAILED
        except InterruptedRunError:
            end = LoopEnd.INTERRUPTED
        rows = [result.rows for result in results if result.rows is not None]
        return StepOutcome(
            id=step.id,
            status=_STATUSES.get(end, StepStatus.FAILED),
            statements=sum(result.statements for result in results),
            rows=sum(rows) if rows else None,
            warnings=tuple(warning for result in results for warning in result.warnings),
            iterations=tuple(history),
            iterations_before=len(earlier),
            end=end,
            problem=problem or _bad_end(end, history, limit),
        )

    def _iterations(
        self, step: Step, loop: Loop, history: list[Measure], results: list[FileResult], limit: int
    ) -> LoopEnd:
        """Run iterations and add their measures and results; return how the loop ended."""
        with self.context.retrying_session() as session:
            counter = ChangeCounter(
                session,
                key_columns=loop.key_columns,
                notice=lambda text: self.context.events.emit(EventKind.NOTICE, text, step=step.id),
            )
            while (end := judge_loop(history, limit=limit).end) is None:
                self.context.interruption.check()
                current = _iteration(loop, loop.first + len(history))
                result, measure = self._iterate(step, loop, current, counter, history)
                results.append(result)
                history.append(measure)
            if end is LoopEnd.CONVERGED:
                self._make_alias(loop, history[-1], session)
            return end

    def _make_alias(self, loop: Loop, last: Measure, session: RetryingSession) -> None:
        """Make the table that later files read as the loop's result; raise StepFailedError."""
        table = iteration(loop, last.n).table
        if loop.alias is None or table is None or loop.alias == table:
            return
        try:
            session.execute(f"CREATE OR REPLACE TABLE {quoted(loop.alias)} AS SELECT * FROM {quoted(table)}")
        except RlmError as error:
            self.context.interruption.check()
            raise StepFailedError.of(error, last.file, f"{shown(loop.alias)} could not be made") from None

    def _iterate(
        self, step: Step, loop: Loop, current: Iteration, counter: ChangeCounter, history: Sequence[Measure]
    ) -> tuple[FileResult, Measure]:
        started, began = self.context.clock(), time.monotonic()
        fields: dict[str, Any] = {"step": step.id, "iteration": current.number, "file": current.file.name}
        origin = "generated" if current.generated else ""
        self.context.events.emit(EventKind.ITERATION_STARTED, origin, **fields)
        ordinal = loop.ordinal(current.number)
        result = self._files.run(current.file, step=step.id, iteration=current.number, ordinal=ordinal)
        measure = self._measure(current, result, counter, history[-1] if history else None)
        measure = replace(measure, seconds=round(time.monotonic() - began, 3))
        self.context.append(
            StepRow(
                step=step.id,
                iteration=ordinal,
                status=DONE,
                file=current.file.name,
                sha256=current.file.sha256,
                started_at=started,
                finished_at=self.context.clock(),
                rows_affected=result.rows,
                changed=measure.changed,
                detail=asdict(measure),
            )
        )
        self.context.events.emit(
            EventKind.ITERATION_DONE,
            rows=measure.rows,
            changed=measure.changed,
            seconds=measure.seconds,
            **fields,
        )
        return result, measure

    def _measure(
        self, current: Iteration, result: FileResult, counter: ChangeCounter, last: Measure | None
    ) -> Measure:
        affected = result.by_table.get(current.table[-1]) if current.table else None
        try:
            return counter.measure(current, affected=affected, last=last)
        except RlmError as error:
            self.context.interruption.check()
            hint = f"This is not taken for convergence. {classify(error).hint}"
            raise StepFailedError.of(
                error,
                current.file.name,
                f"How many rows iteration {current.number} changed is not known",
                kind=Cause.MEASURE,
                severity=Severity.CRITICAL,
                hint=hint,
                outcome_unknown=False,
            ) from None


def _iteration(loop: Loop, number: int) -> Iteration:
    try:
        return iteration(loop, number)
    except UsageError as error:
        raise StepFailedError(
            Problem(
                kind=Cause.FILE,
                severity=Severity.CRITICAL,
                message=f"The loop has not converged, and there is no iteration {number}: {error.what}",
                hint=error.fix or "",
                file=loop.files[-1].name,
            )
        ) from None


def _bad_end(end: LoopEnd, history: Sequence[Measure], limit: int) -> Problem | None:
    """Return the problem of a loop that has not converged; None for other ends."""
    if end not in _HINTS:
        return None
    return Problem(
        kind=Cause.LOOP,
        severity=Severity.CRITICAL,
        message=f"The loop has not converged: {judge_loop(history, limit=limit).reason}.",
        hint=_HINTS[end],
        file=history[-1].file,
    )

"""A loop: iterations one after another until nothing changes, or it is clear that this will not come."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from databricks_rlm_agent.errors import RlmError, UsageError
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.sqlflow.model import Iteration, Loop, Step
from databricks_rlm_agent.sqlflow.plan.iterations import iteration
from databricks_rlm_agent.sqlflow.run.change_count import MeasureFailedError, Measurer
from databricks_rlm_agent.sqlflow.run.convergence import LoopEnd, Measure, judge
from databricks_rlm_agent.sqlflow.run.events import EventKind, Feed
from databricks_rlm_agent.sqlflow.run.files import FileResult, FileRunner, StepFailedError
from databricks_rlm_agent.sqlflow.run.interruption import InterruptedRunError, Interruption
from databricks_rlm_agent.sqlflow.run.record import DONE, Record, StepRow
from databricks_rlm_agent.sqltext.errors import Cause, Problem, Severity, classify
from databricks_rlm_agent.sqltext.names import quoted, shown
from databricks_rlm_agent.values import Clock, SqlEngine

_HINTS = {
    LoopEnd.NOT_CONVERGED: "Allow more with --max-iterations and --resume, or see whether it can converge.",
    LoopEnd.OSCILLATING: "Let an iteration never undo what the one before did: it must only ever take less "
    "(the least of all neighbours, one's own value included).",
}


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """How a loop ended, and what was measured; ``problem`` for every bad end."""

    end: LoopEnd
    history: tuple[Measure, ...]
    statements: int = 0
    rows: int | None = None
    warnings: tuple[Problem, ...] = ()
    problem: Problem | None = None


class LoopRunner:
    """Runs loops. Safe to use from several threads."""

    def __init__(
        self,
        files: FileRunner,
        engine: SqlEngine,
        record: Record,
        feed: Feed,
        interruption: Interruption,
        *,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files, self._engine, self._record = files, engine, record
        self._feed, self._interruption = feed, interruption
        self._clock, self._monotonic = clock, monotonic

    def run(self, step: Step, *, limit: int, earlier: Sequence[Measure]) -> LoopResult:
        """Run a loop to its end, from the first iteration that ``earlier`` lacks."""
        assert step.loop is not None
        loop, history, results = step.loop, list(earlier), list[FileResult]()
        with self._interruption.watching(
            RetryingSession(self._engine.session, self._interruption.wait)
        ) as session:
            measurer = Measurer(
                session,
                key_columns=loop.key_columns,
                notice=lambda text: self._feed.tell(EventKind.NOTICE, text, step=step.id),
                monotonic=self._monotonic,
            )
            try:
                while (verdict := judge(history, limit=limit)).end is None:
                    self._interruption.check()
                    now = _next(loop, loop.first + len(history))
                    result, measure = self._once(step, now, measurer, history[-1] if history else None)
                    results.append(result)
                    history.append(measure)
                if verdict.end is LoopEnd.CONVERGED:
                    self.name_last(loop, history[-1], session)
            except StepFailedError as error:
                measuring = error.problem.kind is Cause.MEASURE
                end = LoopEnd.MEASURE_FAILED if measuring else LoopEnd.FAILED
                return _result(end, history, results, error.problem)
            except InterruptedRunError:
                return _result(LoopEnd.INTERRUPTED, history, results, None)
        if verdict.end is LoopEnd.CONVERGED:
            return _result(verdict.end, history, results, None)
        problem = Problem(
            kind=Cause.LOOP,
            severity=Severity.CRITICAL,
            message=f"The loop has not converged: {verdict.reason}.",
            hint=_HINTS[verdict.end],
            file=history[-1].file,
        )
        return _result(verdict.end, history, results, problem)

    def accept(self, step: Step, last: Measure) -> None:
        """Let later files take the last iteration of a loop that has not converged; raise StepFailedError."""
        assert step.loop is not None
        with self._interruption.watching(
            RetryingSession(self._engine.session, self._interruption.wait)
        ) as session:
            self.name_last(step.loop, last, session)

    def name_last(self, loop: Loop, last: Measure, session: RetryingSession) -> None:
        """Make the table that names the last iteration's for later files; raise StepFailedError."""
        table = iteration(loop, last.n).table
        if loop.alias is None or table is None or loop.alias == table:
            return
        try:
            session.execute(f"CREATE OR REPLACE TABLE {quoted(loop.alias)} AS SELECT * FROM {quoted(table)}")
        except RlmError as error:
            self._interruption.check()
            problem = classify(error, file=last.file)
            raise StepFailedError(
                replace(problem, message=f"{shown(loop.alias)} could not be made: {problem.message}")
            ) from None

    def _once(
        self, step: Step, now: Iteration, measurer: Measurer, last: Measure | None
    ) -> tuple[FileResult, Measure]:
        assert step.loop is not None
        place = step.loop.place(now.number)
        started, began = self._clock(), self._monotonic()
        what = "generated" if now.generated else ""
        self._feed.tell(
            EventKind.ITERATION_STARTED, what, step=step.id, iteration=now.number, file=now.file.name
        )
        result = self._files.run(now.file, step=step.id, iteration=now.number, place=place)
        measure = self._measure(now, result, measurer, last)
        measure = replace(measure, seconds=round(self._monotonic() - began, 3))
        row = StepRow(
            step=step.id,
            iteration=place,
            status=DONE,
            file=now.file.name,
            sha256=now.file.sha256,
            started_at=started,
            finished_at=self._clock(),
            rows_affected=result.rows,
            changed=measure.changed,
            detail=measure.to_dict(),
        )
        put_on_record(self._record, row)
        self._feed.tell(
            EventKind.ITERATION_DONE,
            step=step.id,
            iteration=now.number,
            file=now.file.name,
            rows=measure.rows,
            changed=measure.changed,
            seconds=measure.seconds,
        )
        return result, measure

    def _measure(
        self, now: Iteration, result: FileResult, measurer: Measurer, last: Measure | None
    ) -> Measure:
        affected = result.by_table.get(now.table[-1]) if now.table else None
        try:
            return measurer.measure(now, affected=affected, last=last)
        except MeasureFailedError as failed:
            self._interruption.check()
            problem = classify(failed.error, file=now.file.name)
            raise StepFailedError(
                replace(
                    problem,
                    kind=Cause.MEASURE,
                    severity=Severity.CRITICAL,
                    message=f"How many rows iteration {now.number} changed is not known: {problem.message}",
                    hint=f"This is not taken for convergence. {problem.hint}",
                    outcome_unknown=False,
                )
            ) from None


def _next(loop: Loop, number: int) -> Iteration:
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


def put_on_record(record: Record, row: StepRow) -> None:
    """Record a row; raise StepFailedError, since a step that is not on record would be run again."""
    try:
        record.steps([row])
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


def _result(
    end: LoopEnd, history: Sequence[Measure], results: Sequence[FileResult], problem: Problem | None
) -> LoopResult:
    rows = [result.rows for result in results if result.rows is not None]
    return LoopResult(
        end=end,
        history=tuple(history),
        statements=sum(result.statements for result in results),
        rows=sum(rows) if rows else None,
        warnings=tuple(warning for result in results for warning in result.warnings),
        problem=problem,
    )

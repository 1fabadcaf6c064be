"""Runs a plan: stages one after another, the steps of a stage at the same time where none needs another."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from databricks_rlm_agent.errors import RlmError, UsageError
from databricks_rlm_agent.retry import WORKFLOWS, RetryPolicy
from databricks_rlm_agent.sqlflow.model import Plan, Step
from databricks_rlm_agent.sqlflow.report.plans import stage_name
from databricks_rlm_agent.sqlflow.run.checking import check_tables
from databricks_rlm_agent.sqlflow.run.events import EventEmitter, EventKind, Observer
from databricks_rlm_agent.sqlflow.run.exactly_once import CheckpointLog
from databricks_rlm_agent.sqlflow.run.execution import RunContext
from databricks_rlm_agent.sqlflow.run.outcome import (
    Report,
    RunStatus,
    StepOutcome,
    StepStatus,
    TableCheck,
    advice,
    blocked_by,
    critical_path,
    run_status,
)
from databricks_rlm_agent.sqlflow.run.record import Record, RecordedRun
from databricks_rlm_agent.sqlflow.run.resume import ResumeState, resume_state
from databricks_rlm_agent.sqlflow.run.sessions import Interruption, TakenOverError
from databricks_rlm_agent.sqlflow.run.steps import StepRunner
from databricks_rlm_agent.values import Clock, NewId, SqlEngine

_CANCEL_AGAIN_S = 0.5  # until all statements have ended: one may just be starting


class FailureDecision(StrEnum):
    """The decision after a step has failed. Steps that run go on to their end in any case."""

    STOP = "stop"
    CONTINUE = "continue"  # with the steps that do not need it
    RETRY = "retry"


Decide = Callable[[Step, StepOutcome], FailureDecision]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a run. ``resume``: go on with the newest unfinished run, or that of ``resume_id``.

    ``run_id``: go on with the run of that id, however it ended, or begin it: steps that have succeeded are
    kept. ``partial``: the plan is a part of a workflow, whose success does not end the run.
    """

    max_parallel: int = 4
    max_iterations: int = 30
    optimize: bool = False
    resume: bool = False
    resume_id: str | None = None
    run_id: str | None = None
    partial: bool = False


def stop(_step: Step, _outcome: StepOutcome) -> FailureDecision:
    """``--on-error stop``."""
    return FailureDecision.STOP


def go_on(_step: Step, _outcome: StepOutcome) -> FailureDecision:
    """``--on-error continue``."""
    return FailureDecision.CONTINUE


@dataclass(kw_only=True)
class Runner:
    """Runs one plan, once. ``interrupt`` may be called from any thread, and from a signal handler.

    ``place``: the catalog and schema of the record, for the report.
    """

    plan: Plan
    workflow: str
    engine: SqlEngine
    record: Record
    clock: Clock
    new_id: NewId
    options: Options = field(default_factory=Options)
    observer: Observer | None = None
    decide: Decide = stop
    retry: RetryPolicy = WORKFLOWS
    place: str | None = None

    def __post_init__(self) -> None:
        self._interruption = Interruption()
        self._events = EventEmitter(self.observer, self.clock)
        self._context = RunContext(
            engine=self.engine,
            record=self.record,
            checkpoints=CheckpointLog(self.record, self.clock),
            events=self._events,
            interruption=self._interruption,
            clock=self.clock,
            new_id=self.new_id,
            retry=self.retry,
        )
        self._steps = StepRunner(
            context=self._context,
            max_iterations=self.options.max_iterations,
            optimize=self.options.optimize,
        )
        self._outcomes: dict[str, StepOutcome] = {}
        self._stopping = False
        self._notices: list[str] = list(self.plan.notices)

    def interrupt(self) -> None:
        """End the run: cancel what runs, start nothing more. ``run`` returns soon after."""
        self._interruption.request()

    def run(self) -> Report:
        """Run the plan and return the report. Raise RlmError only if nothing can run."""
        try:
            run_id, started, resumed = self._begin()
        except TakenOverError as error:
            raise RlmError(str(error), fix="Let it go on, or end it and use --resume.") from None
        try:
            for stage, steps in self.plan.stages:
                if not (self._stopping or self._interruption.requested):
                    self._events.emit(EventKind.STAGE_STARTED, f"{stage_name(stage)}: {_counted(steps)}")
                self._run_stage(steps, resumed)
        finally:
            self._interruption.cancel()
        report = self._report(run_id, started)
        try:
            ended = report.status is not RunStatus.SUCCEEDED or not self.options.partial
            if self._interruption.taken_over is None:
                self.record.end(report.status.value if ended else "partial", report.to_dict())
        except (RlmError, TakenOverError) as error:
            report = replace(report, notices=(*report.notices, f"The end could not be recorded: {error}"))
        self._events.emit(EventKind.RUN_FINISHED, report.status.value, seconds=report.seconds)
        return report

    def _begin(self) -> tuple[str, datetime, ResumeState]:
        started, earlier = self.clock(), self._earlier_run()
        run_id = earlier.workflow_run_id if earlier else self.options.run_id or self.new_id("w")
        rows = self.record.begin(self.workflow, run_id, earlier.started_at if earlier else started)
        resumed = resume_state(self.plan, rows)
        if rows and not {row.step for row in rows} & {step.id for step in self.plan.steps}:
            self._notice(
                f"Run {run_id} has none of these files on record: another directory has the same name. "
                "Give each a name of its own in workflow.yml."
            )
        if rows := resumed.void_rows(self.plan, at=started):
            self.record.append(rows)
        self._context.checkpoints.load(resumed.checkpoints)
        self._events.emit(EventKind.RUN_STARTED, run_id)
        return run_id, started, resumed

    def _earlier_run(self) -> RecordedRun | None:
        """Return the run to go on with; None for a new one."""
        chosen = self.options.run_id or self.options.resume_id
        found = self.record.find_run(self.workflow, chosen)
        if self.options.run_id is not None:
            return found
        if not self.options.resume:
            if found is not None and found.status == RunStatus.RUNNING:
                self._notice(
                    f"Run {found.workflow_run_id} of {self.workflow} has no end on record: it was killed, or "
                    "still runs. This is a new one; --resume would have gone on with it."
                )
            return None
        if found is not None and found.status != RunStatus.SUCCEEDED:
            return found
        if self.options.resume_id:
            raise UsageError(
                f"No unfinished run {self.options.resume_id} of {self.workflow} is on record.",
                fix="Leave out the id for the newest one, or run without --resume.",
            )
        self._notice("There is no unfinished run to resume: everything runs.")
        return None

    def _run_stage(self, steps: Sequence[Step], resumed: ResumeState) -> None:
        pending = {step.id: step for step in steps}
        running: dict[Future[StepOutcome], Step] = {}
        with ThreadPoolExecutor(max(1, self.options.max_parallel), thread_name_prefix="sql") as pool:
            while True:
                self._start(pending, running, pool, resumed)
                if not running:
                    return
                for future in self._wait(running):
                    step = running.pop(future)
                    if self._settle(step, future.result()) is FailureDecision.RETRY:
                        pending[step.id] = step

    def _start(
        self,
        pending: dict[str, Step],
        running: dict[Future[StepOutcome], Step],
        pool: ThreadPoolExecutor,
        resumed: ResumeState,
    ) -> None:
        """Start the steps that can start; keep or skip others. In order, so that a skip reaches all below."""
        for step in list(pending.values()):
            full = len(running) >= self.options.max_parallel
            if full or self._stopping or self._interruption.requested:
                return
            unfinished = {*pending, *(other.id for other in running.values())}
            if any(need.step in unfinished for need in step.needs):
                continue
            del pending[step.id]
            history = resumed.history.get(step.id, ())
            if step.id in resumed.kept:
                self._outcomes[step.id] = StepOutcome(
                    id=step.id,
                    status=StepStatus.KEPT,
                    stage=step.stage,
                    iterations=history,
                    iterations_before=len(history),
                )
                self._events.emit(EventKind.STEP_KEPT, step=step.id)
            elif blocker := blocked_by(step, self._outcomes):
                self._outcomes[step.id] = StepOutcome(id=step.id, status=StepStatus.SKIPPED, stage=step.stage)
                self._events.emit(EventKind.STEP_SKIPPED, f"it needs {blocker}", step=step.id)
            else:
                failed = self._outcomes.get(step.id)
                earlier = failed.iterations if failed else history
                running[pool.submit(self._steps.run, step, earlier)] = step

    def _wait(self, running: dict[Future[StepOutcome], Step]) -> set[Future[StepOutcome]]:
        """Wait until a step has ended; cancel all of them if the run is to end."""
        announced = False
        while True:
            try:
                done, _running = wait(running, timeout=_CANCEL_AGAIN_S, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt:  # where nobody has installed a handler
                self.interrupt()
                continue
            if self._interruption.requested:
                if not announced:
                    self._events.emit(EventKind.INTERRUPTING, f"cancelling {_counted(running)}")
                    announced = True
                self._interruption.cancel()
            if done:
                return done

    def _settle(self, step: Step, outcome: StepOutcome) -> FailureDecision | None:
        """Keep the outcome of a step; return the decision about a failure."""
        self._outcomes[step.id] = outcome
        if outcome.status is not StepStatus.FAILED or self._interruption.requested:
            return None
        decision = self.decide(step, outcome)
        if decision is FailureDecision.STOP:
            self._stopping = True
        elif decision is FailureDecision.CONTINUE:
            self._outcomes[step.id] = self._steps.accept(step, outcome)
        return decision

    def _report(self, run_id: str, started: datetime) -> Report:
        outcomes = {
            step.id: self._outcomes.get(step.id)
            or StepOutcome(id=step.id, status=StepStatus.NOT_RUN, stage=step.stage)
            for step in self.plan.steps
        }
        steps = tuple(outcomes.values())
        tables: tuple[TableCheck, ...] = ()
        if not self._interruption.requested:
            tables = check_tables(self.plan, outcomes, self._context, parallel=self.options.max_parallel)
        taken_over = self._interruption.taken_over
        if taken_over is not None:
            self._notice(f"{taken_over} This process has stopped; what it did last is not on record.")
        interrupted = self._interruption.requested and taken_over is None
        path, path_seconds = critical_path(self.plan, {step.id: step.seconds for step in steps})
        report = Report(
            workflow_run_id=run_id,
            workflow=self.workflow,
            status=run_status(steps, tables, interrupted=interrupted),
            started_at=started,
            finished_at=self.clock(),
            steps=steps,
            path=path,
            path_seconds=round(path_seconds, 3),
            tables=tables,
            notices=tuple(self._notices),
            place=self.place,
            optimized=self.options.optimize,
        )
        return replace(report, next=advice(report))

    def _notice(self, text: str) -> None:
        self._notices.append(text)
        self._events.emit(EventKind.NOTICE, text)


def _counted(steps: Sized) -> str:
    return "1 step" if len(steps) == 1 else f"{len(steps)} steps"

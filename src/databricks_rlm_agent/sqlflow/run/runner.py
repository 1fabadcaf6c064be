"""Runs a plan: stages one after another, the steps of a stage side by side where none needs the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from databricks_rlm_agent.errors import RlmError, UsageError
from databricks_rlm_agent.retry import WORKFLOWS, RetryPolicy
from databricks_rlm_agent.sqlflow.checks import TableCheck
from databricks_rlm_agent.sqlflow.model import Plan, Step
from databricks_rlm_agent.sqlflow.report.plans import stage_name
from databricks_rlm_agent.sqlflow.run.checking import check_tables
from databricks_rlm_agent.sqlflow.run.events import EventKind, Feed, Observer, Silent
from databricks_rlm_agent.sqlflow.run.exactly_once import CheckpointLog
from databricks_rlm_agent.sqlflow.run.files import FileRunner
from databricks_rlm_agent.sqlflow.run.interruption import Interruption, TakenOverError
from databricks_rlm_agent.sqlflow.run.loops import LoopRunner
from databricks_rlm_agent.sqlflow.run.outcome import (
    Report,
    RunStatus,
    StepOutcome,
    StepStatus,
    advice,
    blocked,
    critical_path,
    status_of,
)
from databricks_rlm_agent.sqlflow.run.record import Earlier, Record, StepRow
from databricks_rlm_agent.sqlflow.run.resume import ResumeState, identity, resume_state
from databricks_rlm_agent.sqlflow.run.steps import StepRunner
from databricks_rlm_agent.values import Clock, NewId, SqlEngine

# How often a cancel is repeated until all statements have ended: one may just be starting.
_AGAIN_S = 0.5


class FailureDecision(StrEnum):
    """What is done after a step has failed. Steps that run go on to their end in any case."""

    STOP = "stop"
    CONTINUE = "continue"  # with the steps that do not need it
    RETRY = "retry"


Decide = Callable[[Step, StepOutcome], FailureDecision]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a workflow is run. ``resume``: go on with the newest unfinished run, or that of ``resume_id``.

    ``run_id``: go on with the run of that id, however it has ended, or begin it: what has succeeded succeeds
    again without running. ``partial``: the plan is a part of a workflow, which its success does not bring to
    an end.
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
    """Runs one plan, once. ``interrupt`` may be called from any thread, and from a signal handler."""

    plan: Plan
    workflow: str
    engine: SqlEngine
    record: Record
    clock: Clock
    new_id: NewId
    options: Options = field(default_factory=Options)
    observer: Observer = field(default_factory=Silent)
    decide: Decide = stop
    retry: RetryPolicy = WORKFLOWS
    monotonic: Callable[[], float] = time.monotonic
    place: str | None = None  # catalog and schema that the record is in, for the report

    def __post_init__(self) -> None:
        self._interruption = Interruption()
        self._feed = Feed(self.observer, self.clock)
        self._outcomes: dict[str, StepOutcome] = {}
        self._stopping = False
        self._notices: list[str] = list(self.plan.notices)
        self._notebook = CheckpointLog(self.record, self.clock)
        self._steps = self._step_runner()

    def interrupt(self) -> None:
        """End the workflow: cancel what runs, start nothing more. ``run`` returns soon after."""
        self._interruption.ask()

    def run(self) -> Report:
        """Run the plan, and report. Raises RlmError only before anything has run, or where nothing can."""
        try:
            run_id, started, before = self._begin()
        except TakenOverError as error:
            raise RlmError(str(error), fix="Let it go on, or end it and use --resume.") from None
        try:
            for stage, steps in self.plan.stages:
                if not (self._stopping or self._interruption.asked):
                    some = "1 step" if len(steps) == 1 else f"{len(steps)} steps"
                    self._feed.tell(EventKind.STAGE_STARTED, f"{stage_name(stage)}: {some}")
                self._stage(steps, before)
        finally:
            self._interruption.cancel()
        report = self._report(run_id, started)
        try:
            whole = report.status is not RunStatus.SUCCEEDED or not self.options.partial
            if self._interruption.taken_over is None:
                self.record.end(report.status.value if whole else "partial", report.to_dict())
        except (RlmError, TakenOverError) as error:
            report = replace(report, notices=(*report.notices, f"The end is not on record: {error}"))
        self._feed.tell(EventKind.RUN_FINISHED, report.status.value, seconds=report.seconds)
        return report

    def _begin(self) -> tuple[str, datetime, ResumeState]:
        started, earlier = self.clock(), self._earlier()
        run_id = earlier.workflow_run_id if earlier else self.options.run_id or self.new_id("w")
        rows = self.record.begin(self.workflow, run_id, earlier.started_at if earlier else started)
        before = resume_state(self.plan, rows)
        if rows and not {row.step for row in rows} & {step.id for step in self.plan.steps}:
            self._notice(
                f"Run {run_id} has none of these files on record: another directory has the same name. "
                "Give each a name of its own in workflow.yml."
            )
        self._void(before, started)
        self._notebook.load(before.notes)
        self._feed.tell(EventKind.RUN_STARTED, run_id)
        return run_id, started, before

    def _earlier(self) -> Earlier | None:
        """The run to go on with."""
        wanted = self.options.run_id or self.options.resume_id
        found = self.record.named(wanted) if wanted else self.record.newest(self.workflow)
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
                fix="Leave the id away for the newest one, or run without --resume.",
            )
        self._notice("There is no unfinished run to resume: everything runs.")
        return None

    def _void(self, before: ResumeState, now: datetime) -> None:
        steps = {step.id: step for step in self.plan.steps}
        rows = [
            StepRow(
                step=name,
                iteration=n,
                status=status,
                file=name,
                sha256=identity(steps[name]),
                started_at=now,
                finished_at=now,
            )
            for name, n, status in before.void
        ]
        if rows:
            self.record.steps(rows)

    def _stage(self, steps: Sequence[Step], before: ResumeState) -> None:
        pending = {step.id: step for step in steps}
        running: dict[Future[StepOutcome], Step] = {}
        with ThreadPoolExecutor(max(1, self.options.max_parallel), thread_name_prefix="sql") as pool:
            while True:
                self._start(pending, running, pool, before)
                if not running:
                    return
                for future in self._ended(running):
                    step = running.pop(future)
                    if self._settle(step, future.result()) is FailureDecision.RETRY:
                        pending[step.id] = step

    def _start(
        self,
        pending: dict[str, Step],
        running: dict[Future[StepOutcome], Step],
        pool: ThreadPoolExecutor,
        before: ResumeState,
    ) -> None:
        """Start what can; put down what cannot any more. In their order, so that a skip reaches all below."""
        for step in list(pending.values()):
            if self._stopping or self._interruption.asked:
                return
            if len(running) >= self.options.max_parallel:
                return
            waits_for = {*pending, *(other.id for other in running.values())}
            if any(need.step in waits_for for need in step.needs):
                continue
            del pending[step.id]
            if step.id in before.kept:
                kept = before.history.get(step.id, ())
                self._outcomes[step.id] = StepOutcome(
                    id=step.id,
                    status=StepStatus.KEPT,
                    stage=step.stage,
                    iterations=kept,
                    iterations_before=len(kept),
                )
                self._feed.tell(EventKind.STEP_KEPT, step=step.id)
            elif culprit := blocked(step, self._outcomes):
                self._outcomes[step.id] = StepOutcome(id=step.id, status=StepStatus.SKIPPED, stage=step.stage)
                self._feed.tell(EventKind.STEP_SKIPPED, f"it needs {culprit}", step=step.id)
            else:
                failed = self._outcomes.get(step.id)
                earlier = failed.iterations if failed else before.history.get(step.id, ())
                running[pool.submit(self._steps.run, step, earlier)] = step

    def _ended(self, running: dict[Future[StepOutcome], Step]) -> set[Future[StepOutcome]]:
        told = False
        while True:
            try:
                done, _going = wait(running, timeout=_AGAIN_S, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt:  # where nobody has installed a handler
                self.interrupt()
                continue
            if self._interruption.asked:
                if not told:
                    self._feed.tell(EventKind.INTERRUPTING, f"cancelling {len(running)} steps")
                    told = True
                self._interruption.cancel()
            if done:
                return done

    def _settle(self, step: Step, outcome: StepOutcome) -> FailureDecision | None:
        self._outcomes[step.id] = outcome
        if outcome.status is not StepStatus.FAILED or self._interruption.asked:
            return None
        decision = self.decide(step, outcome)
        if decision is FailureDecision.STOP:
            self._stopping = True
        elif decision is FailureDecision.CONTINUE:
            self._outcomes[step.id] = self._steps.accept(step, outcome)
        return decision

    def _report(self, run_id: str, started: datetime) -> Report:
        steps = tuple(
            self._outcomes.get(step.id)
            or StepOutcome(id=step.id, status=StepStatus.NOT_RUN, stage=step.stage)
            for step in self.plan.steps
        )
        tables: tuple[TableCheck, ...] = ()
        if not self._interruption.asked:
            tables = check_tables(
                self.plan,
                {step.id: step for step in steps},
                self.engine,
                feed=self._feed,
                interruption=self._interruption,
                parallel=self.options.max_parallel,
            )
        taken_over = self._interruption.taken_over
        if taken_over is not None:
            self._notice(f"{taken_over} This process has stopped; what it did last is not on record.")
        interrupted = self._interruption.asked and taken_over is None
        status = status_of(steps, tables, interrupted=interrupted)
        path, seconds = critical_path(self.plan, {step.id: step.seconds for step in steps})
        report = Report(
            workflow_run_id=run_id,
            workflow=self.workflow,
            status=status,
            started_at=started,
            finished_at=self.clock(),
            steps=steps,
            path=path,
            path_seconds=round(seconds, 3),
            tables=tables,
            notices=tuple(self._notices),
            place=self.place,
            optimized=self.options.optimize,
        )
        return replace(report, next=advice(report))

    def _notice(self, text: str) -> None:
        self._notices.append(text)
        self._feed.tell(EventKind.NOTICE, text)

    def _step_runner(self) -> StepRunner:
        files = FileRunner(
            self.engine,
            self._feed,
            self._interruption,
            record=self.record,
            notebook=self._notebook,
            new_id=self.new_id,
            retry=self.retry,
            monotonic=self.monotonic,
        )
        loops = LoopRunner(
            files,
            self.engine,
            self.record,
            self._feed,
            self._interruption,
            clock=self.clock,
            monotonic=self.monotonic,
        )
        return StepRunner(
            files=files,
            loops=loops,
            engine=self.engine,
            record=self.record,
            feed=self._feed,
            interruption=self._interruption,
            clock=self.clock,
            max_iterations=self.options.max_iterations,
            optimize=self.options.optimize,
            monotonic=self.monotonic,
        )

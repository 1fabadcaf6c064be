"""Advance one claimed run as far as it goes without waiting: ingest, fold, plan, publish, submit."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

from databricks_rlm_agent.attempts.manifest import Closing, ClosingEvent, Manifest, PlanRecord
from databricks_rlm_agent.controller.children import Children
from databricks_rlm_agent.controller.evidence import Evidence, refusal
from databricks_rlm_agent.controller.ingest import Ingester
from databricks_rlm_agent.controller.input_profile import InputProfiler
from databricks_rlm_agent.controller.journal import CallRecord, Journal
from databricks_rlm_agent.controller.publish import Publisher, sub_model
from databricks_rlm_agent.errors import InvalidData, ModelOutage, RlmError
from databricks_rlm_agent.layout import MANIFEST, Namespace
from databricks_rlm_agent.logs import bound
from databricks_rlm_agent.ports import Planner, planning_context
from databricks_rlm_agent.retry import is_transient, pause_s
from databricks_rlm_agent.runs.actions import Action, Ask, Finish, RunPython, RunSqlWorkflow, Spawn
from databricks_rlm_agent.runs.budget import Usage
from databricks_rlm_agent.runs.fsm import Event, State
from databricks_rlm_agent.runs.run import Run, RunOutcome
from databricks_rlm_agent.values import Clock
from executor_harness.protocol import ChildTask

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunAdvancer:
    """Advances claimed runs. Safe to use from several threads: it holds no state of its own."""

    planner: Planner
    publisher: Publisher
    ingester: Ingester
    children: Children
    profiler: InputProfiler
    evidence: Evidence
    namespace: Namespace
    clock: Clock
    jitter: Callable[[], float] = random.random

    def advance(
        self,
        run: Run,
        journal: Journal,
        *,
        reported: bool,
        lease_lapsed: bool,
        lease_held: Callable[[], bool] = lambda: True,
    ) -> Run:
        """Return the run after all that can be done now. ``lease_held`` tells whether its lease still holds.

        ``lease_lapsed`` says that an earlier holder's lease lapsed: it may have published already, or be
        about to. A transient error leaves the run at its last consistent state, to be claimed again; any
        other ends this run, and never the others of the tick.
        """
        goes_on = replace(run, outcome=run.outcome.without_wait)
        record = CallRecord(volume=self.publisher.volume, namespace=self.namespace, run=run)
        journal.record = record
        claimed = _ClaimedRun(
            advancer=self, run=goes_on, journal=journal, may_race=lease_lapsed, lease_held=lease_held
        )
        try:
            claimed.account_for_the_lost(record)
            claimed.advance(reported=reported)
        except RlmError as error:
            if is_transient(error):  # anything else of ours ends the run with its reason
                log.warning("%s The run stays as it is and is tried again.", error)
                journal.transient(error)
                claimed.run = self._waiting(claimed.run, run, error)
            else:
                claimed.give_up(error)
        except Exception as error:  # a fault of our own: the run ends with it as its reason
            log.error("%r", error, exc_info=log.isEnabledFor(logging.INFO))
            claimed.give_up(RlmError(f"Internal error: {type(error).__name__}: {error}"))
        if not claimed.accounted:  # the next claim has to
            return claimed.run
        budget = claimed.run.budget.reported(run.lease_epoch, recorded=record.last)
        return replace(claimed.run, budget=budget)

    def _waiting(self, after: Run, before: Run, error: RlmError) -> Run:
        """Return the run when it waits for what the error was about, since it first did."""
        retry_after_s, jitter = getattr(error, "retry_after", None), self.jitter()
        return after.waiting(
            before.outcome,
            waits_for="model" if isinstance(error, ModelOutage) else "workspace",
            reason=str(error),
            now=self.clock(),
            pause=lambda waited_s: pause_s(waited_s, retry_after_s=retry_after_s, jitter=jitter),
        )


@dataclass(kw_only=True)
class _ClaimedRun:
    """One claimed run while it is advanced. ``run`` is always at the last state that may be saved.

    ``may_race``: another controller may have decided about the current attempt, or be about to. ``lost`` is
    what earlier claims have asked that never reported, by epoch.
    """

    advancer: RunAdvancer
    run: Run
    journal: Journal
    may_race: bool
    lease_held: Callable[[], bool]
    lost: dict[int, Usage] = field(default_factory=dict)
    accounted: bool = False

    def account_for_the_lost(self, record: CallRecord) -> None:
        """Count what claims have asked that never reported, as far as their record tells."""
        if self.run.budget.unreported(self.run.lease_epoch):
            self.lost = record.take_over()
            self.run = self.run.spent(sum(self.lost.values(), Usage()))
        self.accounted = True

    def advance(self, *, reported: bool) -> None:
        # One that left the run in PLANNING after an error may have published a manifest before.
        self.may_race = self.may_race or self.run.fsm_state is State.PLANNING
        if self.run.fsm_state is State.WAITING_FOR_CHILDREN:
            self.run = self.advancer.children.collect(self.run, self.journal) or self.run
        if self.run.fsm_state is State.PENDING:
            self.run = self.journal.transition(self.run, self.run.after(Event.CLAIM))
        if self.run.fsm_state in {State.EXECUTING, State.INGESTING}:
            self._find_job_run()
            if not self._ingested(reported=reported):
                return
        if self.run.fsm_state is State.PLANNING:
            with bound(iteration=self.run.iter_n, attempt=self.run.attempt):  # the next one, after a result
                self._decide()
        elif self.run.fsm_state is State.WAITING_FOR_INPUT and self.run.cancel_reason is not None:
            self._end(Event.CANCEL, RunOutcome(reason=self.run.cancel_reason))

    def _decide(self) -> None:
        intent = self._intent()
        self._adopt(intent.plan)  # if the decision on record is another's, count what that plan has cost
        if isinstance(intent, Manifest):
            self._submit(intent)
        else:
            self._close(intent)

    def give_up(self, error: RlmError) -> None:
        """End the run with a reason."""
        if isinstance(error, InvalidData) and (error.where or "").endswith(MANIFEST):
            self.journal.event("rejected_manifest", path=error.where, reason=error.what)
        log.error("%s The run ends FAILED.", error)
        if self.run.fsm_state is State.EXECUTING:  # its job run is unreadable: nothing will ever come of it
            self.run = replace(self.run, fsm_state=State.INGESTING)
        if self.run.fsm_state is State.WAITING_FOR_CHILDREN:
            self._abandon(str(error))
        self._end(Event.GIVE_UP, RunOutcome(reason=str(error)))

    def _abandon(self, reason: str) -> None:
        try:
            self.advancer.children.abandon(self.run, reason=reason)
        except RlmError as error:
            log.error("Its child runs could not be cancelled: %s", error)

    def _find_job_run(self) -> None:
        """Find the job run of a damaged row by its manifest: the same token gives the same job run."""
        if self.run.job_run_id is not None:
            return
        intent = self.advancer.publisher.intent(self.run.key)
        if isinstance(intent, Manifest):
            _, last_request = self.advancer.publisher.submit(intent)
            self.run = replace(self.run, last_request=last_request)

    def _ingested(self, *, reported: bool) -> bool:
        waiting = self.run
        run = waiting.after(Event.TERMINAL) if waiting.fsm_state is State.EXECUTING else waiting
        run = self.advancer.ingester.ingest(run, self.journal, reported=reported)
        if run.fsm_state is State.INGESTING:
            return False
        self.run = run
        return True

    def _intent(self) -> Manifest | Closing:
        """Return what becomes of the current attempt: what was decided before, or what is decided now."""
        publisher, run = self.advancer.publisher, self.run
        found = publisher.intent(run.key) if self.may_race else None
        if found is not None:
            self.journal.event("adopted_manifest", iter_n=run.iter_n, attempt=run.attempt)
            return found
        if run.cancel_reason is not None:
            return self._closing(Event.CANCEL, RunOutcome(reason=run.cancel_reason))
        used_up = run.budget.exhausted(run.iter_n, age_s=run.age_s(self.advancer.clock()))
        if used_up:
            return self._closing(Event.GIVE_UP, RunOutcome(reason=used_up))
        return publisher.publish_again(run) if run.attempt > 1 else self._planned()

    def _planned(self) -> Manifest | Closing:
        """Ask the planner; return its decision, on record."""
        self._profile_inputs()
        context = planning_context(
            self.run,
            used_calls=self.journal.usage.calls,
            record=self.journal.record,
            sub_model=sub_model(self.advancer.publisher.settings, self.run),
            lease_held=self.lease_held,
            review=self._review,
        )
        planned = self.advancer.planner.plan(context)
        self.journal.model_calls(planned.calls, iter_n=self.run.iter_n)
        self.journal.notes(planned.notes, iter_n=self.run.iter_n)
        self.run = self.run.spent(planned.usage)  # what it cost stays, whatever fails below
        if planned.fault is not None:
            raise planned.fault
        match planned.action:
            case RunPython() | RunSqlWorkflow() as action:
                return self.advancer.publisher.publish(self.run, action, self._plan())
            case Finish(answer=answer, evidence=evidence):
                return self._closing(Event.FINISH, RunOutcome(answer=answer, evidence=evidence))
            case Ask(question=question):
                return self._closing(Event.ASK, RunOutcome(question=question))
            case Spawn(tasks=tasks):
                return self._closing(Event.SPAWN, RunOutcome(), tasks=tasks)
            case None:
                reason = planned.failure or "The planner gave no action and no reason."
                return self._closing(Event.GIVE_UP, RunOutcome(reason=reason))

    def _profile_inputs(self) -> None:
        capsule = self.run.capsule
        if capsule.inputs and not capsule.input_notes:
            notes = self.advancer.profiler.notes(capsule.inputs)
            self.run = replace(self.run, capsule=capsule.with_input_notes(notes))

    def _review(self, action: Action) -> str | None:
        """Return why an action is refused for reasons that the planner does not know; None if it is not."""
        if isinstance(action, Spawn):
            return self.advancer.children.refusal(self.run, action.tasks)
        if isinstance(action, RunSqlWorkflow):
            return self.advancer.publisher.workflows.refusal(action)
        if isinstance(action, Finish) and (checks := self.run.capsule.checks):
            findings = self.advancer.evidence.verify(checks)
            documents = [finding.to_dict() for finding in findings]
            self.journal.event("evidence", iter_n=self.run.iter_n, findings=documents)
            return refusal(findings)
        return None

    def _plan(self) -> PlanRecord:
        """Return who decides, and what models used since the claim, for a summary too."""
        return PlanRecord(epoch=self.run.lease_epoch, usage=self.journal.usage)

    def _closing(
        self, event: ClosingEvent, outcome: RunOutcome, *, tasks: Sequence[ChildTask] = ()
    ) -> Manifest | Closing:
        """Decide that the attempt runs no program; put it on record where another may be about to decide.

        A decision to spawn always is: whoever finds it makes the same child runs, and no others.
        """
        closing = Closing(
            **asdict(self.run.key),
            closing=event,
            outcome=outcome.to_dict(),
            tasks=list(tasks),
            plan=self._plan(),
        )
        recorded = self.may_race or event is Event.SPAWN
        return self.advancer.publisher.close(closing) if recorded else closing

    def _adopt(self, plan: PlanRecord | None) -> None:
        """Count what the plan of a lost claim says that it used, in place of what its record says."""
        if plan is not None and (known := self.lost.pop(plan.epoch, None)) is not None:
            self.run = replace(self.run, budget=self.run.budget.adopt(plan.usage, known=known))

    def _submit(self, manifest: Manifest) -> None:
        row, last_request = self.advancer.publisher.submit(manifest)
        self.journal.requests.append(row)
        after = self.run.after(
            Event.SUBMITTED,
            last_request=last_request,
            budget=self.run.budget.starting(manifest.request.timeout_s),
        )
        self.run = self.journal.transition(
            self.run, after, databricks_run_id=row.databricks_run_id, purpose=last_request.purpose
        )

    def _close(self, closing: Closing) -> None:
        if closing.closing is Event.SPAWN:
            self.run = self.advancer.children.spawn(self.run, closing.tasks, self.journal)
        else:
            self._end(closing.closing, RunOutcome(**closing.outcome))

    def _end(self, event: Event, outcome: RunOutcome) -> None:
        after = self.run.after(event, outcome=outcome)
        self.run = self.journal.transition(self.run, after, reason=outcome.reason, question=outcome.question)

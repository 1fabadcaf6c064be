"""Advance one claimed run as far as it goes without waiting: ingest, fold, plan, publish, submit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from databricks_rlm_agent.attempts.manifest import Closing, ClosingEvent, Manifest, PlanRecord
from databricks_rlm_agent.controller.children import Children
from databricks_rlm_agent.controller.evidence import Evidence, refusal
from databricks_rlm_agent.controller.ingest import Ingester
from databricks_rlm_agent.controller.input_profile import InputProfiler
from databricks_rlm_agent.controller.journal import Journal
from databricks_rlm_agent.controller.publish import Publisher
from databricks_rlm_agent.errors import InvalidData, RlmError
from databricks_rlm_agent.layout import MANIFEST
from databricks_rlm_agent.logs import bound
from databricks_rlm_agent.ports import Clock, Planner, planning_context
from databricks_rlm_agent.retry import is_transient
from databricks_rlm_agent.runs.actions import Action, Ask, Finish, RunPython, RunSqlWorkflow, Spawn
from databricks_rlm_agent.runs.children import ChildTask
from databricks_rlm_agent.runs.fsm import Event, State
from databricks_rlm_agent.runs.run import Run, RunOutcome

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Stepper:
    """Advances runs. Safe to use from several threads: it holds no state of its own."""

    planner: Planner
    publisher: Publisher
    ingester: Ingester
    children: Children
    profiler: InputProfiler
    evidence: Evidence
    clock: Clock

    def advance(
        self,
        run: Run,
        journal: Journal,
        *,
        reported: bool,
        interrupted: bool,
        held: Callable[[], bool] = lambda: True,
    ) -> Run:
        """The run after all that can be done now. ``held`` tells whether its lease still holds.

        ``interrupted`` says that an earlier holder's lease lapsed: it may have published already, or be about
        to. So may one that left the run in PLANNING after a fault. A passing fault leaves the run at the last
        state that is whole, to be claimed again; any other ends this run, and never the others of the tick.
        """
        context = _RunStep(stepper=self, run=run, journal=journal, contested=interrupted, held=held)
        try:
            context.advance(reported=reported)
        except RlmError as error:
            if is_transient(error):  # anything else of ours ends the run with its reason
                log.warning("%s The run stays as it is and is tried again.", error)
                journal.passing(error)
            else:
                context.give_up(error)
        except Exception as error:  # a fault of our own: the run ends with it as its reason
            log.error("%r", error, exc_info=log.isEnabledFor(logging.INFO))
            context.give_up(RlmError(f"Internal error: {type(error).__name__}: {error}"))
        return replace(context.run, budget=context.run.budget.settle(run.lease_epoch))


@dataclass(kw_only=True)
class _RunStep:
    """One claimed run while it is advanced. ``run`` is always at the last state that is whole."""

    stepper: Stepper
    run: Run
    journal: Journal
    contested: bool
    held: Callable[[], bool]

    def advance(self, *, reported: bool) -> None:
        self.contested = self.contested or self.run.fsm_state is State.PLANNING
        if self.run.fsm_state is State.WAITING_FOR_CHILDREN:
            self.run = self.stepper.children.collect(self.run, self.journal) or self.run
        if self.run.fsm_state is State.PENDING:
            self.run = self.journal.transition(self.run, self.run.after(Event.CLAIM))
        if self.run.fsm_state in {State.EXECUTING, State.INGESTING}:
            self._recall()
            if not self._ingested(reported=reported):
                return
        if self.run.fsm_state is State.PLANNING:
            with bound(iteration=self.run.iter_n, attempt=self.run.attempt):  # the next one, after a result
                self._decide()
        elif self.run.fsm_state is State.WAITING_FOR_INPUT and self.run.cancel_reason is not None:
            self._end(Event.CANCEL, RunOutcome(reason=self.run.cancel_reason))

    def _decide(self) -> None:
        intent = self._intent()
        if isinstance(intent, Manifest):
            self._submit(intent)
        elif intent is not None:
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
        """Leave no child run behind that works for nobody."""
        try:
            self.stepper.children.abandon(self.run, reason=reason)
        except RlmError as error:
            log.error("Its child runs could not be cancelled: %s", error)

    def _recall(self) -> None:
        """Find the job run of a damaged row: its manifest is there, and the same token gives the same run."""
        if self.run.job_run_id is not None:
            return
        intent = self.stepper.publisher.intent(self.run.key)
        if isinstance(intent, Manifest):
            _, last_request = self.stepper.publisher.submit(intent)
            self.run = replace(self.run, last_request=last_request)

    def _ingested(self, *, reported: bool) -> bool:
        waiting = self.run
        run = waiting.after(Event.TERMINAL) if waiting.fsm_state is State.EXECUTING else waiting
        run = self.stepper.ingester.ingest(run, self.journal, reported=reported)
        if run.fsm_state is State.INGESTING:
            return False
        self.run = run
        return True

    def _intent(self) -> Manifest | Closing | None:
        """What becomes of the current attempt: what somebody decided before, or what is decided now."""
        publisher, run = self.stepper.publisher, self.run
        found = publisher.intent(run.key) if self.contested else None
        if found is not None:
            self.journal.event("adopted_manifest", iter_n=run.iter_n, attempt=run.attempt)
            if found.plan is not None:
                self.run = replace(run, budget=run.budget.adopt(found.plan.epoch, found.plan.usage))
            return found
        if run.cancel_reason is not None:
            return self._closing(Event.CANCEL, RunOutcome(reason=run.cancel_reason))
        used_up = run.budget.settle(run.lease_epoch).exhausted(
            run.iter_n, age_s=run.age_s(self.stepper.clock())
        )
        if used_up:
            return self._closing(Event.GIVE_UP, RunOutcome(reason=used_up))
        return publisher.publish_again(run) if run.attempt > 1 else self._planned()

    def _planned(self) -> Manifest | Closing:
        """The planner's decision, on record."""
        self._survey()
        context = planning_context(
            self.run,
            used_calls=self.journal.usage.calls,
            sub_model=self.stepper.publisher.models.of(self.run),
            held=self.held,
            review=self._review,
        )
        planned = self.stepper.planner.plan(context)
        self.journal.model_calls(planned.calls, iter_n=self.run.iter_n)
        self.journal.notes(planned.notes, iter_n=self.run.iter_n)
        self.run = self.run.spent(planned.usage)  # what it cost stays, whatever fails below
        if planned.fault is not None:
            raise planned.fault
        match planned.action:
            case RunPython() | RunSqlWorkflow() as action:
                return self._counting(self.stepper.publisher.publish(self.run, action, self._plan()))
            case Finish(answer=answer, evidence=evidence):
                return self._closing(Event.FINISH, RunOutcome(answer=answer, evidence=evidence))
            case Ask(question=question):
                return self._closing(Event.ASK, RunOutcome(question=question))
            case Spawn(tasks=tasks):
                return self._closing(Event.SPAWN, RunOutcome(), tasks=tasks)
            case None:
                reason = planned.failure or "The planner gave no action and no reason."
                return self._closing(Event.GIVE_UP, RunOutcome(reason=reason))

    def _survey(self) -> None:
        """Have the inputs looked at, once in a run."""
        capsule = self.run.capsule
        if capsule.inputs and not capsule.input_notes:
            notes = self.stepper.profiler.notes(capsule.inputs)
            self.run = replace(self.run, capsule=capsule.with_input_notes(notes))

    def _review(self, action: Action) -> str | None:
        """Why an action cannot be taken, as far as it is not the planner's own affair; None if it can."""
        if isinstance(action, Spawn):
            return self.stepper.children.refusal(self.run, action.tasks)
        if isinstance(action, RunSqlWorkflow):
            return self.stepper.publisher.workflows.refusal(action)
        if isinstance(action, Finish) and (checks := self.run.capsule.checks):
            findings = self.stepper.evidence.verify(checks)
            said = [finding.to_dict() for finding in findings]
            self.journal.event("evidence", iter_n=self.run.iter_n, findings=said)
            return refusal(findings)
        return None

    def _plan(self) -> PlanRecord:
        """Who decides, and all that this turn has used: a summary is lost with a turn as its plan is."""
        return PlanRecord(epoch=self.run.lease_epoch, usage=self.journal.usage)

    def _closing(
        self, event: ClosingEvent, outcome: RunOutcome, *, tasks: Sequence[ChildTask] = ()
    ) -> Manifest | Closing:
        """The decision that the attempt runs no program; on record where another may be about to decide.

        One to spawn always is: whoever finds it makes the same child runs, and no others.
        """
        closing = Closing(
            **asdict(self.run.key),
            closing=event,
            outcome={name: value for name, value in asdict(outcome).items() if value is not None},
            tasks=list(tasks),
            plan=self._plan(),
        )
        recorded = self.contested or event is Event.SPAWN
        return self._counting(self.stepper.publisher.close(closing)) if recorded else closing

    def _counting(self, intent: Manifest | Closing) -> Manifest | Closing:
        """The decision that counts; if it is another's, what that one's plan cost counts as well."""
        if intent.plan is not None and intent.plan.epoch != self.run.lease_epoch:
            budget = self.run.budget.adopt(intent.plan.epoch, intent.plan.usage)
            self.run = replace(self.run, budget=budget)
        return intent

    def _submit(self, manifest: Manifest) -> None:
        row, last_request = self.stepper.publisher.submit(manifest)
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
            self.run = self.stepper.children.spawn(self.run, closing.tasks, self.journal)
        else:
            self._end(closing.closing, RunOutcome(**closing.outcome))

    def _end(self, event: Event, outcome: RunOutcome) -> None:
        after = self.run.after(event, outcome=outcome)
        self.run = self.journal.transition(self.run, after, reason=outcome.reason, question=outcome.question)

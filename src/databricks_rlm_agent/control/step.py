"""Advance one claimed run as far as it goes without waiting: ingest, fold, plan, publish, submit."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from databricks_rlm_agent.control.ingest import Ingester, turn_of
from databricks_rlm_agent.control.journal import Journal
from databricks_rlm_agent.control.publish import Publisher
from databricks_rlm_agent.domain.actions import Ask, Finish, RunPython
from databricks_rlm_agent.domain.fsm import Event, State
from databricks_rlm_agent.domain.manifest import Manifest
from databricks_rlm_agent.domain.run import Outcome, Run
from databricks_rlm_agent.errors import Conflict, RlmError, Throttled, Unreachable
from databricks_rlm_agent.ports import Planner

log = logging.getLogger(__name__)
# What may be different the next time; anything else of ours ends the run with its reason.
_PASSING = (Unreachable, Throttled, Conflict)


@dataclass(frozen=True, kw_only=True)
class Stepper:
    """Advances runs. Safe to use from several threads: it holds no state of its own."""

    planner: Planner
    publisher: Publisher
    ingester: Ingester

    def advance(self, run: Run, journal: Journal, *, reported: bool, interrupted: bool) -> Run:
        """The run after all that can be done now.

        ``interrupted`` says that an earlier holder's lease lapsed: it may have published already. So may one
        that left the run in PLANNING after a fault. A passing fault leaves the run at the last state that is
        whole, to be claimed again; any other ends this run, and never the others of the tick.
        """
        published = interrupted or run.fsm_state is State.PLANNING
        try:
            if run.fsm_state is State.PENDING:
                run = journal.transition(run, run.after(Event.CLAIM))
            if run.fsm_state in {State.EXECUTING, State.INGESTING}:
                waiting = run
                run = run.after(Event.TERMINAL) if run.fsm_state is State.EXECUTING else run
                run = self.ingester.ingest(run, journal, reported=reported)
                if run.fsm_state is State.INGESTING:
                    return waiting
            if run.fsm_state is State.PLANNING:
                manifest = self._published(run, journal, look=published)
                if manifest is None:
                    run, program = self._plan(run, journal)  # what it cost stays, whatever fails below
                    if program is None:
                        return run
                    manifest = self.publisher.publish(run, program)
                run = self._submit(run, manifest, journal)
        except _PASSING as error:
            log.warning("run %s: %s; it is tried again", run.run_id, error)
            journal.event("passing_error", error=type(error).__name__, message=str(error))
        except RlmError as error:
            log.error("run %s: %s", run.run_id, error)
            run = self._give_up(run, journal, str(error))
        except Exception as error:  # a fault of our own: the run ends with it as its reason
            log.error("run %s: %r", run.run_id, error, exc_info=log.isEnabledFor(logging.INFO))
            run = self._give_up(run, journal, f"Internal error: {type(error).__name__}: {error}")
        return run

    def _published(self, run: Run, journal: Journal, *, look: bool) -> Manifest | None:
        adopted = self.publisher.adopt(run.key) if look else None
        if adopted is not None:
            journal.event("adopted_manifest", iter_n=run.iter_n, attempt=run.attempt)
            return adopted
        return self.publisher.publish_again(run.key) if run.attempt > 1 else None

    def _plan(self, run: Run, journal: Journal) -> tuple[Run, RunPython | None]:
        """The run after the planner's decision, and the program if it decided on one."""
        if reason := run.budget.exhausted(run.iter_n):
            return self._end(run, journal, Event.GIVE_UP, Outcome(reason=reason)), None
        planned = self.planner.plan(turn_of(run))
        journal.model_calls(planned.calls, iter_n=run.iter_n)
        journal.notes(planned.notes, iter_n=run.iter_n)
        run = run.spent(planned.usage)
        match planned.action:
            case RunPython() as action:
                return run, action
            case Finish(answer=answer, evidence=evidence):
                event, outcome = Event.FINISH, Outcome(answer=answer, evidence=evidence)
            case Ask(question=question):
                event, outcome = Event.ASK, Outcome(question=question)
            case None:
                reason = planned.failure or "The planner gave no action and no reason."
                event, outcome = Event.GIVE_UP, Outcome(reason=reason)
        return self._end(run, journal, event, outcome), None

    def _submit(self, run: Run, manifest: Manifest, journal: Journal) -> Run:
        row, last_request = self.publisher.submit(manifest)
        journal.requests.append(row)
        after = run.after(Event.SUBMITTED, last_request=last_request)
        return journal.transition(
            run, after, databricks_run_id=row.databricks_run_id, purpose=last_request["purpose"]
        )

    def _end(self, run: Run, journal: Journal, event: Event, outcome: Outcome) -> Run:
        after = run.after(event, outcome=outcome)
        return journal.transition(run, after, reason=outcome.reason, question=outcome.question)

    def _give_up(self, run: Run, journal: Journal, reason: str) -> Run:
        if run.fsm_state is State.EXECUTING:  # its job run is unreadable: nothing will ever come of it
            run = replace(run, fsm_state=State.INGESTING)
        return self._end(run, journal, Event.GIVE_UP, Outcome(reason=reason))

"""One bounded pass over all due runs, phase by phase, so that commits do not grow with their number."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from databricks_rlm_agent.control.journal import Journal
from databricks_rlm_agent.control.lease import Leases, controller_of
from databricks_rlm_agent.control.step import Stepper
from databricks_rlm_agent.domain.fsm import State
from databricks_rlm_agent.domain.run import Due, Run
from databricks_rlm_agent.errors import NotFound, RemoteError
from databricks_rlm_agent.ports import Clock, Jobs, Ledger, NewId, RunStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TickReport:
    """What a tick did: runs that had something to do, runs that went on, and runs lost to another epoch.

    A run that a passing fault held up did not go on, so that the loop waits longer before it tries again.
    """

    due: int = 0
    advanced: int = 0
    fenced: int = 0


@dataclass(frozen=True, kw_only=True)
class Tick:
    """Claim, advance, record. All state is in the store: any number of controllers may tick at once."""

    store: RunStore
    ledger: Ledger
    jobs: Jobs
    stepper: Stepper
    clock: Clock
    new_id: NewId
    leases: Leases
    suspect_after_s: float
    batch: int
    planners: int

    def __call__(self) -> TickReport:
        """Do one pass. Raises RemoteError when the store cannot be reached at all."""
        due = {item.run.run_id: item for item in self._actionable(self.store.due(limit=self.batch))}
        if not due:
            return TickReport()
        with self.leases.held() as holder:
            claimed = self.store.claim(
                [item.run for item in due.values()],
                owner=holder,
                lease_s=self.leases.lease_s,
                write_id=self.new_id("w"),
            )
            with ThreadPoolExecutor(max_workers=max(1, min(self.planners, len(claimed)))) as pool:
                steps = list(pool.map(lambda run: self._advance(run, due[run.run_id]), claimed))
            won = self._record(steps)
        before = {run.run_id: (run.fsm_state, run.key) for run in claimed}
        advanced = {run.run_id for run, _ in steps if before[run.run_id] != (run.fsm_state, run.key)}
        fenced = len(claimed) - len(won)
        if fenced:
            log.warning(
                "%d runs were taken over by another controller; their changes here were dropped", fenced
            )
        return TickReport(due=len(due), advanced=len(advanced & won), fenced=fenced)

    def _actionable(self, due: Sequence[Due]) -> list[Due]:
        return [item for item in due if item.run.fsm_state is not State.EXECUTING or self._has_ended(item)]

    def _has_ended(self, item: Due) -> bool:
        if item.reported:
            return True
        job_run_id = (item.run.last_request or {}).get("databricks_run_id")
        if item.age_s < self.suspect_after_s or job_run_id is None:
            return False
        try:
            verdict = self.jobs.verdict(job_run_id)
        except NotFound:
            return True  # nothing will ever come of it: ingesting says so
        except RemoteError as error:  # a failing poll must not fail a healthy run
            log.warning("run %s: job run %s could not be asked: %s", item.run.run_id, job_run_id, error)
            return False
        if not verdict.understood:
            log.warning("run %s: job run %s is in an unknown state; waiting", item.run.run_id, job_run_id)
        return verdict.over

    def _advance(self, run: Run, due: Due) -> tuple[Run, Journal]:
        journal = Journal(run_id=run.run_id, epoch=run.lease_epoch, actor=self.leases.owner, clock=self.clock)
        former = due.run.lease_owner
        interrupted = former is not None
        if former is not None:
            journal.event(
                "lease_lapsed", former_owner=controller_of(former), former_epoch=due.run.lease_epoch
            )
        return self.stepper.advance(run, journal, reported=due.reported, interrupted=interrupted), journal

    def _record(self, steps: Sequence[tuple[Run, Journal]]) -> set[str]:
        if not steps:
            return set()
        # Ledgers lead the state: after a crash here the next epoch repeats the same keys, which adds nothing.
        self.ledger.append([row for _, journal in steps for row in journal.requests])
        self.ledger.append([row for _, journal in steps for row in journal.results])
        self.ledger.append([row for _, journal in steps for row in journal.events])
        return self.store.save([run for run, _ in steps], write_id=self.new_id("w"))

"""One bounded pass over all due runs, phase by phase, so that commits do not grow with their number."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from databricks_rlm_agent.controller.job_poller import JobPoller
from databricks_rlm_agent.controller.journal import Journal
from databricks_rlm_agent.controller.lease import Leases, controller_of
from databricks_rlm_agent.controller.step import Stepper
from databricks_rlm_agent.controller.worker_pool import AdvancedRun, Backoff, WorkerPool
from databricks_rlm_agent.logs import bound
from databricks_rlm_agent.ports import Clock, Ledger, NewId, RunStore
from databricks_rlm_agent.runs.run import Due, Run

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TickReport:
    """What a tick did: runs that had something to do, runs that went on, and runs lost to another epoch.

    A run that a passing fault held up did not go on, so that the loop waits longer before it tries again.
    ``working`` runs are still being planned; ``retry_after_s`` is how long the workspace asks us to wait.
    """

    due: int = 0
    advanced: int = 0
    fenced: int = 0
    working: int = 0
    retry_after_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Tick:
    """Claim, advance, record. All state is in the store: any number of controllers may tick at once.

    ``batch`` bounds the runs that this controller holds at a time, so that others get theirs.
    """

    store: RunStore
    ledger: Ledger
    stepper: Stepper
    watch: JobPoller
    worker_pool: WorkerPool
    leases: Leases
    backoff: Backoff
    clock: Clock
    new_id: NewId
    batch: int

    def __call__(self, *, wait_s: float | None = None, only: Sequence[str] = ()) -> TickReport:
        """Do one pass. Runs that take longer than ``patience_s`` seconds are recorded by a later one.

        ``only`` are the ids of runs, if no others shall be touched. Raises RemoteError when the store cannot
        be reached at all.
        """
        due = self._due(only) if self.worker_pool.busy < self.batch else []
        if due:
            self._begin(due)
        return replace(self.collect(wait_s=wait_s), due=len(due))

    def collect(self, *, wait_s: float | None = None) -> TickReport:
        """Record what is done, and begin nothing new."""
        try:
            steps = self.worker_pool.finished(wait_s=wait_s)
            won = self._record(steps)
        except Exception:  # not an interruption: whoever is interrupted gives up all that is held
            self.leases.keep(self.worker_pool.holders())
            raise
        self.leases.keep(self.worker_pool.holders())
        for step in steps:
            self._note(step)
        if fenced := len(steps) - len(won):
            log.warning(
                "%d runs were taken over by another controller; their changes here were dropped", fenced
            )
        return TickReport(
            advanced=len([step for step in steps if step.advanced and step.after.run_id in won]),
            fenced=fenced,
            working=self.worker_pool.busy,
            retry_after_s=max((step.journal.retry_after_s or 0 for step in steps), default=0) or None,
        )

    def _due(self, only: Sequence[str]) -> list[Due]:
        room = self.batch - self.worker_pool.busy
        found = self.store.due(
            limit=room, gap_s=self.watch.gap_s(), asked=sorted(self.watch.asked), only=only
        )
        self.backoff.prune()
        free = [item for item in found if self._free(item)]
        return self.watch.ready(free, complete=len(found) < room)

    def _free(self, item: Due) -> bool:
        """Not a run that we work on already: its lease may have lapsed, and we would race with ourselves.

        Nor one that is held off; but whoever is only to be asked about comes up seldom enough.
        """
        run_id = item.run.run_id
        return not self.worker_pool.works_on(run_id) and (item.silent or self.backoff.over(run_id))

    def _begin(self, due: Sequence[Due]) -> None:
        for item in due:
            # Durable, or the next write would make a whole row of a damaged one, and the run would go on.
            if item.problem is not None:
                self.store.request_cancel(item.run.run_id, reason=item.problem)
        holder = self.leases.take()
        try:
            claimed = self.store.claim(
                [_reserved(item.run) for item in due],
                owner=holder,
                lease_s=self.leases.lease_s,
                write_id=self.new_id("w"),
            )
        except Exception:  # as above: an interrupted claim may have taken effect
            self.leases.keep(self.worker_pool.holders())
            raise
        of = {item.run.run_id: item for item in due}
        self.worker_pool.start(
            holder, {run.run_id: partial(self._advance, holder, run, of[run.run_id]) for run in claimed}
        )

    def _advance(self, holder: str, run: Run, due: Due) -> AdvancedRun:
        with bound(
            run=run.run_id,
            iteration=run.iter_n,
            attempt=run.attempt,
            epoch=run.lease_epoch,
            controller=self.leases.owner,
        ):
            return self._advanced(holder, run, due)

    def _advanced(self, holder: str, run: Run, due: Due) -> AdvancedRun:
        journal = Journal(run_id=run.run_id, epoch=run.lease_epoch, actor=self.leases.owner, clock=self.clock)
        former = due.run.lease_owner
        if former is not None:
            journal.event(
                "lease_lapsed", former_owner=controller_of(former), former_epoch=due.run.lease_epoch
            )
        if due.problem is not None:
            journal.event("rejected_state", reason=due.problem)
        after = self.stepper.advance(
            run,
            journal,
            reported=due.reported,
            interrupted=former is not None,
            held=partial(self.leases.holds, holder),
        )
        return AdvancedRun(holder=holder, before=due.run, after=after, journal=journal)

    def _record(self, steps: Sequence[AdvancedRun]) -> set[str]:
        if not steps:
            return set()
        journals = [step.journal for step in steps]
        # Ledgers lead the state: after a crash here the next epoch repeats the same keys, which adds nothing.
        self.ledger.append([row for journal in journals for row in journal.requests])
        self.ledger.append([row for journal in journals for row in journal.results])
        self.ledger.append([row for journal in journals for row in journal.events])
        won = self.store.save([step.after for step in steps], write_id=self.new_id("w"))
        # Child runs come after it: there are none for a parent that does not wait for them, and whoever finds
        # one that waits in vain makes them.
        landed = [step.journal for step in steps if step.after.run_id in won]
        if children := [child for journal in landed for child in journal.children]:
            self.store.insert(children)
        return won

    def _note(self, step: AdvancedRun) -> None:
        if step.journal.held_up:
            self.backoff.failed(step.after.run_id, retry_after_s=step.journal.retry_after_s)
        else:
            self.backoff.succeeded(step.after.run_id)


@dataclass(frozen=True, kw_only=True)
class SingleRunTick:
    """A tick that touches one run and its child runs only."""

    tick: Tick
    run_id: str

    def __call__(self, *, wait_s: float | None = None) -> TickReport:
        """Do one pass."""
        return self.tick(wait_s=wait_s, only=self.tick.store.family(self.run_id))

    def collect(self, *, wait_s: float | None = None) -> TickReport:
        """Record what is done, and begin nothing new."""
        return self.tick.collect(wait_s=wait_s)


def _reserved(run: Run) -> Run:
    """A run with the model calls of the coming epoch reserved."""
    return replace(run, budget=run.budget.reserve(run.lease_epoch + 1))

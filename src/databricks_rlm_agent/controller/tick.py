"""One pass over all due runs, phase by phase, so that the number of commits does not grow with theirs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from databricks_rlm_agent.controller.job_poller import JobPoller
from databricks_rlm_agent.controller.journal import Journal
from databricks_rlm_agent.controller.lease import Leases, controller_of
from databricks_rlm_agent.controller.step import RunAdvancer
from databricks_rlm_agent.controller.worker_pool import AdvancedRun, WorkerPool
from databricks_rlm_agent.logs import bound
from databricks_rlm_agent.ports import Clock, Ledger, NewId, RunStore
from databricks_rlm_agent.retry import is_transient
from databricks_rlm_agent.runs.run import Due, Run

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TickReport:
    """The outcome of a tick: runs that were due, runs that advanced, and runs lost to another epoch.

    A run that met a transient error did not go on, so that the loop waits longer before it tries again.
    ``working`` runs are still being advanced; ``retry_after_s`` is how long the workspace asks us to wait.
    """

    due: int = 0
    advanced: int = 0
    fenced: int = 0
    working: int = 0
    retry_after_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Tick:
    """Claim, advance, record. All state is in the store: any number of controllers may tick at once.

    ``batch`` limits the runs that this controller holds at a time, so that others get some.
    """

    store: RunStore
    ledger: Ledger
    advancer: RunAdvancer
    job_poller: JobPoller
    worker_pool: WorkerPool
    leases: Leases
    clock: Clock
    new_id: NewId
    batch: int

    def __call__(self, *, wait_s: float | None = None, only: Sequence[str] = ()) -> TickReport:
        """Do one pass. Runs that take longer than ``wait_s`` seconds are recorded by a later one.

        ``only`` are the ids of runs, if no others shall be touched. Raises RemoteError when the store cannot
        be reached at all.
        """
        due = self._due(only) if self.worker_pool.busy < self.batch else []
        if due:
            self._claim(due)
        return replace(self.collect(wait_s=wait_s), due=len(due))

    def collect(self, *, wait_s: float | None = None) -> TickReport:
        """Record what is done, and begin nothing new."""
        advanced: list[AdvancedRun] = []
        try:
            advanced = self.worker_pool.finished(wait_s=wait_s)
            saved = self._record(advanced)
        except Exception as error:  # not an interruption: whoever is interrupted gives up all that is held
            if is_transient(error):  # the same rows are recorded by a later tick: each at most once
                self.worker_pool.put_back(advanced)
            self.leases.keep(self.worker_pool.holders())
            raise
        self.leases.keep(self.worker_pool.holders())
        if fenced := len(advanced) - len(saved):
            log.warning(
                "%d runs were taken over by another controller; their changes here were dropped", fenced
            )
        return TickReport(
            advanced=len([done for done in advanced if done.moved and done.after.run_id in saved]),
            fenced=fenced,
            working=self.worker_pool.busy,
            retry_after_s=max((done.journal.retry_after_s or 0 for done in advanced), default=0) or None,
        )

    def _due(self, only: Sequence[str]) -> list[Due]:
        limit = self.batch - self.worker_pool.busy
        due = self.store.due(
            limit=limit, gap_s=self.job_poller.gap_s(), asked=sorted(self.job_poller.asked), only=only
        )
        # Not one that we advance already: its lease may have lapsed, and we would race with ourselves.
        candidates = [
            candidate for candidate in due if not self.worker_pool.is_advancing(candidate.run.run_id)
        ]
        return self.job_poller.ready(candidates, complete=len(due) < limit)

    def _claim(self, due: Sequence[Due]) -> None:
        for found in due:
            # Durable, or the next write would make a valid row of a damaged one, and the run would go on.
            if found.problem is not None:
                self.store.request_cancel(found.run.run_id, reason=found.problem)
        holder = self.leases.take()
        try:
            claimed = self.store.claim(
                [found.run for found in due],
                owner=holder,
                lease_s=self.leases.lease_s,
                write_id=self.new_id("w"),
            )
        except Exception:  # as above: an interrupted claim may have taken effect
            self.leases.keep(self.worker_pool.holders())
            raise
        by_id = {found.run.run_id: found for found in due}
        self.worker_pool.start(
            holder, {run.run_id: partial(self._advance, holder, run, by_id[run.run_id]) for run in claimed}
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
        after = self.advancer.advance(
            run,
            journal,
            reported=due.reported,
            lease_lapsed=former is not None,
            lease_held=partial(self.leases.holds, holder),
        )
        return AdvancedRun(holder=holder, before=due.run, after=after, journal=journal)

    def _record(self, advanced: Sequence[AdvancedRun]) -> set[str]:
        if not advanced:
            return set()
        journals = [done.journal for done in advanced]
        # Ledgers lead the state: after a crash here the next epoch repeats the same keys, which adds nothing.
        self.ledger.append([row for journal in journals for row in journal.requests])
        self.ledger.append([row for journal in journals for row in journal.results])
        self.ledger.append([row for journal in journals for row in journal.events])
        saved = self.store.save([done.after for done in advanced], write_id=self.new_id("w"))
        # Child runs come after it: there are none for a parent that does not wait for them, and whoever finds
        # one that waits in vain makes them.
        parents = [done for done in advanced if done.after.run_id in saved]
        if children := [child for parent in parents for child in parent.journal.children]:
            self.store.insert(children)
        return saved


@dataclass(kw_only=True)
class SingleRunTick:
    """A tick that touches one run and its child runs only."""

    tick: Tick
    run_id: str
    _family: Sequence[str] = ()

    def __call__(self, *, wait_s: float | None = None) -> TickReport:
        """Do one pass."""
        self._family = self._family or self.tick.store.family(self.run_id)
        report = self.tick(wait_s=wait_s, only=self._family)
        if report.advanced or not report.due:  # only then may there be child runs that we do not know
            self._family = ()
        return report

    def collect(self, *, wait_s: float | None = None) -> TickReport:
        """Record what is done, and begin nothing new."""
        return self.tick.collect(wait_s=wait_s)

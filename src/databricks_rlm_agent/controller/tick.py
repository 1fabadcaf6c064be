"""The control loop: ticks, with adaptive waits between them, until it is told to stop.

A tick is one pass over all due runs, phase by phase, so that the number of commits does not grow with theirs.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from databricks_rlm_agent import threads
from databricks_rlm_agent.controller.claims import AdvancedRun, JobPoller, Leases, WorkerPool, controller_of
from databricks_rlm_agent.controller.journal import Journal
from databricks_rlm_agent.controller.step import RunAdvancer
from databricks_rlm_agent.errors import (
    Conflict,
    Forbidden,
    NeverReached,
    RemoteError,
    Throttled,
    Unauthorized,
    Unreachable,
)
from databricks_rlm_agent.logs import bound
from databricks_rlm_agent.ports import Ledger, RunStore
from databricks_rlm_agent.retry import is_transient
from databricks_rlm_agent.runs.run import Due, Run
from databricks_rlm_agent.values import Clock, NewId, Sleep

log = logging.getLogger(__name__)
FIRST_WAIT_S = 0.1
GROWTH = 1.25
# A tick waits this long for the runs that it advances before it records those that are done.
TICK_WAIT_S = 1.0
# Credentials that were good once may be renewed: until then the loop waits, for so long at most.
AUTH_WAIT_S = 900.0


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


@dataclass(kw_only=True)
class ControlLoop:
    """Ticks until ``done`` says so. ``max_wait_s`` limits the wait between two ticks; ``jitter`` is 0 to 1.

    ``intake`` is called before each tick, and decides itself whether it is time to poll. ``abandon`` is
    called when the process is interrupted, to give up the leases. When ``stopped`` says so, nothing new is
    begun, and the runs that are being advanced are finished.
    """

    tick: Tick | SingleRunTick
    sleep: Sleep
    abandon: Callable[[], None]
    intake: Callable[[], object] | None = None
    stopped: Callable[[], bool] = lambda: False
    max_wait_s: float = 5.0
    jitter: Callable[[], float] = random.random
    _refused_s: float = 0.0
    _reached: bool = False

    def run(self, *, done: Callable[[TickReport], bool], max_ticks: int | None = None) -> int:
        """Tick, wait, tick; return the number of ticks. Transient errors of the workspace are waited out."""
        try:
            ticks = self._ticks(done, max_ticks)
            self.tick.collect()
        except (KeyboardInterrupt, SystemExit):
            self.abandon()
            raise
        return ticks

    def _ticks(self, done: Callable[[TickReport], bool], max_ticks: int | None) -> int:
        wait, ticks = FIRST_WAIT_S, 0
        while not self.stopped() and (max_ticks is None or ticks < max_ticks):
            report, pause = TickReport(), 0.0
            ticks += 1
            threads.check()
            try:
                if self.intake is not None:
                    self.intake()
                report = self.tick(wait_s=TICK_WAIT_S)
                self._reached, self._refused_s = True, 0.0
                if report.due or report.advanced:
                    log.info(
                        "%d runs due, %d advanced, %d in work", report.due, report.advanced, report.working
                    )
                if done(report):
                    break
            except (Throttled, Conflict, Unreachable, Unauthorized) as error:
                pause = self._after(error)
            busy = report.advanced or report.working
            wait = FIRST_WAIT_S if busy else min(wait * GROWTH, self.max_wait_s)
            # Jitter: controllers that were started together must not ask together for ever.
            pause = max(pause, report.retry_after_s or 0.0)
            self.sleep(max(wait * (0.8 + 0.2 * self.jitter()), pause))
        return ticks

    def _after(self, error: RemoteError) -> float:
        """Return how long to wait after an error; raise it if waiting is no use."""
        if isinstance(error, (NeverReached, Forbidden)):
            raise error
        if isinstance(error, Unauthorized):
            if not self._reached or self._refused_s >= AUTH_WAIT_S:
                raise error
            self._refused_s += self.max_wait_s
        log.warning("%s The next tick tries again.", error)
        return getattr(error, "retry_after", None) or self.max_wait_s

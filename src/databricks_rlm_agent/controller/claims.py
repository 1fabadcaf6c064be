"""A controller's claims: which runs are worth one, the leases that it keeps, the workers that advance them.

Whether a silent job run has ended is asked of the Jobs API. That changes no run, so it needs no lease: any
controller may ask about a job run, or ask for its cancellation, any number of times.

One renewal serves all runs that a controller holds, so its cost does not grow with their number. A lease can
so be short: it limits how long the runs of a dead controller stand still, not how long a plan may take.
"""

from __future__ import annotations

import concurrent.futures as futures
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from databricks_rlm_agent import threads
from databricks_rlm_agent.attempts.result import JobVerdict
from databricks_rlm_agent.controller.journal import Journal
from databricks_rlm_agent.errors import NotFound, RemoteError
from databricks_rlm_agent.ports import Jobs, RunStore
from databricks_rlm_agent.runs.run import Due, Run
from databricks_rlm_agent.values import Clock

log = logging.getLogger(__name__)
# Before the platform has begun with it, a job run uses up none of its time.
_NOT_STARTED = frozenset({"BLOCKED", "PENDING", "QUEUED", "WAITING"})
# Two polls may overlap by this much: to ask twice is cheap, to miss a poll costs minutes.
OVERLAP_S = 0.05


@dataclass(kw_only=True)
class JobPoller:
    """Asks about job runs, ``at_once`` of them at the same time, and ends those that should not go on."""

    jobs: Jobs
    clock: Clock
    at_once: int = 8
    asked: set[str] = field(default_factory=set)
    _since: datetime | None = None
    _now: datetime | None = None

    def gap_s(self) -> float:
        """Seconds since the last complete poll; call it right before asking the store what is due."""
        self._now = self.clock()
        gap = 1e12 if self._since is None else (self._now - self._since).total_seconds() + OVERLAP_S
        return gap if gap >= OVERLAP_S else 1e12  # the clock was set back: nobody knows how long it was

    def ready(self, due: Sequence[Due], *, complete: bool) -> list[Due]:
        """Return the runs that have something to do. One that could not be asked about is asked about again.

        ``complete`` says that ``due`` is all that the store has. Until then the poll goes on, and runs that
        were ``asked`` about do not come up again.
        """
        silent = [candidate for candidate in due if candidate.silent]
        over: dict[str, bool | None] = {}
        if silent:
            with ThreadPoolExecutor(max_workers=min(self.at_once, len(silent))) as pool:
                answers = pool.map(lambda candidate: self._over(candidate.run), silent)
                over = {candidate.run.run_id: ended for candidate, ended in zip(silent, answers, strict=True)}
        self.asked |= {run_id for run_id, ended in over.items() if ended is not None}
        if complete and None not in over.values():
            self._since = self._now
            self.asked.clear()
        return [candidate for candidate in due if over.get(candidate.run.run_id, True)]

    def _over(self, run: Run) -> bool | None:
        """Return whether the job run has ended; None if that could not be learned."""
        job_run_id = run.job_run_id
        if job_run_id is None:
            return True  # a damaged row: the manifest tells whoever claims it
        try:
            verdict = self.jobs.verdict(job_run_id)
            if not verdict.over and (reason := self._unwanted(run, verdict)):
                log.info("job run %s is cancelled: %s", job_run_id, reason)
                self.jobs.cancel(job_run_id)
        except NotFound:
            return True  # nothing will ever come of it: ingesting says so
        except RemoteError as error:
            log.warning("run %s: job run %s could not be asked: %s", run.run_id, job_run_id, error)
            return None
        if not verdict.understood:
            log.warning("run %s: job run %s is in an unknown state; waiting", run.run_id, job_run_id)
        return verdict.over

    def _unwanted(self, run: Run, verdict: JobVerdict) -> str | None:
        """Return why the job run should not go on, or None."""
        if run.cancel_reason is not None:
            return run.cancel_reason
        if run.overrun(self.clock(), started=verdict.understood and verdict.state not in _NOT_STARTED):
            return "it has had all of its time"
        return None


RENEWALS_PER_LEASE = 3


def controller_of(holder: str) -> str:
    """The controller that claimed under this name."""
    return holder.partition("/")[0]


@dataclass(kw_only=True)
class Leases:
    """The leases of one controller, ``owner``. ``lease_s`` in seconds.

    Every claim has a name of its own, and is renewed only while its runs are advanced. What an earlier claim
    left behind (a save that failed, a claim that took effect after its answer was lost) nobody advances any
    more: to renew that as well would keep the run from everybody for as long as this controller lives.
    """

    store: RunStore
    owner: str
    lease_s: float
    monotonic: Callable[[], float] = time.monotonic
    # By name: until when its leases surely hold, by our own clock.
    _held: dict[str, float] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _changed: threading.Event = field(default_factory=threading.Event)
    _keeper: threading.Thread | None = None

    def take(self) -> str:
        """Return a new name to claim as; its leases are renewed in the background until ``keep`` drops it."""
        holder = f"{self.owner}/{next(self._numbers)}"
        with self._lock:
            self._held[holder] = self.monotonic() + self.lease_s
            if self._keeper is None:
                self._changed = threading.Event()
                self._keeper = threads.start("lease-keeper", self._keep, self._changed)
        return holder

    def keep(self, holders: set[str]) -> None:
        """Stop renewing the leases under all other names."""
        with self._lock:
            self._held = {name: until for name, until in self._held.items() if name in holders}
            if not self._held:
                self._changed.set()
                self._keeper = None

    def holds(self, holder: str) -> bool:
        """Return whether the leases under this name surely hold: if not, others may advance the runs too."""
        with self._lock:
            return self._held.get(holder, 0.0) > self.monotonic()

    def release(self) -> None:
        """Let other controllers go on at once. What is not released lapses."""
        if not (owners := self._names()):
            return
        try:
            self.store.release(owners=owners)
        except RemoteError as error:
            log.warning("the leases could not be released; they lapse within %s s: %s", self.lease_s, error)

    def _keep(self, over: threading.Event) -> None:
        while not over.wait(self.lease_s / RENEWALS_PER_LEASE):
            try:
                if owners := self._names():
                    asked = self.monotonic()
                    self.store.renew(owners=owners, lease_s=self.lease_s)
                    self._renewed(owners, until=asked + self.lease_s)
            except RemoteError as error:  # the next renewal may succeed, and a lapsed lease costs only time
                log.warning("the leases could not be renewed: %s", error)
            except Exception:
                # A fault of ours. Leases that nobody renews are not held, so no planner goes on asking.
                log.exception("the leases could not be renewed")

    def _renewed(self, holders: Sequence[str], *, until: float) -> None:
        """A lease that had lapsed is not renewed by the store, and cannot be told from one that was."""
        with self._lock:
            now = self.monotonic()
            self._held |= {name: until for name in holders if self._held.get(name, 0.0) > now}

    def _names(self) -> list[str]:
        with self._lock:
            return sorted(self._held)


@dataclass(frozen=True, kw_only=True)
class AdvancedRun:
    """The outcome of advancing one claimed run: the run before and after, and its journal."""

    holder: str
    before: Run
    after: Run
    journal: Journal

    @property
    def moved(self) -> bool:
        """Return whether the run's state or attempt has changed."""
        return (self.before.fsm_state, self.before.key) != (self.after.fsm_state, self.after.key)


@dataclass(kw_only=True)
class WorkerPool:
    """Advances at most ``size`` runs at once; the others wait. Used by one thread only."""

    size: int
    _tasks: dict[futures.Future[AdvancedRun], tuple[str, str]] = field(default_factory=dict)
    _slots: threading.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._slots = threading.Semaphore(self.size)

    @property
    def busy(self) -> int:
        """How many runs are not collected yet."""
        return len(self._tasks)

    def is_advancing(self, run_id: str) -> bool:
        """Return whether the run is not collected yet."""
        return any(run_id == other for _, other in self._tasks.values())

    def holders(self) -> set[str]:
        """The names of the claims that have runs which are not collected yet."""
        return {holder for holder, _ in self._tasks.values()}

    def start(self, holder: str, tasks: Mapping[str, Callable[[], AdvancedRun]]) -> None:
        """Begin to advance the runs of one claim, by their ids."""
        for run_id, advance in tasks.items():
            future: futures.Future[AdvancedRun] = futures.Future()
            self._tasks[future] = holder, run_id
            threads.start("advance", self._do, future, advance)

    def finished(self, *, wait_s: float | None) -> list[AdvancedRun]:
        """Collect the runs that are done, when all are or ``wait_s`` seconds have passed (None: no limit).

        One that ended in an error of its own is left to its lease, and does not cost the others their
        results. What is no error but an end of the process is raised when there is nothing else to collect.
        """
        done, _ = futures.wait(self._tasks, timeout=wait_s)
        results, ends = [], []
        for future in done:
            _, run_id = self._tasks.pop(future)
            error = future.exception()
            if error is None:
                results.append(future.result())
            elif isinstance(error, Exception):
                log.error("run %s is left to its lease: %r", run_id, error, exc_info=error)
            else:
                ends.append(error)
        if ends:
            self.put_back(results)
            raise ends[0]
        return results

    def put_back(self, advanced: Sequence[AdvancedRun]) -> None:
        """Have runs collected again that could not be recorded."""
        for run in advanced:
            future: futures.Future[AdvancedRun] = futures.Future()
            future.set_result(run)
            self._tasks[future] = run.holder, run.after.run_id

    def _do(self, future: futures.Future[AdvancedRun], advance: Callable[[], AdvancedRun]) -> None:
        with self._slots:
            try:
                future.set_result(advance())
            except BaseException as error:  # noqa: BLE001 - raised again where the run is collected
                future.set_exception(error)

"""Advance claimed runs in the background, so that none waits for the slowest; back off from failing ones."""

from __future__ import annotations

import concurrent.futures as futures
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from databricks_rlm_agent.controller.journal import Journal
from databricks_rlm_agent.ports import Clock
from databricks_rlm_agent.runs.run import Run

FIRST_S = 0.2
LONGEST_S = 60.0


@dataclass(frozen=True, kw_only=True)
class _Pause:
    since: datetime
    until: datetime
    wait_s: float


@dataclass(kw_only=True)
class Backoff:
    """Per run, until when this controller leaves it alone after a transient error: ever longer, with jitter.

    Other controllers may fare better with it. A clock that is set back must not make a short pause a long
    one: a pause that began in the future is over.
    """

    clock: Clock
    jitter: Callable[[], float] = random.random
    _pauses: dict[str, _Pause] = field(default_factory=dict)

    def failed(self, run_id: str, *, retry_after_s: float | None) -> None:
        """Leave a run alone for a while: it met a transient error."""
        before = self._pauses[run_id].wait_s if run_id in self._pauses else 0.0
        wait = min(max(FIRST_S, before * 2), LONGEST_S)
        pause = max(retry_after_s or 0.0, wait * (0.5 + self.jitter() / 2))
        now = self.clock()
        self._pauses[run_id] = _Pause(since=now, until=now + timedelta(seconds=pause), wait_s=wait)

    def succeeded(self, run_id: str) -> None:
        """Forget the pauses of a run: it met no transient error."""
        self._pauses.pop(run_id, None)

    def over(self, run_id: str) -> bool:
        """Return whether the run may be tried."""
        pause = self._pauses.get(run_id)
        return pause is None or not pause.since <= self.clock() < pause.until

    def prune(self) -> None:
        """Forget pauses that ended long ago: another controller has taken those runs on."""
        ended = self.clock() - timedelta(seconds=LONGEST_S)
        self._pauses = {run_id: pause for run_id, pause in self._pauses.items() if pause.until >= ended}


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
            # A daemon: a process that is told to end does not wait for the answer of a model.
            threading.Thread(target=self._do, args=(future, advance), name="advance", daemon=True).start()

    def finished(self, *, wait_s: float | None) -> list[AdvancedRun]:
        """Collect the runs that are done, when all are or ``wait_s`` seconds have passed (None: no limit)."""
        done, _ = futures.wait(self._tasks, timeout=wait_s)
        for future in done:
            del self._tasks[future]
        return [future.result() for future in done]

    def _do(self, future: futures.Future[AdvancedRun], advance: Callable[[], AdvancedRun]) -> None:
        with self._slots:
            try:
                future.set_result(advance())
            except BaseException as error:  # noqa: BLE001 - raised again where the run is collected
                future.set_exception(error)

"""Advance claimed runs in the background, so that none waits for the slowest."""

from __future__ import annotations

import concurrent.futures as futures
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from databricks_rlm_agent import threads
from databricks_rlm_agent.controller.journal import Journal
from databricks_rlm_agent.runs.run import Run

log = logging.getLogger(__name__)


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

"""Worker pools without races: one run is advanced at a time, to its end or until it waits for a model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from databricks_rlm_agent.controller.claims import AdvancedRun, Leases, WorkerPool


@dataclass(kw_only=True)
class SteppedPool(WorkerPool):
    """A worker pool whose interleavings a test chooses: ``slow`` models are waited for until resumed.

    The threads are real ones, and the caller waits until the one that it started is done or parked.
    """

    size: int = 1_000
    slow: bool = False
    parked: list[threading.Event] = field(default_factory=list)
    _still: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def start(self, holder: str, tasks: Mapping[str, Callable[[], AdvancedRun]]) -> None:
        for run_id, act in tasks.items():
            super().start(holder, {run_id: act})
            self._still.acquire()

    def park(self) -> None:
        """Called by a step: wait here if models are slow."""
        if self.slow:
            go_on = threading.Event()
            self.parked.append(go_on)
            self._still.release()
            go_on.wait()

    def resume(self, index: int = 0) -> None:
        """Let one parked step run on, to its end or to where it parks again."""
        self.parked.pop(index).set()
        self._still.acquire()

    def resume_all(self) -> None:
        """Let all of them end."""
        self.slow = False
        while self.parked:
            self.resume()

    def _do(self, future: Future[AdvancedRun], advance: Callable[[], AdvancedRun]) -> None:
        super()._do(future, advance)
        self._still.release()


@dataclass(kw_only=True)
class InlinePool(WorkerPool):
    """A worker pool without threads: each run is advanced where it is started, so nothing overlaps."""

    size: int = 1_000

    def start(self, holder: str, tasks: Mapping[str, Callable[[], AdvancedRun]]) -> None:
        for run_id, act in tasks.items():
            promise: Future[AdvancedRun] = Future()
            self._tasks[promise] = holder, run_id
            self._do(promise, act)


@dataclass(kw_only=True)
class ManualLeases(Leases):
    """Leases that are renewed when a test says so, and not by a thread."""

    def take(self) -> str:
        self._keeper = self._keeper or threading.Thread(name="never started")
        return super().take()

    def renew(self) -> None:
        """What the keeper does every now and then."""
        if held := self._names():
            self.store.renew(owners=held, lease_s=self.lease_s)

"""The loop around the tick: adaptive waiting, and when to stop."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from databricks_rlm_agent import threads
from databricks_rlm_agent.controller.tick import TickReport
from databricks_rlm_agent.errors import (
    Conflict,
    Forbidden,
    NeverReached,
    RemoteError,
    Throttled,
    Unauthorized,
    Unreachable,
)
from databricks_rlm_agent.ports import Sleep

log = logging.getLogger(__name__)

FIRST_WAIT_S = 0.1
GROWTH = 1.25
# A tick waits this long for the runs that it advances before it records those that are done.
TICK_WAIT_S = 1.0
# Credentials that were good once may be renewed: until then the loop waits, for so long at most.
AUTH_WAIT_S = 900.0


class TickLike(Protocol):
    """A tick, as the loop uses it."""

    def __call__(self, *, wait_s: float | None = None) -> TickReport:
        """Do one pass."""

    def collect(self, *, wait_s: float | None = None) -> TickReport:
        """Record what is done, and begin nothing new."""


@dataclass(kw_only=True)
class ControlLoop:
    """Ticks until ``done`` says so. ``max_wait_s`` limits the wait between two ticks; ``jitter`` is 0 to 1.

    ``intake`` is called before each tick, and decides itself whether it is time to poll. ``abandon`` is
    called when the process is interrupted, to give up the leases. When ``stopped`` says so, nothing new is
    begun, and the runs that are being advanced are finished.
    """

    tick: TickLike
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

"""The loop around the tick: adaptive waiting, and when to stop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from databricks_rlm_agent.control.tick import TickReport
from databricks_rlm_agent.errors import Conflict, NeverReached, Throttled, Unreachable
from databricks_rlm_agent.ports import Sleep

log = logging.getLogger(__name__)

FIRST_WAIT_S = 0.1
GROWTH = 1.4


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Ticks until ``done`` says so. ``max_wait_s`` bounds the wait between two ticks."""

    tick: Callable[[], TickReport]
    sleep: Sleep
    max_wait_s: float = 5.0

    def run(self, *, done: Callable[[TickReport], bool], max_ticks: int | None = None) -> int:
        """Tick, wait, tick; return the number of ticks. A passing fault of the workspace is waited out."""
        wait, ticks = FIRST_WAIT_S, 0
        while max_ticks is None or ticks < max_ticks:
            pause = 0.0
            report = TickReport()
            ticks += 1
            try:
                report = self.tick()
                if done(report):
                    break
            except (Throttled, Conflict, Unreachable) as error:
                if isinstance(error, NeverReached):
                    raise
                log.warning("%s", error)
                pause = getattr(error, "retry_after", None) or self.max_wait_s
            wait = FIRST_WAIT_S if report.advanced else min(wait * GROWTH, self.max_wait_s)
            self.sleep(max(wait, pause))
        return ticks

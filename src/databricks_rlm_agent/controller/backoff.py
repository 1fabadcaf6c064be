"""Runs that a passing fault held up are left alone for a while, each for ever longer, with jitter."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from databricks_rlm_agent.ports import Clock

FIRST_S = 0.2
LONGEST_S = 60.0


@dataclass(frozen=True, kw_only=True)
class _Pause:
    since: datetime
    until: datetime
    wait_s: float


@dataclass(kw_only=True)
class Backoff:
    """Per run, until when this controller leaves it alone. Other controllers may see the world otherwise.

    A clock that is set back must not make a short pause a long one: what lies in the future is over.
    """

    clock: Clock
    jitter: Callable[[], float] = random.random
    _held: dict[str, _Pause] = field(default_factory=dict)

    def failed(self, run_id: str, *, retry_after_s: float | None) -> None:
        """A run met a passing fault."""
        before = self._held[run_id].wait_s if run_id in self._held else 0.0
        wait = min(max(FIRST_S, before * 2), LONGEST_S)
        pause = max(retry_after_s or 0.0, wait * (0.5 + self.jitter() / 2))
        now = self.clock()
        self._held[run_id] = _Pause(since=now, until=now + timedelta(seconds=pause), wait_s=wait)

    def went_on(self, run_id: str) -> None:
        """A run met none."""
        self._held.pop(run_id, None)

    def over(self, run_id: str) -> bool:
        """Whether the run may be tried."""
        held = self._held.get(run_id)
        return held is None or not held.since <= self.clock() < held.until

    def prune(self) -> None:
        """Forget what is long past: another controller has taken those runs on."""
        now = self.clock()
        late = [key for key, held in self._held.items() if (now - held.until).total_seconds() > LONGEST_S]
        for run_id in late:
            del self._held[run_id]

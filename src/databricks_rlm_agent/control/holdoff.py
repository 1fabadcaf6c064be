"""Runs that a passing fault held up are left alone for a while, each for ever longer, with jitter."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from databricks_rlm_agent.ports import Clock

FIRST_S = 0.2
LONGEST_S = 60.0


@dataclass(kw_only=True)
class HoldOff:
    """Per run, until when this controller leaves it alone. Other controllers may see the world otherwise."""

    clock: Clock
    jitter: Callable[[], float] = random.random
    _until: dict[str, tuple[datetime, float]] = field(default_factory=dict)

    def failed(self, run_id: str, *, retry_after_s: float | None) -> None:
        """A run met a passing fault."""
        _, before = self._until.get(run_id, (None, 0.0))
        wait = min(max(FIRST_S, before * 2), LONGEST_S)
        pause = max(retry_after_s or 0.0, wait * (0.5 + self.jitter() / 2))
        self._until[run_id] = (self.clock() + timedelta(seconds=pause), wait)

    def went_on(self, run_id: str) -> None:
        """A run met none."""
        self._until.pop(run_id, None)

    def over(self, run_id: str) -> bool:
        """Whether the run may be tried."""
        return run_id not in self._until or self.clock() >= self._until[run_id][0]

    def prune(self) -> None:
        """Forget what is long past: another controller has taken those runs on."""
        now = self.clock()
        late = [key for key, (until, _) in self._until.items() if (now - until).total_seconds() > LONGEST_S]
        for run_id in late:
            del self._until[run_id]

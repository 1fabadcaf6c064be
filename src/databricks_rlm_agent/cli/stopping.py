"""Stop a loop when the platform or a person asks for it: after the tick at hand, or at the end of a grace."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from databricks_rlm_agent.cli.place import say

INTERRUPTED = 130
GRACE_S = 20.0


@dataclass(kw_only=True)
class Stopping:
    """A request to stop. ``abandon`` is called when the grace is over, right before the process ends."""

    abandon: Callable[[], None]
    grace_s: float = GRACE_S
    _asked: threading.Event = field(default_factory=threading.Event)

    @property
    def asked(self) -> bool:
        """Whether somebody asked."""
        return self._asked.is_set()

    def sleep(self, seconds: float) -> None:
        """Wait, but no longer than until somebody asks."""
        self._asked.wait(seconds)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT for the request; a second one ends the process at once."""
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            self._end()
        self._asked.set()
        say(f"Stopping after this tick (within {self.grace_s:.0f} s; once more ends it now).")
        timer = threading.Timer(self.grace_s, self._end)
        timer.daemon = True
        timer.start()

    def _end(self) -> None:
        self.abandon()
        os._exit(INTERRUPTED)

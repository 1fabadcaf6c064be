"""When the next call may go: at most so many in any minute, and none while the endpoint asks for quiet."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

_MINUTE_S = 60.0


class Pace:
    """Shared by all threads. `clock` is monotonic, in seconds. `per_minute` None: no limit.

    The last minute's calls are remembered one by one: a bucket of tokens would let twice as many through in
    the minute after a quiet one.
    """

    def __init__(self, per_minute: int | None, clock: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._lock = threading.Lock()
        self._sent: deque[float] = deque()
        self._quiet_until = 0.0
        self._lent = 0

    def wait_s(self) -> float:
        """0 when a call may go now, and then it counts; else seconds after which to ask again."""
        with self._lock:
            now = self._clock()
            if now < self._quiet_until:
                return self._quiet_until - now
            if self._per_minute is None:
                return 0.0
            self._forget(now)
            limit = self._per_minute - self._lent
            if limit <= 0:
                return 1.0
            if len(self._sent) >= limit:
                return self._sent[len(self._sent) - limit] + _MINUTE_S - now
            self._sent.append(now)
            return 0.0

    def lend(self) -> int | None:
        """Most of the limit, for calls that are made elsewhere until they are `over`; None: no limit."""
        with self._lock:
            if self._per_minute is None:
                return None
            self._lent = max(1, self._per_minute - max(1, self._per_minute // 8))
            return self._lent

    def over(self, ages: Iterable[float]) -> None:
        """What was lent is back. Calls elsewhere began so many seconds ago."""
        with self._lock:
            self._lent = 0
            now = self._clock()
            if self._per_minute is not None:
                self._sent = deque(sorted([*self._sent, *(now - age for age in ages)]))

    def ages(self) -> list[float]:
        """How many seconds ago the calls of the last minute began; none where there is no limit."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            return [now - sent for sent in self._sent]

    def quiet(self, seconds: float) -> None:
        """The endpoint asks everybody to wait (429 with Retry-After)."""
        with self._lock:
            self._quiet_until = max(self._quiet_until, self._clock() + seconds)

    def _forget(self, now: float) -> None:
        while self._sent and now - self._sent[0] >= _MINUTE_S:
            self._sent.popleft()

"""When the next call may go: at most so many in any minute, and none while the endpoint asks for quiet."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

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

    def wait_s(self) -> float:
        """0 when a call may go now, and then it counts; else seconds after which to ask again."""
        with self._lock:
            now = self._clock()
            if now < self._quiet_until:
                return self._quiet_until - now
            if self._per_minute is None:
                return 0.0
            while self._sent and now - self._sent[0] >= _MINUTE_S:
                self._sent.popleft()
            if len(self._sent) >= self._per_minute:
                return self._sent[0] + _MINUTE_S - now
            self._sent.append(now)
            return 0.0

    def quiet(self, seconds: float) -> None:
        """The endpoint asks everybody to wait (429 with Retry-After)."""
        with self._lock:
            self._quiet_until = max(self._quiet_until, self._clock() + seconds)

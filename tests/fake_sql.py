"""What fakes of ``values.SqlSession`` share, and a session over one of them that repeats as ours do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from databricks_rlm_agent.retry import RetryingSession


class FakeSession:
    alive = True

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        pass


def repeating(session: Any, sleep: Callable[[float], None] = lambda _seconds: None) -> RetryingSession:
    return RetryingSession(lambda: session, sleep)

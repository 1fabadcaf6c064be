"""How statements on our state are repeated. Every one of them is safe to send again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tenacity import (
    Retrying,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from databricks_rlm_agent.errors import Conflict, NeverReached, Unreachable
from databricks_rlm_agent.ports import Row, Sleep, SqlBackend

# A lost race is over in milliseconds; an unreachable warehouse is the loop's business after PATIENCE_S.
ATTEMPTS = 8
PATIENCE_S = 20.0


def retrying(sleep: Sleep) -> Retrying:
    """Repeat on conflicts and unknown outcomes, with jitter; the last error is raised."""
    return Retrying(
        retry=retry_if_exception_type((Conflict, Unreachable)) & retry_if_not_exception_type(NeverReached),
        stop=stop_after_attempt(ATTEMPTS) | stop_after_delay(PATIENCE_S),
        wait=wait_random_exponential(multiplier=0.05, max=2),
        sleep=sleep,
        reraise=True,
    )


def fetch(
    backend: SqlBackend, sql: str, parameters: Mapping[str, Any] | None = None, *, sleep: Sleep
) -> Sequence[Row]:
    """The rows of a query, asked again on passing faults.

    The connector is no help there: 4.9 waits ``max(Retry-After, _retry_delay_max)``, never less than five
    seconds, after any 429 or 503, and gives up at once where that is longer than it may take.
    """
    for attempt in retrying(sleep):
        with attempt:
            rows = backend.fetch(sql, parameters)
    return rows

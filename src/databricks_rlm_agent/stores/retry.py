"""How statements on our state are repeated. Every one of them is safe to send again."""

from __future__ import annotations

from tenacity import (
    Retrying,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from databricks_rlm_agent.errors import Conflict, NeverReached, Unreachable
from databricks_rlm_agent.ports import Sleep

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

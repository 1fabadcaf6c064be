"""Which faults of a workspace pass: they say nothing about what was asked, and may be gone the next time."""

from __future__ import annotations

from databricks_rlm_agent.errors import Conflict, Forbidden, Throttled, Unauthorized, Unreachable

PASSING = (Unreachable, Throttled, Conflict, Unauthorized)


def passes(error: BaseException) -> bool:
    """Whether to try again later. Forbidden does not pass: the credentials are good, and the answer is no."""
    return isinstance(error, PASSING) and not isinstance(error, Forbidden)

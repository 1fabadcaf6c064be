"""The vendors' own retries, switched off, so that ``retries`` decides alone.

Left to themselves (measured; docs/retries.md), databricks-sdk 0.156 sleeps through any ``Retry-After``,
however long, before it gives up, and never repeats a 500 or 504; the connector 4.9 waits five seconds or more
after any 429 or 503, and sends a statement again whose answer was lost.
"""

from __future__ import annotations

import logging
import time
from typing import Any, NoReturn

HTTP_TIMEOUT_S = 60
# The SDK asks for the host's metadata while it is built, by a clock of its own, and for 300 s if it is let.
DISCOVERY_S = 1
# As many as may be in flight at once: planners, publishers and renewals. More than these wait their turn.
CONNECTIONS = 32


class WouldWaitError(Exception):
    """Raised where the SDK would sleep before its next try; ``__context__`` is the error that it saw."""


class NoRetries:
    """A ``databricks.sdk.clock.Clock``: the SDK sleeps by it between two tries of a request only."""

    def time(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def sleep(self, seconds: float) -> NoReturn:
        """Refuse: the first error is the one that counts."""
        raise WouldWaitError(f"the SDK would try again in {seconds:.1f} s")


def connector_options() -> dict[str, Any]:
    """Arguments of ``databricks.sql.connect`` under which every request is sent once.

    The older of its two retry modes is the one that tells the HTTP status and headers of a 429 or 503; the
    limits hold in both, should it be removed. It warns of that choice at every connection, which is ours and
    not that of whoever uses this library.
    """
    logging.getLogger("databricks.sql.backend.thrift_backend").addFilter(_not_of_our_choice)
    return {
        "_enable_v3_retries": False,
        "_retry_stop_after_attempts_count": 1,
        "_retry_stop_after_attempts_duration": 1,
        "_retry_delay_min": 60,
        "_retry_delay_max": 60,
        "_socket_timeout": 120,
    }


def _not_of_our_choice(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Legacy retry behavior")

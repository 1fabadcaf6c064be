"""Keep a controller's leases while it works, and give them up when it is stopped.

One renewal serves all runs that a controller holds, so its cost does not grow with their number. A lease can
therefore be short: it bounds how long the runs of a dead controller lie still, not how long a plan may take.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from databricks_rlm_agent.errors import RemoteError
from databricks_rlm_agent.ports import RunStore

log = logging.getLogger(__name__)
RENEWALS_PER_LEASE = 3


@dataclass(frozen=True, kw_only=True)
class Leases:
    """The leases of one controller. ``lease_s`` in seconds."""

    store: RunStore
    owner: str
    lease_s: float

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Renew in the background while the work inside goes on."""
        over = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(over,), name="lease-keeper", daemon=True)
        keeper.start()
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            self.release()
            raise
        finally:
            over.set()

    def release(self) -> None:
        """Let other controllers go on at once. What is not released lapses."""
        try:
            self.store.release(owner=self.owner)
        except RemoteError as error:
            log.warning("the leases could not be released; they lapse within %s s: %s", self.lease_s, error)

    def _keep(self, over: threading.Event) -> None:
        while not over.wait(self.lease_s / RENEWALS_PER_LEASE):
            try:
                self.store.renew(owner=self.owner, lease_s=self.lease_s)
            except RemoteError as error:  # the next renewal may succeed, and a lapsed lease costs only time
                log.warning("the leases could not be renewed: %s", error)

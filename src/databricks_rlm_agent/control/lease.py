"""Keep a controller's leases while it works, and give them up when it is stopped.

One renewal serves all runs that a controller holds, so its cost does not grow with their number. A lease can
therefore be short: it bounds how long the runs of a dead controller lie still, not how long a plan may take.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from databricks_rlm_agent.errors import RemoteError
from databricks_rlm_agent.ports import RunStore

log = logging.getLogger(__name__)
RENEWALS_PER_LEASE = 3


def controller_of(holder: str) -> str:
    """The controller that claimed under this name."""
    return holder.partition("/")[0]


@dataclass(kw_only=True)
class Leases:
    """The leases of one controller, ``owner``, for one tick at a time. ``lease_s`` in seconds."""

    store: RunStore
    owner: str
    lease_s: float
    _holder: str = ""
    _ticks: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @contextlib.contextmanager
    def held(self) -> Iterator[str]:
        """The name to claim as; its leases are renewed in the background while the work inside goes on.

        Every tick has a name of its own. What an earlier tick left behind (a save that failed, a claim that
        took effect after its answer was given up) is nobody's work any more: to renew that as well would
        keep the run from everybody for as long as this controller is busy.
        """
        self._holder = f"{self.owner}/{next(self._ticks)}"
        over = threading.Event()
        keeper = threading.Thread(
            target=self._keep, args=(self._holder, over), name="lease-keeper", daemon=True
        )
        keeper.start()
        try:
            yield self._holder
        except (KeyboardInterrupt, SystemExit):
            self.release()
            raise
        finally:
            over.set()

    def release(self) -> None:
        """Let other controllers go on at once. What is not released lapses."""
        try:
            self.store.release(owner=self._holder)
        except RemoteError as error:
            log.warning("the leases could not be released; they lapse within %s s: %s", self.lease_s, error)

    def _keep(self, owner: str, over: threading.Event) -> None:
        while not over.wait(self.lease_s / RENEWALS_PER_LEASE):
            try:
                self.store.renew(owner=owner, lease_s=self.lease_s)
            except RemoteError as error:  # the next renewal may succeed, and a lapsed lease costs only time
                log.warning("the leases could not be renewed: %s", error)

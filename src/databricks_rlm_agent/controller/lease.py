"""Keep a controller's leases while it works, and give them up when it is stopped.

One renewal serves all runs that a controller holds, so its cost does not grow with their number. A lease can
so be short: it limits how long the runs of a dead controller stand still, not how long a plan may take.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from databricks_rlm_agent import threads
from databricks_rlm_agent.errors import RemoteError
from databricks_rlm_agent.ports import RunStore

log = logging.getLogger(__name__)
RENEWALS_PER_LEASE = 3


def controller_of(holder: str) -> str:
    """The controller that claimed under this name."""
    return holder.partition("/")[0]


@dataclass(kw_only=True)
class Leases:
    """The leases of one controller, ``owner``. ``lease_s`` in seconds.

    Every claim has a name of its own, and is renewed only while its runs are advanced. What an earlier claim
    left behind (a save that failed, a claim that took effect after its answer was lost) nobody advances any
    more: to renew that as well would keep the run from everybody for as long as this controller lives.
    """

    store: RunStore
    owner: str
    lease_s: float
    monotonic: Callable[[], float] = time.monotonic
    # By name: until when its leases surely hold, by our own clock.
    _held: dict[str, float] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _changed: threading.Event = field(default_factory=threading.Event)
    _keeper: threading.Thread | None = None

    def take(self) -> str:
        """Return a new name to claim as; its leases are renewed in the background until ``keep`` drops it."""
        holder = f"{self.owner}/{next(self._numbers)}"
        with self._lock:
            self._held[holder] = self.monotonic() + self.lease_s
            if self._keeper is None:
                self._changed = threading.Event()
                self._keeper = threads.start("lease-keeper", self._keep, self._changed)
        return holder

    def keep(self, holders: set[str]) -> None:
        """Stop renewing the leases under all other names."""
        with self._lock:
            self._held = {name: until for name, until in self._held.items() if name in holders}
            if not self._held:
                self._changed.set()
                self._keeper = None

    def holds(self, holder: str) -> bool:
        """Return whether the leases under this name surely hold: if not, somebody else may advance the runs
        too.
        """
        with self._lock:
            return self._held.get(holder, 0.0) > self.monotonic()

    def release(self) -> None:
        """Let other controllers go on at once. What is not released lapses."""
        if not (owners := self._names()):
            return
        try:
            self.store.release(owners=owners)
        except RemoteError as error:
            log.warning("the leases could not be released; they lapse within %s s: %s", self.lease_s, error)

    def _keep(self, over: threading.Event) -> None:
        while not over.wait(self.lease_s / RENEWALS_PER_LEASE):
            try:
                if owners := self._names():
                    asked = self.monotonic()
                    self.store.renew(owners=owners, lease_s=self.lease_s)
                    self._renewed(owners, until=asked + self.lease_s)
            except RemoteError as error:  # the next renewal may succeed, and a lapsed lease costs only time
                log.warning("the leases could not be renewed: %s", error)
            except Exception:
                # A fault of ours. Leases that nobody renews are not held, so no planner goes on asking.
                log.exception("the leases could not be renewed")

    def _renewed(self, holders: Sequence[str], *, until: float) -> None:
        """A lease that had lapsed is not renewed by the store, and cannot be told from one that was."""
        with self._lock:
            now = self.monotonic()
            self._held |= {name: until for name in holders if self._held.get(name, 0.0) > now}

    def _names(self) -> list[str]:
        with self._lock:
            return sorted(self._held)

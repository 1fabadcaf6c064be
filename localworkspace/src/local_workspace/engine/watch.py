"""Judge from outside if an engine's server does its work: it may have ended, hang, or obey nobody."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

# "replace": end it and start another. "renew": start another for new sessions; this one goes on.
Verdict = Literal["keep", "renew", "replace"]

PROBE_SECONDS = 1.5
# So many probes in a row without an answer: on a machine under load a healthy server may miss some.
_SILENT = 3
# Seconds that a server may compute on after a cancel, when no statement runs any more.
_OBEY_SECONDS = 10.0
# Shares of one core. Below the first, a server does nothing; above the second, it computes, however busy the
# machine is with others.
_STILL, _BUSY = 0.005, 0.02


@dataclass(frozen=True, kw_only=True)
class Signs:
    """Observations of a server.

    `silent`: probes in a row that it did not answer. `still`: it has used no processor time since the first
    of them. `running`: statements that clients wait for. `busy_s`: seconds for which it has computed since a
    statement was cancelled. `newest`: new sessions begin there.
    """

    exited: bool = False
    silent: int = 0
    still: bool = False
    running: int = 0
    busy_s: float = 0.0
    newest: bool = True


def judge(signs: Signs) -> tuple[Verdict, str]:
    """Return what to do about a server, and why."""
    if signs.exited:
        return "replace", "has ended"
    if signs.silent >= _SILENT and signs.still:
        return "replace", "hangs: it neither answers nor computes"
    if signs.silent >= _SILENT and not signs.running:
        return "replace", "answers nobody, though no statement runs"
    if signs.busy_s >= _OBEY_SECONDS and not signs.running:
        return "replace", "computes on after its statements were cancelled"
    if signs.newest and (signs.silent >= _SILENT or signs.busy_s >= _OBEY_SECONDS):
        return "renew", "is busy with a statement, and answers nobody else"
    return "keep", ""


class Watched(Protocol):
    """The part of a server that is observed."""

    running: int
    cancelled: bool
    obeys: bool

    @property
    def process(self) -> int | None:
        """Its process id."""

    def exited(self) -> bool:
        """Tell whether its process has ended."""

    def answers(self, seconds: float) -> bool:
        """Tell whether it answers a call that costs nothing, within so many seconds."""


class Pulse:
    """Observes one server. `clock` gives seconds; `used` the processor time that a process has had."""

    def __init__(
        self,
        server: Watched,
        *,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[int | None], float | None] | None = None,
    ) -> None:
        self._server, self._clock, self._used = server, clock, used or processor_seconds
        self._silent = 0
        self._answered = self._last = (clock(), self._used(server.process))
        self._busy_since: float | None = None

    def take(self, *, newest: bool) -> Signs:
        """Observe the server now; wait up to `PROBE_SECONDS` for its answer."""
        server = self._server
        if server.exited():
            return Signs(exited=True)
        answered = server.answers(PROBE_SECONDS)
        now = self._clock(), self._used(server.process)
        self._silent = 0 if answered else self._silent + 1
        if answered:
            self._answered = now
        computing = (_share(self._last, now) or 0.0) >= _BUSY
        self._last = now
        if not computing:
            server.cancelled, self._busy_since = False, None
        elif server.cancelled and not server.obeys and self._busy_since is None:
            self._busy_since = now[0]
        share = _share(self._answered, now)
        return Signs(
            silent=self._silent,
            still=share is not None and share < _STILL,
            running=server.running,
            busy_s=now[0] - self._busy_since if self._busy_since is not None else 0.0,
            newest=newest,
        )


def _share(before: tuple[float, float | None], now: tuple[float, float | None]) -> float | None:
    """Return how much of a core was used in between; None where that cannot be told."""
    if before[1] is None or now[1] is None or now[0] <= before[0]:
        return None
    return (now[1] - before[1]) / (now[0] - before[0])


def processor_seconds(pid: int | None) -> float | None:
    """Return the processor time that a process has used; None where there is no /proc, or no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime (proc(5))

"""Processes of a run that left its process group (daemons), found by a mark in their environment.

Where there is no /proc none are found: there a run's end covers its process group only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

MARK = "RLM_LOCAL_RUN"
_POLL_S = 0.02


def end_stragglers(mark: str, grace_s: float, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Ask what carries the mark to end (SIGTERM), wait up to `grace_s` seconds, then SIGKILL.

    The wait matters: the executor harness has a process that writes the result when the program was killed.
    """
    asked: set[int] = set()
    deadline = time.monotonic() + grace_s
    while left := _marked(mark):
        late = time.monotonic() >= deadline
        for pid in left if late else left - asked:
            _signal(pid, mark, signal.SIGKILL if late else signal.SIGTERM)
        asked |= left
        sleep(_POLL_S)


def _marked(mark: str) -> set[int]:
    try:
        names = os.listdir("/proc")  # noqa: PTH208 - names only, and fast
    except OSError:
        return set()
    return {int(name) for name in names if name.isdigit() and _carries(int(name), mark)}


def _carries(pid: int, mark: str) -> bool:
    """Whether a process, other than this one, has the mark. One that has ended has no environment."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # ended meanwhile, or somebody else's
        return False
    return f"{MARK}={mark}".encode() in environment.split(b"\0") and pid != os.getpid()


def _signal(pid: int, mark: str, number: int) -> None:
    """Signal one process, surely that one: its number may be another's by now."""
    with contextlib.suppress(OSError, AttributeError):
        handle = os.pidfd_open(pid)
        try:
            if _carries(pid, mark):
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)

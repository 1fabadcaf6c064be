"""Processes that the program started, found by descent through /proc. Where there is no /proc there are
none.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def _parents() -> dict[int, int]:
    found: dict[int, int] = {}
    try:
        entries = [name for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 -- names only, and fast
    except OSError:
        return found
    for name in entries:
        with contextlib.suppress(OSError, ValueError, IndexError):
            # pid (command) state ppid …; the command may itself hold spaces and parentheses
            found[int(name)] = int(
                Path("/proc", name, "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1]
            )
    return found


def descendants(pid: int) -> set[int]:
    """Ids of all processes that descend from `pid`, without itself. The system's first has none."""
    if pid <= 1:
        return set()
    children: dict[int, list[int]] = {}
    for child, parent in _parents().items():
        children.setdefault(parent, []).append(child)
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found


def kill(pid: int) -> None:
    """End a process at once; one that is gone already is fine. Never the system's first, nor a group."""
    if pid <= 1:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)

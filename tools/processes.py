"""Run a command with a time limit, and end everything that it has started, however it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a command; ``problem`` is None if it ended with exit code 0 in time."""

    seconds: float
    problem: str | None = None


def run_limited(
    command: Sequence[str],
    *,
    limit_s: float,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: int | None = None,
    grace_s: float = 15.0,
) -> Outcome:
    """Run a command to its end or its limit. ``stdout`` is a file descriptor; the default is inherited.

    What still runs ``grace_s`` seconds after it, of what it has started, is killed.
    """
    if sys.platform == "linux":  # what loses its parent becomes a child of this process
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    others = frozenset(_children())  # of whoever calls: they are not ours to end
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=stdout, env=environ, cwd=cwd, start_new_session=True)
    problem = None
    try:
        code = process.wait(limit_s)
        problem = f"exit code {code}" if code else None
    except subprocess.TimeoutExpired:
        problem = f"stopped after {limit_s:g} s"
    finally:
        _end(process, others, grace_s)
    return Outcome(seconds=time.monotonic() - began, problem=problem)


def _end(process: subprocess.Popen[bytes], others: frozenset[int], grace_s: float) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    deadline = time.monotonic() + grace_s
    # Workspaces notice by themselves that their parent is gone, and end what they have started.
    while orphans := set(_children()) - others:
        for orphan in orphans:
            if time.monotonic() > deadline:
                os.kill(orphan, signal.SIGKILL)
            os.waitpid(orphan, os.WNOHANG)
        time.sleep(0.05)


def _children() -> list[int]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(pid) for pid in listed.read_text().split()] if listed.exists() else []

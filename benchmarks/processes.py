"""A process, how long it took, and the most memory that it and its children held."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# A small process starts the measured one: Linux counts the memory of whoever forks into ru_maxrss of the
# child. It looks at the descendants (the harness has one) only when asked for: looking takes time.
_LAUNCHER = """
import json, os, sys, time
argv, look = json.loads(sys.argv[1]), sys.argv[2] == "look"

def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            found = [int(text) for text in file.read().split()]
    except OSError:
        return []
    return found + [below for child in found for below in children(child)]

def peak(pid):
    try:
        with open(f"/proc/{pid}/status") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("VmHWM")), 0)
    except OSError:
        return 0

before = time.perf_counter()
pid = os.posix_spawn(argv[0], argv, os.environ)
peaks, done = {}, 0
while look and not done:
    for child in children(pid):
        peaks[child] = max(peaks.get(child, 0), peak(child))
    done, status, usage = os.wait4(pid, os.WNOHANG)
    time.sleep(0.002)
if not done:
    _, status, usage = os.wait4(pid, 0)
took = time.perf_counter() - before
print(json.dumps({"code": os.waitstatus_to_exitcode(status), "seconds": took,
                  "cpu": usage.ru_utime + usage.ru_stime,
                  "own_kb": usage.ru_maxrss, "children_kb": sum(peaks.values())}))
"""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a process cost. ``peak_mb`` adds the peaks of descendants, where they were looked at.

    ``cpu_seconds``, its own and its children's, depend far less on what else the machine does.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float


def spend(argv: Sequence[str], environment: Mapping[str, str], *, look: bool = False) -> Spent:
    """Run a process to its end; RuntimeError if it fails."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _LAUNCHER, json.dumps(list(argv)), "look" if look else ""],
        env=dict(environment),
        capture_output=True,
        text=True,
        check=True,
    )
    *printed, last = done.stdout.splitlines()
    found = json.loads(last)
    if found["code"] != 0:
        output = "\n".join([*printed, done.stderr])[-2000:]
        raise RuntimeError(f"{' '.join(argv)} ended with {found['code']}:\n{output}")
    return Spent(
        seconds=found["seconds"],
        cpu_seconds=found["cpu"],
        peak_mb=(found["own_kb"] + found["children_kb"]) / 1024,
    )

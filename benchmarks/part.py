"""One part in this process: ``python -m benchmarks.part NAME``; ``python -m benchmarks`` starts it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import measure
from benchmarks.command import options, show
from benchmarks.control_history import history
from benchmarks.control_memory import memory
from benchmarks.control_ticks import ticks
from benchmarks.control_waits import waits
from benchmarks.harness import harness
from benchmarks.iteration import iteration
from benchmarks.measure import Report
from benchmarks.startup import startup
from benchmarks.statements import statements

PARTS: dict[str, Callable[[Path, int], Report]] = {
    "statements": statements,
    "harness": harness,
    "startup": startup,
    "iteration": iteration,
    "ticks": ticks,
    "history": history,
    "waits": waits,
    "memory": memory,
}


def main(arguments: Sequence[str]) -> int:
    """Run the parts that are named, in one process; print each as it is done."""
    chosen = options(arguments, prog="python -m benchmarks.part", about=__doc__, names=PARTS)
    measure.set_quick(chosen.quick)
    reports = {}
    for name in chosen.names or PARTS:
        with tempfile.TemporaryDirectory(prefix=f"{name}-", ignore_cleanup_errors=True) as folder:
            reports[name] = PARTS[name](Path(folder), chosen.repeat)
    show(reports, chosen)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""``python -m benchmarks [NAME …] [--json] [--repeat N]``."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.command import options, show
from benchmarks.control import control
from benchmarks.harness import harness
from benchmarks.iteration import iteration
from benchmarks.measure import Report
from benchmarks.startup import startup
from benchmarks.statements import statements

BENCHES: dict[str, Callable[[Path, int], Report]] = {
    "statements": statements,
    "harness": harness,
    "startup": startup,
    "iteration": iteration,
    "control": control,
}
_ON_REQUEST = frozenset({"control"})  # takes longer than all others together


def main(arguments: list[str]) -> int:
    """Run the benchmarks that are named (all by default). A missed target is shown; it is no failure."""
    chosen = options(
        arguments,
        prog="python -m benchmarks",
        about=None,
        names=BENCHES,
        default=f"all but {', '.join(_ON_REQUEST)}",
    )
    reports: dict[str, Report] = {}
    for name in chosen.names or [name for name in BENCHES if name not in _ON_REQUEST]:
        print(f"{name} …", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix=f"rlm-bench-{name}-") as folder:
            reports[name] = BENCHES[name](Path(folder), chosen.repeat)
    show(reports, repeat=chosen.repeat, as_json=chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

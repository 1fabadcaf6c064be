"""``python -m benchmarks [NAME …] [--json] [--repeat N]``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.control import control
from benchmarks.harness import harness
from benchmarks.iteration import iteration
from benchmarks.measure import Report, table
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


def main(arguments: Sequence[str]) -> int:
    """Run the benchmarks that are named (all by default). A missed target is shown; it is no failure."""
    options = _parse(arguments)
    reports: dict[str, Report] = {}
    for name in options.names or [name for name in BENCHES if name not in _ON_REQUEST]:
        print(f"{name} …", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix=f"rlm-bench-{name}-") as folder:
            reports[name] = BENCHES[name](Path(folder), options.repeat)
    lines = [line for report in reports.values() for line in report.lines]
    if options.json:
        print(json.dumps(_document(reports, options.repeat), indent=1))
    else:
        print(table(lines))
        print(f"\n{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the end")
        print(
            *(f"{name}: {note}\n" for name, report in reports.items() for note in report.notes),
            sep="",
            end="",
        )
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(BENCHES)}; default all but {', '.join(_ON_REQUEST)}",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="N times as many rounds")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - set(BENCHES)):
        parser.error(f"no benchmark is named {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    if options.repeat < 1:
        parser.error("--repeat must be 1 or more")
    return options


def _document(reports: dict[str, Report], repeat: int) -> dict[str, Any]:
    return {
        "machine": {
            "cpus": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "load": os.getloadavg(),
        "repeat": repeat,
        "benches": {
            name: {"lines": [line.document() for line in report.lines], "notes": list(report.notes)}
            for name, report in reports.items()
        },
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""SQL workflows against a script of bare connector calls: ``python -m benchmarks.sql [NAME …] [--json]``."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.measure import Report, table
from benchmarks.sql.cold import cold
from benchmarks.sql.overhead import overhead
from benchmarks.sql.parallel import parallel
from benchmarks.sql.past import past
from benchmarks.sql.stage import Stage, staged

BENCHES: dict[str, Callable[[Stage, Path, int], Report]] = {
    "parallel": parallel,
    "overhead": overhead,
    "past": past,
    "cold": cold,
}


def main(arguments: Sequence[str]) -> int:
    """Run the benchmarks that are named (all by default). A missed target is shown; it is no failure."""
    options = _parse(arguments)
    logging.getLogger("databricks.sql").setLevel(logging.ERROR)  # it warns at every connection
    reports: dict[str, Report] = {}
    with tempfile.TemporaryDirectory(prefix="rlm-bench-sql-") as folder, staged(Path(folder)) as stage:
        for name in options.names or BENCHES:
            print(f"{name} …", file=sys.stderr, flush=True)
            place = Path(folder) / name
            place.mkdir()
            reports[name] = BENCHES[name](stage, place, options.repeat)
    if options.json:
        print(json.dumps(_document(reports, options.repeat), indent=1))
        return 0
    print(table([line for report in reports.values() for line in report.lines]))
    print(f"\n{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the end")
    for name, report in reports.items():
        print(*(f"{name}: {note}\n" for note in report.notes), sep="", end="")
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sql", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}; default all")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="N times as many rounds")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - set(BENCHES)):
        parser.error(f"no benchmark is named {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    if options.repeat < 1:
        parser.error("--repeat must be 1 or more")
    return options


def _document(reports: dict[str, Report], repeat: int) -> dict[str, object]:
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

"""SQL workflows against a script of bare connector calls: ``python -m benchmarks.sql [NAME …] [--json]``."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.command import options, show
from benchmarks.measure import Report, progress, set_quick
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


def main(arguments: list[str]) -> int:
    """Run the benchmarks that are named (all by default). A missed target is shown; it is no failure."""
    chosen = options(arguments, prog="python -m benchmarks.sql", about=__doc__, names=BENCHES)
    set_quick(chosen.quick)
    logging.getLogger("databricks.sql").setLevel(logging.ERROR)  # it warns at every connection
    reports: dict[str, Report] = {}
    with tempfile.TemporaryDirectory(prefix="rlm-bench-sql-") as folder, staged(Path(folder)) as stage:
        for name in chosen.names or BENCHES:
            progress(name)
            place = Path(folder) / name
            place.mkdir()
            reports[name] = BENCHES[name](stage, place, chosen.repeat)
    show(reports, chosen)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

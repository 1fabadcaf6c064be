"""The command line that benchmarks share: which of them, how often, and how their reports are printed."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Report, table


def options(
    arguments: Sequence[str], *, prog: str, about: str | None, names: Collection[str], default: str = "all"
) -> argparse.Namespace:
    """``names`` (chosen ones), ``quick``, ``json``, ``repeat`` (1 or more) and ``write``."""
    parser = argparse.ArgumentParser(prog=prog, description=about)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; default {default}")
    parser.add_argument("--quick", action="store_true", help="one round, small sizes: does it run?")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="N times as many rounds")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the figures as JSON into a file")
    chosen = parser.parse_args(arguments)
    if unknown := sorted(set(chosen.names) - set(names)):
        parser.error(f"no benchmark is named {', '.join(unknown)}; there are {', '.join(names)}")
    if chosen.repeat < 1:
        parser.error("--repeat must be 1 or more")
    return chosen


def show(reports: Mapping[str, Report], chosen: argparse.Namespace) -> None:
    """Print what was measured, as a table with its notes or as one JSON document."""
    document = {
        **machine(),
        "repeat": chosen.repeat,
        "quick": chosen.quick,
        "benches": {
            name: {"lines": [line.document() for line in report.lines], "notes": list(report.notes)}
            for name, report in reports.items()
        },
    }
    if chosen.write:
        chosen.write.write_text(json.dumps(document), encoding="utf-8")
    if chosen.json:
        print(json.dumps(document, indent=1))
        return
    print(table([line for report in reports.values() for line in report.lines]))
    for name, report in reports.items():
        print(*(f"{name}: {note}\n" for note in report.notes), sep="", end="")
    if chosen.quick:
        print("Quick: one round and small sizes. The figures show that it runs, and no more.")
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the end", flush=True)


def machine() -> dict[str, Any]:
    """Where it was measured, and how busy that is."""
    return {
        "machine": {
            "cpus": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "load": os.getloadavg(),
    }

"""The command line that benchmarks share: which of them, how often, and how their reports are printed."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Collection, Mapping
from typing import Any

from benchmarks.measure import Report, table


def options(
    arguments: list[str], *, prog: str, about: str | None, names: Collection[str], default: str = "all"
) -> argparse.Namespace:
    """``names`` (chosen ones), ``json`` and ``repeat`` (1 or more)."""
    parser = argparse.ArgumentParser(prog=prog, description=about)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; default {default}")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="N times as many rounds")
    chosen = parser.parse_args(arguments)
    if unknown := sorted(set(chosen.names) - set(names)):
        parser.error(f"no benchmark is named {', '.join(unknown)}; there are {', '.join(names)}")
    if chosen.repeat < 1:
        parser.error("--repeat must be 1 or more")
    return chosen


def show(reports: Mapping[str, Report], *, repeat: int, as_json: bool) -> None:
    """Print what was measured, as a table with its notes or as one JSON document."""
    if as_json:
        print(json.dumps(_document(reports, repeat), indent=1))
        return
    print(table([line for report in reports.values() for line in report.lines]))
    print(f"\n{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the end")
    for name, report in reports.items():
        print(*(f"{name}: {note}\n" for note in report.notes), sep="", end="")


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


def _document(reports: Mapping[str, Report], repeat: int) -> dict[str, Any]:
    return {
        **machine(),
        "repeat": repeat,
        "benches": {
            name: {"lines": [line.document() for line in report.lines], "notes": list(report.notes)}
            for name, report in reports.items()
        },
    }

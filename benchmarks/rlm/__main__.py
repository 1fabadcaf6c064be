"""This project, ``rlms`` and ``dspy`` against one stub model: ``python -m benchmarks.rlm [MEASURE …]``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from local_workspace import WorkspaceOptions, spawn

from benchmarks.command import machine
from benchmarks.rlm.measures import CONTEXTS, MEASURES, Plan
from benchmarks.rlm.ours import Ours
from benchmarks.rlm.rivals import rivals
from benchmarks.rlm.rows import OURS, RIVALS, Row, table
from benchmarks.rlm.run import Contender
from benchmarks.rlm.stubclient import StubClient

_PLACE = ("-m", "benchmarks.rlm.place")


def main(arguments: Sequence[str]) -> int:
    """Measure; print the table, or one JSON document. A missed target is shown; it is no failure."""
    options = _parse(arguments)
    plan = Plan(
        turns=options.turns,
        sub_calls=options.sub_calls,
        contexts={label: CONTEXTS[label] for label in options.contexts},
    )
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="rlm-bench-") as folder:
        place = WorkspaceOptions(root=Path(folder) / "workspace", allow_faults=True)
        with spawn(place, program=_PLACE) as workspace:
            contenders: list[Contender] = [
                Ours(workspace=workspace.info, folder=Path(folder)),
                *(rivals(StubClient(host=workspace.info.host)) if set(RIVALS) & set(options.only) else []),
            ]
            contenders = [it for it in contenders if it.name in options.only]
            for name in options.measures or MEASURES:
                print(f"{name} …", file=sys.stderr, flush=True)
                rows += MEASURES[name](contenders, plan)
    if options.write:
        options.write.write_text(json.dumps(_document(rows)), encoding="utf-8")
    if options.json:
        print(json.dumps(_document(rows), indent=1))
    else:
        print(table(rows))
        print(f"\n{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the end")
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rlm", description=__doc__)
    parser.add_argument(
        "measures", nargs="*", metavar="MEASURE", help=f"of {', '.join(MEASURES)}; default all"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument(
        "--turns", type=int, default=100, help="turns of the run whose prompts are measured (100)"
    )
    parser.add_argument(
        "--sub-calls", type=_numbers, default=[256, 2_000], metavar="N,…", help="sizes of batches (256,2000)"
    )
    parser.add_argument(
        "--contexts", type=_words, default=list(CONTEXTS), metavar="SIZE,…", help=f"of {', '.join(CONTEXTS)}"
    )
    parser.add_argument(
        "--only", type=_words, default=[OURS, *RIVALS], metavar="NAME,…", help="ours, rlms, dspy (all)"
    )
    parser.add_argument("--quick", action="store_true", help="few turns, small batches, one size of context")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the figures as JSON into a file")
    parser.add_argument("--repeat", type=int, default=1, help=argparse.SUPPRESS)  # as all parts are called
    options = parser.parse_args(arguments)
    if options.quick:
        options.turns, options.sub_calls, options.contexts = 4, [16], list(CONTEXTS)[:1]
    for given, known in (
        (options.measures, MEASURES),
        (options.contexts, CONTEXTS),
        (options.only, (OURS, *RIVALS)),
    ):
        if unknown := sorted(set(given) - set(known)):
            parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(known)}")
    if options.turns < 2 or min(options.sub_calls) < 1:
        parser.error("--turns must be 2 or more, --sub-calls 1 or more")
    return options


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _document(rows: Sequence[Row]) -> dict[str, object]:
    return {**machine(), "rows": [row.document() for row in rows]}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""``python -m benchmarks [PART …] [--quick] [--json] [--repeat N]``: every part in a process of its own.

Each part prints as it goes, has a time limit, and ends with all processes that it started. The exit code is 1
if a part failed or took too long; a missed target is shown and is no failure.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.command import machine, options
from tools.processes import Outcome, run_limited


@dataclass(frozen=True, kw_only=True)
class Part:
    """How a part is started, and how long it may take, in full and with --quick (seconds)."""

    command: Sequence[str]
    limit_s: float = 900.0
    quick_limit_s: float = 240.0


PARTS: dict[str, Part] = {
    "statements": Part(command=("-m", "benchmarks.part", "statements")),
    "harness": Part(command=("-m", "benchmarks.part", "harness")),
    "startup": Part(command=("-m", "benchmarks.part", "startup")),
    "iteration": Part(command=("-m", "benchmarks.part", "iteration")),
    "ticks": Part(command=("-m", "benchmarks.part", "ticks"), limit_s=1200.0),
    "history": Part(command=("-m", "benchmarks.part", "history")),
    "waits": Part(command=("-m", "benchmarks.part", "waits")),
    "memory": Part(command=("-m", "benchmarks.part", "memory"), limit_s=1800.0),
    "sql": Part(command=("-m", "benchmarks.sql"), limit_s=1800.0, quick_limit_s=480.0),
    "rlm": Part(command=("-m", "benchmarks.rlm"), limit_s=3600.0, quick_limit_s=480.0),
}
GROUPS = {"control": ("ticks", "history", "waits", "memory")}


def run_part(
    part: Part, arguments: Sequence[str], folder: Path, *, limit_s: float, to_stderr: bool = False
) -> tuple[Outcome, Any]:
    """Run a part to its end or its limit; return what came of it and its figures, if it has any."""
    written = folder / "figures.json"
    outcome = run_limited(
        [sys.executable, *part.command, *arguments, "--write", str(written)],
        limit_s=limit_s,
        environ=os.environ | {"TMPDIR": str(folder)},
        stdout=sys.stderr.fileno() if to_stderr else None,
    )
    return outcome, json.loads(written.read_text()) if written.exists() else None


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run the parts that are named (all by default)."""
    chosen = options(
        arguments, prog="python -m benchmarks", about=__doc__, names=[*PARTS, *GROUPS], default="all"
    )
    names = [name for given in chosen.names or PARTS for name in GROUPS.get(given, (given,))]
    passed_on = ["--repeat", str(chosen.repeat), *(["--quick"] if chosen.quick else [])]
    outcomes: dict[str, Outcome] = {}
    figures: dict[str, Any] = {}
    for name in names:
        part = PARTS[name]
        limit_s = part.quick_limit_s if chosen.quick else part.limit_s * chosen.repeat
        _progress(f"== {name} (at most {limit_s:g} s)")
        with tempfile.TemporaryDirectory(prefix=f"bench-{name}-", ignore_cleanup_errors=True) as folder:
            outcome, figures[name] = run_part(
                part, passed_on, Path(folder), limit_s=limit_s, to_stderr=chosen.json
            )
        outcomes[name] = outcome
        print(
            f"== {name}: {outcome.problem or 'done'}, {outcome.seconds:.0f} s\n", file=sys.stderr, flush=True
        )
    if chosen.json:
        parts = {
            name: {"seconds": round(one.seconds, 1), "problem": one.problem, "figures": figures[name]}
            for name, one in outcomes.items()
        }
        print(
            json.dumps(
                {**machine(), "repeat": chosen.repeat, "quick": chosen.quick, "parts": parts}, indent=1
            )
        )
    return 1 if any(outcome.problem for outcome in outcomes.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The parts of ``make test-all``: ``python -m tools.ci [PART …] [--minutes M] [--list]``.

Runs the parts in the order given (all: as they stand here) and prints what each took. With ``--minutes`` (CI)
long parts take their quick form, and a part is left out, and named, if the time that is left does not allow
it. The exit code is 1 if a part failed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.processes import Outcome, run_limited

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
_LIMIT_FACTOR = 4.0  # times its usual duration that a part may take


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part; ``minutes`` is what it usually takes on 2 cores, in full and in its quick form."""

    name: str
    command: tuple[str, ...]
    minutes: float
    quick: tuple[str, ...] | None = None
    quick_minutes: float = 0.0

    def form(self, *, quick: bool) -> tuple[tuple[str, ...], float]:
        """Return the command and its usual minutes."""
        if quick and self.quick is not None:
            return self.quick, self.quick_minutes
        return self.command, self.minutes


_CRASH = (PYTHON, "-m", "tools.crash")
_MACHINE_TESTS = (f"tests/controller/test_machine{kind}.py" for kind in ("", "_families", "_faults"))
_MACHINES = (PYTHON, "-m", "pytest", "-q", *_MACHINE_TESTS)
PARTS = (
    Part(name="test", command=("make", "test"), minutes=8),
    Part(name="test-long", command=("make", "test-long"), minutes=11),
    Part(name="demo", command=("make", "demo"), minutes=1),
    Part(
        name="test-spark",  # with its environment, which takes five minutes
        command=("make", "test-spark"),
        minutes=25,
        quick=("make", "test-spark-quick"),
        quick_minutes=14,
    ),
    Part(name="faults", command=("make", "faults"), minutes=12),
    Part(name="release-check", command=("make", "release-check"), minutes=5),
    Part(name="docs-commands", command=("make", "docs-commands"), minutes=3),
    Part(name="examples", command=("make", "examples"), minutes=4),
    Part(name="bench-quick", command=("make", "bench-quick"), minutes=8),
    Part(name="clients", command=("make", "clients"), minutes=8),
    Part(
        name="crash-matrix",
        command=(*_CRASH, "matrix"),
        minutes=100,
        quick=(*_CRASH, "matrix", "--quick"),
        quick_minutes=5,
    ),
    Part(
        name="workflow-matrix",
        command=(*_CRASH, "workflows"),
        minutes=40,
        quick=(*_CRASH, "workflows", "--quick"),
        quick_minutes=4,
    ),
    Part(
        name="chaos",
        command=(*_CRASH, "chaos"),
        minutes=8,
        quick=(*_CRASH, "chaos", "--quick"),
        quick_minutes=2,
    ),
    Part(
        name="storm",
        command=(*_CRASH, "storm"),
        minutes=40,
        quick=(*_CRASH, "storm", "--quick"),
        quick_minutes=3,
    ),
    Part(
        name="state-machines",
        command=("env", "RLM_HYPOTHESIS_EXAMPLES=3000", *_MACHINES),
        minutes=10,
        quick=("env", "RLM_HYPOTHESIS_EXAMPLES=600", *_MACHINES),
        quick_minutes=2,
    ),
    Part(
        name="fuzz",
        command=(PYTHON, "-m", "tools.fuzz"),
        minutes=4,
        quick=(PYTHON, "-m", "tools.fuzz", "--inputs", "3000"),
        quick_minutes=1.5,
    ),
    Part(name="test-llm", command=("make", "test-llm"), minutes=2),
    Part(name="sql-agent", command=("make", "sql-agent"), minutes=1),
    Part(name="house", command=(PYTHON, "tools/house.py", "--run"), minutes=1),
)


def fits(minutes: float, *, left: float, slowness: float) -> bool:
    """Return whether a part of so many usual minutes fits into what is left, on a machine so slow."""
    return minutes * slowness <= left


def run_parts(parts: Sequence[Part], *, minutes: float | None, began: float) -> int:
    """Run parts one after another; ``began`` is the monotonic time that ``minutes`` are counted from."""
    usual = spent = 0.0
    outcomes: dict[str, Outcome | None] = {}
    for part in parts:
        command, takes = part.form(quick=minutes is not None)
        limit = takes * _LIMIT_FACTOR
        if minutes is not None:
            left = minutes - (time.monotonic() - began) / 60
            # What the parts so far have taken says how slow this machine is.
            if not fits(takes, left=left, slowness=max(1.0, spent / usual) if usual else 1.0):
                outcomes[part.name] = None
                continue
            limit = min(limit, left + minutes / 4)
        print(f"\n== {part.name}: {' '.join(command)}", flush=True)
        outcome = run_limited(command, limit_s=60 * limit, cwd=ROOT)
        outcomes[part.name] = outcome
        usual, spent = usual + takes, spent + outcome.seconds / 60
        print(f"== {part.name}: {outcome.problem or 'ok'}, {outcome.seconds:.0f} s", flush=True)
    print(f"\n{'part':20}{'seconds':>9}  result")
    for name, found in outcomes.items():
        figures = f"{found.seconds:9.0f}  {found.problem or 'ok'}" if found else f"{'':9}  left out: no time"
        print(f"{name:20}{figures}")
    return 1 if any(found and found.problem for found in outcomes.values()) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts that are named (all by default)."""
    parser = argparse.ArgumentParser(prog="python -m tools.ci", description=__doc__)
    names = [part.name for part in PARTS]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(names)}; default all")
    parser.add_argument("--minutes", type=float, help="time for all of it; long parts take their quick form")
    parser.add_argument("--spent", type=float, default=0.0, metavar="S", help="seconds that have passed")
    parser.add_argument("--without", action="append", default=[], choices=names, help="leave a part out")
    parser.add_argument("--list", action="store_true", help="list the parts and run none")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.parts) - set(names)):
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(names)}")
    wanted = options.parts or names
    by_name = {part.name: part for part in PARTS}
    parts = [by_name[name] for name in wanted if name not in options.without]
    if options.list:
        for part in parts:
            command, minutes = part.form(quick=options.minutes is not None)
            print(f"{part.name:20}{minutes:5g} min  {' '.join(command)}")
        return 0
    return run_parts(parts, minutes=options.minutes, began=time.monotonic() - options.spent)


if __name__ == "__main__":
    sys.exit(main())

"""Feed damaged inputs to every door: ``python -m tools.fuzz [TARGET …] [--inputs N] [--seed S]``.

Each input has to end in an answer or in one of the errors that its door declares, within its time: no
traceback, no hang, no answer of 500 or above. An input is made of the seed, its target and its number, so
that ``--only N`` feeds the same one again. The exit code is 1 if one was answered otherwise.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from tools.fuzz.targets import NEEDS_WORKSPACE, TARGETS, Place, place

LIMIT_S = 120.0  # for one input, on a busy machine
SHOWN = 5  # findings of one target


class HangError(Exception):
    """An input took longer than its time."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise HangError in the main thread after so many seconds."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise HangError(f"no end after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def feed(target: str, numbers: Sequence[int], *, seed: int, where: Place) -> list[dict[str, object]]:
    """Feed inputs to one target; return what was wrong: the input's number, and the last of its traceback."""
    findings: list[dict[str, object]] = []
    for number in numbers:
        rng = random.Random(f"{seed}:{target}:{number}")
        try:
            with limited(LIMIT_S):
                TARGETS[target](rng, where)
        except Exception:  # whatever was not declared is a finding
            findings.append({"target": target, "input": number, "error": traceback.format_exc(limit=-4)})
    return findings


def main(argv: Sequence[str] | None = None) -> int:
    """Feed every target its share of the inputs."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default all")
    parser.add_argument("--inputs", type=int, default=10_000, metavar="N", help="all together (10,000)")
    parser.add_argument("--seed", type=int, default=1, help="another seed makes other inputs (1)")
    parser.add_argument("--only", type=int, metavar="N", help="feed just this input of each target")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.targets) - set(TARGETS)):
        parser.error(f"there is no target {', '.join(unknown)}")
    targets = options.targets or list(TARGETS)
    share = range(-(-options.inputs // len(targets))) if options.only is None else [options.only]
    findings = []
    logging.disable(logging.CRITICAL)  # refusals are what is expected here
    print(f"seed {options.seed}", file=sys.stderr, flush=True)
    with place(workspace=bool(NEEDS_WORKSPACE & set(targets))) as where:
        for target in targets:
            started = time.monotonic()
            found = feed(target, share, seed=options.seed, where=where)
            findings += found
            seconds = time.monotonic() - started
            line = f"{target:14}{len(share):7,} inputs  {len(found):4} findings  {seconds:6.1f} s"
            print(line, file=sys.stderr, flush=True)
            for finding in found[:SHOWN] if not options.json else ():
                print(f"  input {finding['input']}: {finding['error']}", flush=True)
    if options.json:
        print(json.dumps(findings, indent=2))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

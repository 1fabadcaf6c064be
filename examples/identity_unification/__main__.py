"""``python -m examples.identity_unification``."""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from signal import Signals
from typing import Any

from examples.identity_unification.interrupting import (
    SIGNALS,
    STATEMENTS,
    STEPS,
    differences,
    interrupted,
    rows,
    schema_of,
)
from examples.identity_unification.landing import Landing, landing
from examples.identity_unification.people import LEAST, SEED, people
from examples.identity_unification.proof import Proof, prove
from examples.identity_unification.stage import Stage, workspace


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate, run and prove; the exit code is 0 if every record is with its person."""
    options = _parse(arguments)
    if options.deliver:
        landing(people(options.edges, options.seed), options.seed).write(Path(options.deliver))
        return 0
    root = Path(options.root or tempfile.mkdtemp(prefix="rlm-example-")).absolute()
    result: dict[str, Any] = {"edges": options.edges, "root": str(root)}
    began = time.monotonic()
    delivered = landing(people(options.edges, options.seed), options.seed)
    result["generate_s"] = round(time.monotonic() - began, 1)
    signals = (
        [signal_ for signal_ in SIGNALS if options.signal in {None, signal_.name}]
        if options.interrupt
        else []
    )
    with workspace(root, delivered, [schema_of(signal_) for signal_ in signals]) as stage:
        proof = _run(stage, delivered, result, quiet=options.json)
        if proof is not None and options.interrupt:
            kinds = STATEMENTS if options.interrupt == "statements" else STEPS
            result["problems"] += _repeat(stage, result, signals, kinds, quiet=options.json)
    result["peak_mb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    print(json.dumps(result, ensure_ascii=False) if options.json else _report(result, proof))
    return 1 if result["problems"] else 0


def _run(stage: Stage, delivered: Landing, result: dict[str, Any], *, quiet: bool) -> Proof | None:
    if not quiet:
        print(f"rlm-agent {shlex.join(stage.command()[3:])}\n", flush=True)
    began = time.monotonic()
    report = stage.run()
    result["run_s"] = round(time.monotonic() - began, 1)
    result["status"] = report["status"]
    result["slowest"] = {
        step["id"]: step["seconds"] for step in sorted(report["steps"], key=lambda step: -step["seconds"])[:5]
    }
    if report["status"] != "succeeded":
        result["problems"] = [f"The workflow has {report['status']}.", *_failures(report)]
        return None
    loop = next(step for step in report["steps"] if step["iterations"])
    result["iterations"] = [measure["changed"] for measure in loop["iterations"]]
    result["loop_s"] = loop["seconds"]
    began = time.monotonic()
    proof = prove(stage.folder(), delivered.truth, delivered.edges)
    result["prove_s"] = round(time.monotonic() - began, 1)
    result |= {name: getattr(proof, name) for name in ("records", "persons", "components", "largest")}
    result["problems"] = list(proof.problems)
    return proof


def _failures(report: dict[str, Any]) -> list[str]:
    """Return the reasons of a failure from the workflow's report."""
    problems = [step["problem"] for step in report["steps"] if step["problem"]]
    return [f"{problem['file']}: {problem['message']}" for problem in problems] or report["next"]


def _repeat(
    stage: Stage, result: dict[str, Any], signals: Sequence[Signals], kinds: Sequence[str], *, quiet: bool
) -> Iterator[str]:
    """Run it a second time, and interrupted by each signal at each boundary; yield the differences."""
    once = rows(stage.folder())
    stage.run()
    yield from (f"Run twice: {text}" for text in differences(once, rows(stage.folder())))
    result["interruptions"] = {}
    for signal_ in signals:
        began = time.monotonic()
        run = interrupted(stage, signal_, kinds)
        result["interruptions"][signal_.name] = run.interruptions
        if not quiet:
            seconds = time.monotonic() - began
            print(
                f"Ended by {signal_.name} {run.interruptions} times and resumed: {seconds:.0f} s.", flush=True
            )
        if run.status != "succeeded":
            yield f"{signal_.name}: the workflow has {run.status}."
        after = rows(stage.folder(schema_of(signal_)))
        yield from (f"{signal_.name}: {text}" for text in differences(once, after))


def _report(result: dict[str, Any], proof: Proof | None) -> str:
    lines = []
    if proof is not None:
        run_seconds, loop, changed = result["run_s"], result["loop_s"], result["iterations"]
        lines = [
            f"{proof.edges:,} edges, {proof.records:,} records, {proof.persons:,} persons.",
            f"The largest person has {proof.largest:,} records.",
            f"The workflow took {run_seconds} s, {loop} s of it for the loop of {len(changed)} iterations.",
            f"Rows that they changed: {', '.join(f'{n:,}' for n in changed)}.",
            f"The largest process had {result['peak_mb']:,} MB. Everything is in {result['root']}.",
        ]
    lines += [f"WRONG: {problem}" for problem in result["problems"]]
    if not result["problems"]:
        lines.append("Every canonical id is the one of networkx, and every record is with its person.")
    if "interruptions" in result and not result["problems"]:
        lines.append("All tables are the same when it is run twice, or interrupted and resumed.")
    return "\n".join(lines)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="examples.identity_unification", description=__doc__)
    parser.add_argument("--edges", type=int, default=1_000, metavar="N", help=f"at least {LEAST} (1,000)")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help="of the generator")
    parser.add_argument("--root", metavar="DIR", help="keep everything in DIR (default: a temporary folder)")
    parser.add_argument(
        "--interrupt",
        nargs="?",
        const="steps",
        choices=("steps", "statements"),
        help="run it twice, and ended by SIGINT and SIGKILL at every step and iteration, or statement",
    )
    parser.add_argument("--signal", choices=[signal_.name for signal_ in SIGNALS], help="only by this one")
    parser.add_argument("--deliver", metavar="DIR", help="only write the deliveries there, for a Volume")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

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
    told: dict[str, Any] = {"edges": options.edges, "root": str(root)}
    began = time.monotonic()
    delivered = landing(people(options.edges, options.seed), options.seed)
    told["generate_s"] = round(time.monotonic() - began, 1)
    signs = [sign for sign in SIGNALS if options.signal in {None, sign.name}] if options.interrupt else []
    with workspace(root, delivered, [schema_of(sign) for sign in signs]) as stage:
        proof = _run(stage, delivered, told, quiet=options.json)
        if proof is not None and options.interrupt:
            kinds = STATEMENTS if options.interrupt == "statements" else STEPS
            told["problems"] += _again(stage, told, signs, kinds, quiet=options.json)
    told["peak_mb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    print(json.dumps(told, ensure_ascii=False) if options.json else _report(told, proof))
    return 1 if told["problems"] else 0


def _run(stage: Stage, delivered: Landing, told: dict[str, Any], *, quiet: bool) -> Proof | None:
    if not quiet:
        print(f"rlm-agent {shlex.join(stage.command()[3:])}\n", flush=True)
    began = time.monotonic()
    report = stage.run()
    told["run_s"] = round(time.monotonic() - began, 1)
    told["status"] = report["status"]
    told["slowest"] = {
        step["id"]: step["seconds"] for step in sorted(report["steps"], key=lambda step: -step["seconds"])[:5]
    }
    if report["status"] != "succeeded":
        told["problems"] = [f"The workflow has {report['status']}.", *_troubles(report)]
        return None
    loop = next(step for step in report["steps"] if step["iterations"])
    told["iterations"] = [measure["changed"] for measure in loop["iterations"]]
    told["loop_s"] = loop["seconds"]
    began = time.monotonic()
    proof = prove(stage.folder(), delivered.truth, delivered.edges)
    told["prove_s"] = round(time.monotonic() - began, 1)
    told |= {name: getattr(proof, name) for name in ("records", "persons", "components", "largest")}
    told["problems"] = list(proof.problems)
    return proof


def _troubles(report: dict[str, Any]) -> list[str]:
    """What the workflow's report says to its failure."""
    problems = [step["problem"] for step in report["steps"] if step["problem"]]
    return [f"{problem['file']}: {problem['message']}" for problem in problems] or report["next"]


def _again(
    stage: Stage, told: dict[str, Any], signs: Sequence[Signals], kinds: Sequence[str], *, quiet: bool
) -> Iterator[str]:
    """Run it a second time, and interrupted by each signal at each boundary; what is not the same."""
    once = rows(stage.folder())
    stage.run()
    yield from (f"Run twice: {text}" for text in differences(once, rows(stage.folder())))
    told["deaths"] = {}
    for sign in signs:
        began = time.monotonic()
        lives = interrupted(stage, sign, kinds)
        told["deaths"][sign.name] = lives.deaths
        if not quiet:
            took = time.monotonic() - began
            print(f"Ended by {sign.name} {lives.deaths} times and resumed: {took:.0f} s.", flush=True)
        if lives.status != "succeeded":
            yield f"{sign.name}: the workflow has {lives.status}."
        after = rows(stage.folder(schema_of(sign)))
        yield from (f"{sign.name}: {text}" for text in differences(once, after))


def _report(told: dict[str, Any], proof: Proof | None) -> str:
    lines = []
    if proof is not None:
        took, loop, changed = told["run_s"], told["loop_s"], told["iterations"]
        lines = [
            f"{proof.edges:,} edges, {proof.records:,} records, {proof.persons:,} persons.",
            f"The largest person has {proof.largest:,} records.",
            f"The workflow took {took} s, {loop} s of it for the loop of {len(changed)} iterations.",
            f"Rows that they changed: {', '.join(f'{n:,}' for n in changed)}.",
            f"The largest process had {told['peak_mb']:,} MB. Everything is in {told['root']}.",
        ]
    lines += [f"WRONG: {problem}" for problem in told["problems"]]
    if not told["problems"]:
        lines.append("Every canonical id is the one of networkx, and every record is with its person.")
    if "deaths" in told and not told["problems"]:
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
    parser.add_argument("--signal", choices=[sign.name for sign in SIGNALS], help="only by this one")
    parser.add_argument("--deliver", metavar="DIR", help="only write the deliveries there, for a Volume")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

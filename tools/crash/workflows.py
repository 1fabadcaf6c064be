"""The workflow matrix: ``python -m tools.crash workflows [--quick] [--section S] [--every N]``.

``rlm-agent sql run`` is stopped dead before and after every statement that it sends, those of its record
too, and run again with ``--resume``: all tables must be as after an undisturbed run, row for row, and those
that the workflow does not make anew must not have one commit more. On local workspaces in a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools.crash.controller import Controller, warm_up
from tools.crash.lanes import QUICK_CASES, progress, run_in_lanes, sample
from tools.crash.rig import eventually
from tools.crash.workflow_rig import GIVE_UP_S, SLOW, FlowRig, flow_rig, write_flow, write_slow

HEADINGS = {
    "before": "Killed before a statement takes effect",
    "after": "Killed after it took effect, before its answer",
    "late record": "A record write arrives when the run has been resumed and ended",
    "again": "Killed before or after, and again while it is resumed",
    "interrupted": "SIGINT while a statement runs",
    "terminated": "SIGTERM while a statement runs",
    "lost": "The answer of a statement is lost, and nobody is killed",
    "taken over": "Another process resumes while the first still waits for an answer",
    "in flight": "Killed while a long statement runs, which goes on, and resumed at once",
}
INTERRUPTED = 130
_RECORD = r"(?s)INSERT INTO `main`.*from_json"


@dataclass(frozen=True, kw_only=True)
class Case:
    """The n-th statement, from 0, of a run, and what happens then."""

    section: str
    n: int
    sql: str

    @property
    def name(self) -> str:
        return f"{self.n} {' '.join(self.sql.split())[:60]}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a case found; ``problem`` is empty if all tables are as after an undisturbed run."""

    section: str
    name: str
    problem: str
    seconds: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run the matrix; return 0 if every workflow ended as an undisturbed one."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.crash workflows", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--section", action="append", choices=HEADINGS, help="only this; may be given again")
    parser.add_argument("--every", type=int, default=1, help="only every n-th statement (default 1)")
    parser.add_argument("--quick", action="store_true", help=f"only {QUICK_CASES} cases of each section")
    parser.add_argument("--lanes", type=int, default=2, help="workspaces at the same time (default 2)")
    parser.add_argument("--list", action="store_true", help="list the cases, and run none")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(argv)
    warm_up()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="workflows-") as name:
        folder = Path(name)
        flow = write_flow(folder)
        with flow_rig(folder / "plan", flow) as made:
            wanted, sent = undisturbed(made)
        cases = planned(sent, options.section or list(HEADINGS), options.every)
        if options.quick:
            cases = sample(cases)
        if options.list:
            print("\n".join(f"{case.section}: {case.name}" for case in cases))
            return 0
        results = run(cases, folder, flow, wanted, options.lanes)
    report = {
        "cores": os.cpu_count(),
        "lanes": options.lanes,
        "statements": len(sent),
        "seconds": round(time.monotonic() - began, 1),
        "cases": [asdict(result) for result in results],
    }
    print(json.dumps(report) if options.json else table(report))
    return 1 if any(result.problem for result in results) else 0


def undisturbed(made: FlowRig) -> tuple[dict[str, Any], list[str]]:
    """What is there after a run without faults, and the statements that it sent."""
    made.prepare()
    made.fault()
    process = made.start()
    assert process.wait(GIVE_UP_S), process.log.read_text()
    sent = made.statements()
    assert process.exit_code == 0, process.log.read_text()
    return made.found(), sent


def planned(sent: Sequence[str], sections: Sequence[str], every: int) -> list[Case]:
    """The cases of the sections. Those that are slow, or say little more, are sampled."""
    sampled = {"again": 7, "interrupted": 4, "terminated": 12, "taken over": 5}
    cases = []
    for section in sections:
        if section == "in flight":
            cases += [Case(section=section, n=n, sql=sql) for n, sql in enumerate(SLOW)]
            continue
        step = every * sampled.get(section, 1)
        points = list(enumerate(sent))
        if section == "taken over":  # from where it has a run; else it begins another one
            begun = next(n for n, sql in points if sql.startswith("MERGE"))
            points = points[begun + 2 :]
        if section == "late record":  # counted among themselves: how many others come between may differ
            points = list(enumerate(sql for sql in sent if re.search(_RECORD, sql)))
        cases += [Case(section=section, n=n, sql=sql) for n, sql in points[::step]]
    return cases


def run(cases: Sequence[Case], folder: Path, flow: Path, wanted: dict[str, Any], lanes: int) -> list[Result]:
    """Run the cases, each lane on a workspace of its own; return the results in the order of the cases."""
    done = itertools.count(1)

    def work(made: FlowRig, case: Case, _: int) -> Result:
        result = one(case, made, wanted)
        progress(f"[{next(done)}/{len(cases)}] {case.section}: {case.name}: {result.problem or 'ok'}")
        return result

    return run_in_lanes(cases, lanes, lambda number: flow_rig(folder / f"lane{number}", flow), work)


def one(case: Case, made: FlowRig, wanted: dict[str, Any]) -> Result:
    """One case, from an empty schema to the comparison of all tables."""
    began = time.monotonic()
    try:
        made.fault()
        made.prepare()
        problem = _HOW[case.section](case, made)
        if not problem and case.section != "in flight":  # that one has tables of its own
            made.fault()
            problem = compared(made, wanted)
    except Exception:
        problem = traceback.format_exc(limit=-4)
        made.fault()
    return Result(
        section=case.section, name=case.name, problem=problem, seconds=round(time.monotonic() - began, 2)
    )


def compared(made: FlowRig, wanted: dict[str, Any]) -> str:
    """What is not as after an undisturbed run; empty if all is."""
    found = made.found()
    problems = [
        f"{what} of {name}: {found[what].get(name)}, not {wanted[what].get(name)}"
        for what in ("rows", "commits")
        for name in sorted({*found[what], *wanted[what]})
        if found[what].get(name) != wanted[what].get(name)
    ]
    return "; ".join(problems + [f"on record twice: {made.twice()}"] * bool(made.twice()))


def _killed(case: Case, made: FlowRig) -> str:
    held, process = _kill(made, case.n, after=case.section == "after")
    if held is None:
        return _not_reached(process)
    made.release(held, drop=case.section == "before")
    return _resumed(made)


def _not_reached(process: Controller) -> str:
    """How many statements a run sends depends on how many rows are recorded at once."""
    ended = process.exit_code
    return "" if ended == 0 else f"not reached, exit code {ended}: {process.log.read_text()[-800:]}"


def _kill(made: FlowRig, n: int, *, after: bool, sql: str = ".") -> tuple[int | None, Controller]:
    made.fault(action="hold", after_effect=after, skip=n, sql=sql)
    process = made.start()
    held = made.held(process)
    process.kill()
    return held, process


def _late(case: Case, made: FlowRig) -> str:
    held, process = _kill(made, case.n, after=False, sql=_RECORD)
    if held is None:
        return _not_reached(process)
    problem, before = _resumed(made), made.recorded()
    made.release(held, drop=False)
    eventually(lambda: any(re.search(_RECORD, sql) for sql in made.statements()[before[1] :]) or None)
    added = made.recorded()[0] - before[0]
    return problem or (f"{added} rows were added by a process that had the run before" if added else "")


def _again(case: Case, made: FlowRig) -> str:
    """The second process dies at each of a few places, the third one ends."""
    for n in (case.n, case.n % 11 + 6, 14):
        held, _process = _kill(made, n, after=n % 2 == 0)
        if held is not None:
            made.release(held, drop=n % 2 == 1)
    return _resumed(made)


def _signalled(case: Case, made: FlowRig) -> str:
    made.fault(action="hold", skip=case.n)
    process = made.start()
    held = made.held(process)
    if held is None:
        return _not_reached(process)
    process.signal(signal.SIGINT if case.section == "interrupted" else signal.SIGTERM)
    time.sleep(0.2)  # the process is waiting for an answer, and has nothing to show for the signal
    made.release(held, drop=False)
    if not process.wait(GIVE_UP_S):
        return "it did not end"
    if process.exit_code not in {INTERRUPTED, 0}:
        return f"exit code {process.exit_code}: {process.log.read_text()[-800:]}"
    return _resumed(made)


def _lost(case: Case, made: FlowRig) -> str:
    made.fault(action="drop", after_effect=True, skip=case.n)
    process = made.start()
    if not process.wait(GIVE_UP_S):
        return "it did not end"
    ended = process.exit_code
    return "" if ended == 0 else _resumed(made)


def _taken_over(case: Case, made: FlowRig) -> str:
    made.fault(action="hold", after_effect=True, skip=case.n)
    first = made.start()
    held = made.held(first)
    if held is None:
        return _not_reached(first)
    problem = _resumed(made)
    made.release(held, drop=False)
    if not first.wait(GIVE_UP_S):
        return "the first process did not end"
    log = first.log.read_text()
    noticed = first.exit_code == 1 and "taken over by" in log
    ended = first.exit_code == 0 and "succeeded" in log  # it had nothing left to do
    return problem or ("" if noticed or ended else f"exit code {first.exit_code}: {log[-800:]}")


def _in_flight(case: Case, made: FlowRig) -> str:
    made.session.execute("CREATE TABLE slow AS SELECT CAST(id AS BIGINT) AS v FROM range(1)")
    usual, made.flow = made.flow, write_slow(made.folder / made.schema, case.sql)
    try:
        made.fault()
        process = made.start()
        eventually(lambda: made.noted() or None, GIVE_UP_S)
        time.sleep(1.0)  # it has begun, and takes some seconds
        process.kill()
        problem = _resumed(made)
        with contextlib.suppress(TimeoutError):  # a workspace may have given up what its client had asked for
            eventually(lambda: made.statements().count(case.sql) > 1 or None, GIVE_UP_S / 2)
    finally:
        made.flow = usual
    rows = made.session.fetch("SELECT count(*) AS n FROM slow")[0]["n"]
    return problem or (f"{rows} rows, not 2" if rows != 2 else "")


def _resumed(made: FlowRig) -> str:
    made.fault()
    process = made.start()
    if not process.wait(GIVE_UP_S):
        return "the resumed run did not end"
    return (
        "" if process.exit_code == 0 else f"exit code {process.exit_code}: {process.log.read_text()[-1500:]}"
    )


_HOW: dict[str, Callable[[Case, FlowRig], str]] = {
    "before": _killed,
    "after": _killed,
    "late record": _late,
    "again": _again,
    "interrupted": _signalled,
    "terminated": _signalled,
    "lost": _lost,
    "taken over": _taken_over,
    "in flight": _in_flight,
}


def table(report: dict[str, Any]) -> str:
    """For the terminal."""
    lines = [f"{'':70}{'cases':>7}{'as undisturbed':>16}{'worst s':>9}"]
    for section, heading in HEADINGS.items():
        cases = [case for case in report["cases"] if case["section"] == section]
        if cases:
            good, worst = sum(not case["problem"] for case in cases), max(case["seconds"] for case in cases)
            lines.append(f"{heading:70}{len(cases):>7}{good:>16}{worst:>9.1f}")
    bad = [case for case in report["cases"] if case["problem"]]
    lines.append(
        f"{len(report['cases'])} cases in {report['seconds']} s, {report['statements']} statements in a run; "
        f"{len(bad)} not good"
    )
    return "\n".join(lines + [f"- {case['section']}: {case['name']}: {case['problem']}" for case in bad])


if __name__ == "__main__":
    sys.exit(main())

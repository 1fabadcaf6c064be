"""The crash matrix and the network matrix: ``python tests/crash/matrix.py [--json] [--only REGEX]``.

Everything happens on local workspaces in a temporary folder, through their fault control.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import re
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from crash_audit import Audit
from crash_controller import warm_up
from crash_harness import STAGES, Stage, Victim, kill_harness
from crash_kinds import INSERT, OF_NEXT_ATTEMPT, Kind
from crash_network import cases, fault_at, noise
from crash_points import MODES, Case, Point, kill_at, record
from crash_programs import DYING, WRITING, write_script
from crash_report import table, with_figures
from crash_rig import Rig, rig
from crash_workspace import kill_workspace

Work = Callable[[Rig, str], Case]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One case that is to be done: which section of the report it is of, and how."""

    section: str
    name: str
    work: Work


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--only", default="", metavar="REGEX", help="only cases whose section or name matches"
    )
    parser.add_argument("--lanes", type=int, default=2, help="workspaces at the same time (default 2)")
    parser.add_argument("--seed", type=int, default=1, help="of the noise (default 1)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the figures into this page")
    options = parser.parse_args(argv)
    warm_up()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crash-") as folder:
        baseline, jobs = plan(Path(folder) / "plan", options.seed)
        wanted = [job for job in jobs if re.search(options.only, f"{job.section} {job.name}")]
        done = run(wanted, Path(folder), options.lanes)
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "baseline_requests": baseline,
        "seed": options.seed,
        "lanes": options.lanes,
        "seconds": round(time.monotonic() - started, 1),
        "cases": [{"section": job.section, **asdict(case), "good": case.good} for job, case in done],
    }
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        options.write.write_text(with_figures(page, report), encoding="utf-8")
    print(json.dumps(report) if options.json else table(report))
    return 0 if all(case.good for _, case in done) else 1


def plan(folder: Path, seed: int) -> tuple[int, list[Job]]:
    """Record runs without faults; every request of theirs becomes a case of each way to go wrong."""
    with rig(folder) as made:
        log, points, found = record(made, "base")
        assert not found.problems, found.problems
        script = write_script(folder / "dying.json", DYING, WRITING)
        _, dying_points, found = record(made, "dying", script=script)
        assert not found.problems, found.problems
    extra = [(kind, n) for kind, n in dying_points if kind not in {kind for kind, _ in points}]
    jobs = [*_kills([(INSERT, 1), *points], dying=False), *_kills(extra, dying=True)]
    jobs += [_harness(stage, victim) for stage, victims in STAGES for victim in victims]
    jobs += [_workspace(None), *(_workspace(point) for point in _points([(k, 1) for k in OF_NEXT_ATTEMPT]))]
    kinds = list(dict.fromkeys(kind for kind, _ in [(INSERT, 1), *points]))
    jobs += _faults(kinds, dying=False) + _faults(list(dict.fromkeys(kind for kind, _ in extra)), dying=True)
    jobs += [_noise(seed + number) for number in range(5)]
    return len(log), jobs


def _kills(points: Sequence[tuple[Kind, int]], *, dying: bool) -> list[Job]:
    def job(point: Point) -> Job:
        def work(made: Rig, run_id: str) -> Case:
            script = write_script(made.root.parent / "kill.json", DYING, WRITING) if dying else None
            return kill_at(made, point, run_id, script=script)

        return Job(section="controller killed", name=point.name, work=work)

    return [job(point) for point in _points(points)]


def _points(points: Sequence[tuple[Kind, int]]) -> list[Point]:
    return [Point(kind=kind, n=n, mode=mode) for kind, n in points for mode in MODES]


def _workspace(point: Point | None) -> Job:
    return Job(
        section="workspace killed",
        name=point.name if point else "during the program",
        work=lambda made, run_id: kill_workspace(made, point, run_id),
    )


def _faults(kinds: Sequence[Kind], *, dying: bool) -> list[Job]:
    def job(kind: Kind, number: int) -> Job:
        fault = pairs[number][1]
        return Job(
            section="network",
            name=f"{kind.name}: {fault.name}",
            work=lambda made, run_id: fault_at(made, kind, fault, run_id, dying=dying),
        )

    pairs = cases(list(kinds))
    return [job(kind, number) for number, (kind, _) in enumerate(pairs)]


def _harness(stage: Stage, victim: Victim) -> Job:
    return Job(
        section="harness killed",
        name=f"{stage}: {victim}",
        work=lambda made, run_id: kill_harness(made, stage, victim, run_id),
    )


def _noise(seed: int) -> Job:
    return Job(
        section="noise", name=f"15 % noise, seed {seed}", work=lambda made, run_id: noise(made, seed, run_id)
    )


def run(jobs: Sequence[Job], folder: Path, lanes: int) -> list[tuple[Job, Case]]:
    """Do the jobs, each lane on a workspace of its own; the answer is in the order of the jobs."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(jobs)):
        waiting.put(number)
    done: dict[int, Case] = {}

    def lane(number: int) -> None:
        with rig(folder / f"lane{number}") as made:
            for index in _taken(waiting):
                done[index] = _case(jobs[index], made, f"c{index}")
                _say(f"[{len(done)}/{len(jobs)}] {_line(jobs[index], done[index])}")

    threads = [threading.Thread(target=lane, args=(number,)) for number in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [(jobs[index], done[index]) for index in sorted(done)]


def _taken(waiting: queue.SimpleQueue[int]) -> Iterator[int]:
    with contextlib.suppress(queue.Empty):
        while True:
            yield waiting.get_nowait()


def _case(job: Job, made: Rig, run_id: str) -> Case:
    try:
        return job.work(made, run_id)
    except Exception:
        # A case that broke is a finding with its reason; the others go on.
        problem = traceback.format_exc(limit=-4)
        with contextlib.suppress(Exception):
            made.fault()
        found = Audit(duplicates=0, lost=1, problems=(problem,))
        return Case(
            name=job.name, group=job.section, reached=True, finished=False, recovery_s=0.0, audit=found
        )


def _line(job: Job, case: Case) -> str:
    verdict = "ok" if case.good else f"NOT OK {'' if case.reached else 'not reached '}{case.audit.problems}"
    return f"{job.section}: {job.name}: {verdict} ({case.recovery_s:.1f} s, {case.restarts} restarts)"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

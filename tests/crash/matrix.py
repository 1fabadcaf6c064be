"""The crash matrix and the network matrix: ``python tests/crash/matrix.py [--json] [--only REGEX]``.

Everything happens on local workspaces in a temporary folder, through their fault control.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import re
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from crash_audit import Audit
from crash_controller import warm_up
from crash_plan import Job, plan
from crash_points import Case
from crash_report import HEADINGS, table, with_figures
from crash_rig import Rig, rig


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--only", default="", metavar="REGEX", help="only cases whose section or name matches"
    )
    parser.add_argument(
        "--section", action="append", choices=HEADINGS, help="only this section; may be given again (all)"
    )
    parser.add_argument("--lanes", type=int, default=2, help="workspaces at the same time (default 2)")
    parser.add_argument("--seed", type=int, default=1, help="of the noise (default 1)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the figures into this page")
    options = parser.parse_args(argv)
    warm_up()
    started, before = time.monotonic(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="crash-") as folder:
        sections = options.section or list(HEADINGS)
        jobs = plan(Path(folder) / "plan", options.seed, sections)
        wanted = [job for job in jobs if re.search(options.only, f"{job.section} {job.name}")]
        done = run(wanted, Path(folder), options.lanes)
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "seed": options.seed,
        "lanes": options.lanes,
        "cores": os.cpu_count(),
        "load": [round(before, 1), round(os.getloadavg()[0], 1)],
        "seconds": round(time.monotonic() - started, 1),
        "cases": [
            {"section": job.section, **asdict(case), "good": case.good, "seconds": seconds}
            for job, case, seconds in done
        ],
    }
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        options.write.write_text(with_figures(page, report), encoding="utf-8")
    print(json.dumps(report) if options.json else table(report))
    return 0 if all(case.good for _, case, _ in done) else 1


def run(jobs: Sequence[Job], folder: Path, lanes: int) -> list[tuple[Job, Case, float]]:
    """Do the jobs, each lane on a workspace of its own; in their order, what came of each, and seconds."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(jobs)):
        waiting.put(number)
    done: dict[int, tuple[Case, float]] = {}

    def lane(number: int) -> None:
        with rig(folder / f"lane{number}") as made:
            for index in _taken(waiting):
                began = time.monotonic()
                case = _case(jobs[index], made, f"c{index}")
                done[index] = case, time.monotonic() - began
                _say(f"[{len(done)}/{len(jobs)}] {_line(jobs[index], case)}")
                if not case.good:
                    _say(made.last_words())

    threads = [threading.Thread(target=lane, args=(number,)) for number in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [(jobs[index], *done[index]) for index in sorted(done)]


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

"""The crash matrix and the network matrix: ``python -m tools.crash matrix [--quick] [--only REGEX]``.

Everything happens on local workspaces in a temporary folder, through their fault control.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from tools.crash.audit import Audit
from tools.crash.controller import warm_up
from tools.crash.lanes import QUICK_CASES, progress, run_in_lanes, sample
from tools.crash.plan import Job, plan
from tools.crash.points import Case
from tools.crash.report import HEADINGS, table, with_figures
from tools.crash.rig import Rig, start_rig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the matrix; return 0 if every run ended as it would have without the fault."""
    parser = argparse.ArgumentParser(prog="python -m tools.crash matrix", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--only", default="", metavar="REGEX", help="only cases whose section or name matches"
    )
    parser.add_argument(
        "--section", action="append", choices=HEADINGS, help="only this section; may be given again (all)"
    )
    parser.add_argument("--quick", action="store_true", help=f"only {QUICK_CASES} cases of each section")
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
        if options.quick:
            wanted = sample(wanted)
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
    """Run the jobs, each lane on a workspace of its own; return the job, its outcome and its seconds."""
    done = itertools.count(1)

    def one(rig: Rig, job: Job, index: int) -> tuple[Job, Case, float]:
        began = time.monotonic()
        case = _case(job, rig, f"c{index}")
        seconds = time.monotonic() - began
        progress(f"[{next(done)}/{len(jobs)}] {_line(job, case)}")
        if not case.good:
            progress(rig.controller_logs())
        return job, case, seconds

    return run_in_lanes(jobs, lanes, lambda number: start_rig(folder / f"lane{number}"), one)


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


if __name__ == "__main__":
    sys.exit(main())

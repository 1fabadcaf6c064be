"""Several controllers under fire: ``python -m tools.crash chaos [--quick] [--seed N] [--noise]``.

Four controllers carry out 60 runs on one local workspace while they are killed, stopped past their lease and
asked to end, at random. Then they finish, and every run must have ended as it would have without them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from databricks_rlm_agent.errors import RlmError
from databricks_rlm_agent.runs.fsm import State
from tools.crash.audit import Audit, audit
from tools.crash.chaos_report import text, with_figures
from tools.crash.controller import warm_up
from tools.crash.fleet import ASKED, BY_ITSELF, KILLED, Fleet
from tools.crash.history_audit import CAUSES, HistoryAudit, audit_history
from tools.crash.load import Load, draw
from tools.crash.network import FAULTS
from tools.crash.rig import Rig, start_rig

LEASE_S = 3.0
ENVIRON = {"RLM_LEASE_S": str(LEASE_S), "RLM_SUSPECT_AFTER_S": "1"}
IDLE_LIMIT_S = 300.0  # without any progress after the last fault: then what is unfinished is lost
NOISE = 0.1


@dataclass(kw_only=True)
class Chaos:
    """One round: runs are submitted one by one while controllers are killed and stopped."""

    rig: Rig
    fleet: Fleet
    loads: Sequence[Load]
    rng: random.Random
    minutes: float
    every_s: float
    noise: bool
    faults: int = 0
    seconds: float = 0.0
    _reported_at: float = 0.0
    _submitted: int = 0
    _ended: dict[str, int] = field(default_factory=dict)

    def __call__(self, controllers: int) -> None:
        """Torment, then wait until all is done or nothing moves any more."""
        began = time.monotonic()
        self.fleet.start(controllers)
        self._disturb(began + 60 * self.minutes)
        self._clear_faults()
        self._wait()
        self.fleet.finish()
        self.seconds = time.monotonic() - began

    def _disturb(self, until: float) -> None:
        began = time.monotonic()
        # Runs are submitted over the whole time: submitted at once, they would be done long before its end.
        pace = 0.7 * (until - began) / len(self.loads)
        disturb_at = noise_at = began + 1.0
        while (now := time.monotonic()) < until:
            while self._submitted < len(self.loads) and now >= began + pace * self._submitted:
                self._submit()
            if now >= disturb_at:
                self.fleet.disturb()
                disturb_at = now + self.every_s * self.rng.uniform(0.2, 1.8)
            if self.noise and now >= noise_at:
                self._noise()
                noise_at = now + 4.0
            self.fleet.step()
            self._progress()
            time.sleep(0.05)

    def _wait(self) -> None:
        """Until every run has ended."""
        seen, since = "", time.monotonic()
        while time.monotonic() - since < IDLE_LIMIT_S:
            while self._submitted < len(self.loads):
                self._submit()
            self.fleet.step()
            self._progress()
            if sum(self._ended.values()) == len(self.loads) and not set(self._ended) - _TERMINAL:
                return
            if (now := str(self._look())) != seen:
                seen, since = now, time.monotonic()
            time.sleep(0.5)

    def _submit(self) -> None:
        load = self.loads[self._submitted]
        run = load.run(self.rig, self.rig.root.parent)
        with contextlib.suppress(RlmError):  # noise: given again at the next turn, under the same id
            self.rig.app.store.insert([run])
            self._submitted += 1

    def _noise(self) -> None:
        """New faults in the place of the old ones, on one request in ten of the next ones."""
        self._clear_faults()
        rules = [
            {"skip": number, **self.rng.choice(FAULTS).fields(), "delay_s": 2 * self.rng.random()}
            for number in range(400)
            if self.rng.random() < NOISE / (1 - NOISE)
        ]
        self.rig.control("POST", "faults", {"rules": rules})

    def _clear_faults(self) -> None:
        self.faults += self.rig.fired()
        self.rig.fault()

    def _look(self) -> list[tuple[Any, ...]]:
        statement = (
            "SELECT fsm_state, count(*) AS n, sum(iter_n) AS i FROM main.rlm.run_state GROUP BY fsm_state"
        )
        rows = self.rig.app.warehouse.fetch(statement)
        return sorted((row["fsm_state"], row["n"], row["i"]) for row in rows)

    def _progress(self) -> None:
        if time.monotonic() < self._reported_at + 5.0:
            return
        self._reported_at = time.monotonic()
        with contextlib.suppress(RlmError):  # noise hits this look too
            self._ended = {state: n for state, n, _ in self._look()}
        ends = Counter(lifetime.end for lifetime in self.fleet.lifetimes)
        stops = sum(len(lifetime.stops) for lifetime in self.fleet.lifetimes)
        done = f"{ends[KILLED]} kills, {stops} stops, {ends[ASKED]} asked"
        say(f"{self._ended} of {len(self.loads)} runs; {done}")


_TERMINAL = {str(state) for state in State if state.terminal}


def say(line: str) -> None:
    """A line for the person who waits."""
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", file=sys.stderr, flush=True)


def chaos(
    folder: Path,
    *,
    seed: int,
    minutes: float,
    controllers: int,
    runs: int,
    every_s: float = 4.0,
    noise: bool = False,
    iterations: tuple[int, int] = (3, 5),
) -> dict[str, Any]:
    """Do one round below ``folder`` and return the report."""
    rng = random.Random(seed)
    with start_rig(folder) as made:
        loads = draw(rng, runs, iterations)
        fleet = Fleet(rig=made, rng=rng, lease_s=LEASE_S, environ=ENVIRON, say=say)
        round_ = Chaos(
            rig=made, fleet=fleet, loads=loads, rng=rng, minutes=minutes, every_s=every_s, noise=noise
        )
        before = os.getloadavg()[0]
        round_(controllers)
        say("auditing")
        listed = made.job_runs()
        audits = {load.run_id: _audit(made, load, listed) for load in loads}
        active = [run.run_id for run in made.job_runs(active_only=True)]
        names = made.app.settings.namespace
        found = audit_history(made.root / "tables" / names.catalog / names.schema, fleet.lifetimes)
        setting: dict[str, Any] = {
            "seed": seed,
            "minutes": minutes,
            "controllers": controllers,
            "runs": runs,
            "noise": noise,
        }
        setting |= {"date": datetime.now(UTC).date().isoformat(), "cores": os.cpu_count()}
        setting |= {"load": [round(before, 1), round(os.getloadavg()[0], 1)]}
        return setting | _report(round_, audits, active, found) | {"job_runs": len(listed)}


def _audit(made: Rig, load: Load, listed: Sequence[Any]) -> Audit:
    try:
        return audit(made, load.run_id, load.expected, listed=listed)
    except RlmError as error:  # a run or a file that is not there is a finding
        return Audit(duplicates=0, lost=1, problems=(str(error),))


def _report(
    round_: Chaos, audits: dict[str, Audit], active: list[Any], found: HistoryAudit
) -> dict[str, Any]:
    lifetimes = round_.fleet.lifetimes
    problems = {run_id: [*each.problems, *found.problems.get(run_id, ())] for run_id, each in audits.items()}
    problems |= {run_id: list(texts) for run_id, texts in found.problems.items() if run_id not in problems}
    by_itself = [lifetime for lifetime in lifetimes if lifetime.end == BY_ITSELF]
    hung = sum(lifetime.end == KILLED and lifetime.asked is not None for lifetime in lifetimes)
    recoveries = {
        cause: sorted(each.seconds for each in found.lost if each.cause == cause) for cause in CAUSES
    }
    report = {
        "seconds": round(round_.seconds, 1),
        "kills": sum(lifetime.end == KILLED for lifetime in lifetimes) - hung,
        "stops": sum(len(lifetime.stops) for lifetime in lifetimes),
        "asked": sum(lifetime.asked is not None for lifetime in lifetimes),
        "hung": hung,
        "ended_by_itself": [
            f"{lifetime.name}, exit code {lifetime.exit_code}: {lifetime.controller.log.read_text()[-500:]}"
            for lifetime in by_itself
        ],
        "faults": round_.faults,
        "iterations": sum(len(load.steps) for load in round_.loads),
        "claims": found.claims,
        "commits": found.commits,
        "events": found.events,
        "fenced_events": found.fenced_events,
        "late_events": found.late_events,
        "lost_leases": {
            cause: {
                "number": len(each),
                "median_s": round(each[len(each) // 2], 2),
                "worst_s": round(each[-1], 2),
            }
            for cause, each in recoveries.items()
            if each
        },
        "lost": sum(each.lost for each in audits.values()),
        "doubled": sum(each.duplicates for each in audits.values()),
        "unspent": sum(max(0, each.unspent) for each in audits.values()),
        "active_job_runs": active,
        "problems": {run_id: texts for run_id, texts in problems.items() if texts},
    }
    # A continuous job's own restarts are no fault of the network's; without noise there is no reason for one.
    good = not (report["lost"] or report["doubled"] or active or report["problems"] or hung)
    return report | {"good": good and (round_.noise or not by_itself)}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 if nothing was lost and nothing happened twice."""
    parser = argparse.ArgumentParser(prog="python -m tools.crash chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=5.0, help="of faults (5)")
    parser.add_argument("--controllers", type=int, default=4)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--every", type=float, default=4.0, metavar="S", help="mean time between faults (4)")
    parser.add_argument("--quick", action="store_true", help="two controllers, 8 runs, half a minute")
    parser.add_argument("--noise", action="store_true", help="one request in ten goes wrong, too")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the figures into this page")
    options = parser.parse_args(argv)
    if options.quick:
        options.minutes, options.controllers, options.runs, options.every = 0.5, 2, 8, 2.0
    warm_up()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        report = chaos(
            Path(folder) / "round",
            seed=options.seed,
            minutes=options.minutes,
            controllers=options.controllers,
            runs=options.runs,
            every_s=options.every,
            noise=options.noise,
        )
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        options.write.write_text(with_figures(page, report), encoding="utf-8")
    print(json.dumps(report) if options.json else text(report))
    return 0 if report["good"] else 1


if __name__ == "__main__":
    sys.exit(main())

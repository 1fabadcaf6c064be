"""Everything at once: ``python -m tools.crash storm [--minutes M] [--seeds 1,2,3] [--quick]``.

While controllers carry out runs, controllers, job processes, the engine and the server are killed at random,
the disk refuses writes, and the provider of models has outages. Then all of it stops, and every run must have
ended with its answer, each of its steps done, no attempt's program run twice, and nothing left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from databricks_rlm_agent.errors import RlmError
from databricks_rlm_agent.layout import RESULT
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.run import new_run
from tools.crash.controller import warm_up
from tools.crash.fleet import Fleet
from tools.crash.provider import OUTAGES, Provider, serve
from tools.crash.rig import Rig, start_rig

LEASE_S = 3.0
IDLE_LIMIT_S = 240.0  # without any progress after the last fault: then a run is stuck
OUTAGE_S, FULL_DISK_S = (2.0, 12.0), (0.3, 2.0)
_ENGINES = ("sailprocess.py", "java")
_FULL = 4096  # bytes of a file beyond which a write is refused while the disk is "full"
_WEIGHTS = {"controller": 30, "job": 25, "engine": 10, "server": 10, "disk": 10, "provider": 15}


@dataclass(kw_only=True)
class Storm:
    """One storm: what is done to whom, and when."""

    rig: Rig
    fleet: Fleet
    provider: Provider
    rng: random.Random
    runs: int
    every_s: float
    counts: Counter[str] = field(default_factory=Counter)
    _submitted: int = 0
    _reported_at: float = 0.0
    _outage_ends: float = 0.0

    def __call__(self, minutes: float, controllers: int) -> bool:
        """Disturb for so many minutes, then wait; return whether every run ended."""
        self.fleet.start(controllers)
        began = time.monotonic()
        disturb_at = began + 2.0
        while (now := time.monotonic()) < began + 60 * minutes:
            if self._submitted < self.runs and now >= began + 40 * minutes / self.runs * self._submitted:
                self._submit()
            if now >= disturb_at:
                self._disturb()
                disturb_at = time.monotonic() + self.every_s * self.rng.uniform(0.2, 1.8)
            if now >= self._outage_ends:
                self.provider.outage = None
            self._step()
            time.sleep(0.05)
        self.provider.outage = None
        ended = self._wait()
        self.fleet.finish()
        return ended

    def _disturb(self) -> None:
        what = self.rng.choices(list(_WEIGHTS), weights=list(_WEIGHTS.values()))[0]
        if getattr(self, f"_{what}")():
            self.counts[what] += 1

    def _controller(self) -> bool:
        self.fleet.disturb()
        return True

    def _job(self) -> bool:
        pids = [pid for pid in descendants(self.rig.spawned.process.pid) if "main.py" in command_of(pid)]
        return self._kill(pids, "job process")

    def _engine(self) -> bool:
        below = descendants(self.rig.spawned.process.pid)
        pids = [pid for pid in below if any(word in command_of(pid) for word in _ENGINES)]
        return self._kill(pids, "engine")

    def _kill(self, pids: Sequence[int], what: str) -> bool:
        if pids:
            pid = self.rng.choice(pids)
            say(f"{what} {pid}: SIGKILL")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(pids)

    def _server(self) -> bool:
        say("server: SIGKILL")
        self.rig.kill_workspace()
        return True

    def _disk(self) -> bool:
        seconds = self.rng.uniform(*FULL_DISK_S)
        say(f"disk: full for {seconds:.1f} s")
        server = self.rig.spawned.process.pid
        _limit_files([server], _FULL)
        time.sleep(seconds)
        # Those that it started meanwhile, too.
        _limit_files([server, *descendants(server)], resource.RLIM_INFINITY)
        return True

    def _provider(self) -> bool:
        seconds = self.rng.uniform(*OUTAGE_S)
        self.provider.outage = self.rng.choice(OUTAGES)
        self._outage_ends = time.monotonic() + seconds
        say(f"provider: {self.provider.outage} for {seconds:.1f} s")
        return True

    def _submit(self) -> None:
        steps = self.rng.randint(2, 4)
        tag = f"storm-{self._submitted}-of-{steps}"
        run = new_run(f"Do all steps of {tag}.", run_id=tag, clock=self.rig.app.clock, model="openai/storm")
        with contextlib.suppress(RlmError):  # given again at the next turn, under the same id
            self.rig.app.store.insert([run])
            self._submitted += 1

    def _wait(self) -> bool:
        seen: object = None
        since = time.monotonic()
        while time.monotonic() - since < IDLE_LIMIT_S:
            while self._submitted < self.runs:
                self._submit()
            self._step()
            with contextlib.suppress(RlmError):
                states = self._look()
                if sum(states.values()) == self.runs and all(State(name[0]).terminal for name in states):
                    return True
                if states != seen:
                    seen, since = states, time.monotonic()
            time.sleep(0.5)
        return False

    def _look(self) -> Counter[tuple[str, int]]:
        rows = self.rig.app.warehouse.fetch("SELECT fsm_state, iter_n FROM main.rlm.run_state")
        return Counter((row["fsm_state"], row["iter_n"]) for row in rows)

    def _step(self) -> None:
        self.fleet.step()
        if time.monotonic() > self._reported_at + 10.0:
            self._reported_at = time.monotonic()
            with contextlib.suppress(RlmError):
                states = Counter(name[0] for name in self._look().elements())
                say(f"{dict(states)} of {self.runs} runs; {dict(self.counts)}")


def say(line: str) -> None:
    """A line for the person who waits."""
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", file=sys.stderr, flush=True)


def descendants(pid: int) -> list[int]:
    """Return the processes below one, as they are now."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


def command_of(pid: int) -> str:
    """Return a process's command line; empty for one that has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def _limit_files(pids: Sequence[int], size: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, most))


def problems_of(rig: Rig, runs: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the runs after the storm."""
    listed = Counter(run.run_name for run in rig.job_runs())
    yield from (f"job run {name!r}: {n} times" for name, n in listed.items() if n > 1)
    yield from (f"job run {run.run_name} is active" for run in rig.job_runs(active_only=True))
    for run_id in runs:
        run = rig.app.store.get(run_id)
        if (run.fsm_state, run.outcome.answer) != (State.SUCCEEDED, f"{run_id} is done."):
            yield f"{run_id} ended {run.fsm_state}: {run.outcome}"
        if run.lease_owner is not None:
            yield f"{run_id}: a lease is left"
        steps = [_step_of(rig, row) for row in rig.app.ledger.results(run_id) if row["status"] == "SUCCESS"]
        # A step is done again where the planner no longer sees that it was done; none is left out.
        wanted = list(range(1, int(run_id.rpartition("-")[2]) + 1))
        if sorted(set(steps)) != wanted or steps[-1] != wanted[-1]:
            yield f"{run_id}: steps {steps}, not {wanted}"
        folders = Counter(mark.parent for mark in (rig.volume / f"scratchpad/run_{run_id}").rglob("ran-*"))
        yield from (f"{folder}: the program ran {n} times" for folder, n in folders.items() if n > 1)


def _step_of(rig: Rig, row: Mapping[str, Any]) -> int:
    folder = rig.app.settings.namespace.attempt_dir(row["run_id"], row["iter_n"], row["attempt"])
    return int(json.loads(rig.app.volume.get(f"{folder}/{RESULT}"))["value"]["finished"])


def left_behind(root: Path) -> Iterator[str]:
    """Yield what the workspace left after its end: processes, and bodies of uploads."""
    for entry in Path("/proc").iterdir():
        if (
            entry.name.isdecimal()
            and int(entry.name) != os.getpid()
            and str(root) in command_of(int(entry.name))
        ):
            yield f"process {entry.name}: {command_of(int(entry.name))[:200]}"
    yield from (f"upload {path}" for path in (root / ".workspace/uploads").iterdir())


def storm(
    folder: Path, *, seed: int, minutes: float, controllers: int, runs: int, every_s: float
) -> dict[str, Any]:
    """Do one storm below ``folder`` and return the report."""
    rng = random.Random(seed)
    say(f"seed {seed}: {minutes:g} minutes, {controllers} controllers, {runs} runs")
    began = time.monotonic()
    with serve(rng) as provider, start_rig(folder) as rig:
        environ = {"RLM_LEASE_S": str(LEASE_S), "RLM_SUSPECT_AFTER_S": "2"}
        environ |= {"OPENAI_API_KEY": "sk-storm", "OPENAI_API_BASE": f"{provider.url}/v1"}
        fleet = Fleet(rig=rig, rng=rng, lease_s=LEASE_S, environ=environ, say=say)
        made = Storm(rig=rig, fleet=fleet, provider=provider, rng=rng, runs=runs, every_s=every_s)
        ended = made(minutes, controllers)
        names = [row["run_id"] for row in rig.app.warehouse.fetch("SELECT run_id FROM main.rlm.run_state")]
        problems = [] if ended else ["a run is stuck"]
        problems += problems_of(rig, sorted(names))
        problems += [f"{runs - len(names)} runs are lost"] if len(names) != runs else []
        root = rig.root
    problems += left_behind(root)
    return {
        "seed": seed, "minutes": minutes, "seconds": round(time.monotonic() - began, 1), "runs": runs,
        "faults": dict(made.counts), "asked": provider.asked, "refused": provider.refused,
        "controllers_ended": Counter(lifetime.end for lifetime in fleet.lifetimes), "problems": problems,
        "good": not problems,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 if nothing was lost, doubled, stuck or left behind."""
    parser = argparse.ArgumentParser(prog="python -m tools.crash storm", description=__doc__)
    parser.add_argument("--seeds", default="1,2,3", help="a storm for each (1,2,3)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of faults in each (10)")
    parser.add_argument("--controllers", type=int, default=3)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--every", type=float, default=5.0, metavar="S", help="mean time between faults (5)")
    parser.add_argument("--quick", action="store_true", help="one seed, 6 runs, one minute")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep workspaces and logs in this folder")
    options = parser.parse_args(argv)
    seeds = [int(text) for text in options.seeds.split(",")]
    if options.quick:
        seeds, options.minutes, options.controllers, options.runs = seeds[:1], 1.0, 2, 6
    warm_up()
    reports = []
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="storm-")))
        for seed in seeds:
            report = storm(
                folder / f"seed-{seed}", seed=seed, minutes=options.minutes, runs=options.runs,
                controllers=options.controllers, every_s=options.every,
            )  # fmt: skip
            print(json.dumps(report), flush=True)
            reports.append(report)
    return 0 if all(report["good"] for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())

"""The executor is killed: its process alone, its process group, or the watcher beside it as well."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tools.crash.audit import Expected, audit
from tools.crash.points import Case, Point, recovery, take_over
from tools.crash.programs import FIRST_SLEEPING, SLEEPING, WRITING, write_script
from tools.crash.rig import GIVE_UP_S, ORCHESTRATE, Rig, eventually

# process: the harness. group: its process group. all: the watcher too, as when the machine dies.
Victim = Literal["process", "group", "all"]
Stage = Literal["before the program", "during the program", "after result.json"]
STAGES: tuple[tuple[Stage, tuple[Victim, ...]], ...] = (
    ("before the program", ("process", "all")),
    ("during the program", ("process", "group", "all")),
    ("after result.json", ("process", "group", "all")),
)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The first attempt of a run, as its processes and files show it."""

    rig: Rig
    run_id: str

    @property
    def folder(self) -> Path:
        return self.rig.volume / "scratchpad" / f"run_{self.run_id}" / "iter_1"

    def process(self) -> int | None:
        """The harness's process, once there is one."""
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
                keeper = any(word.endswith(b"keeper.py") for word in words)  # the job's parent: no part of it
                if self.run_id.encode() in words and b"--manifest" in words and not keeper:
                    return int(entry.name)
        return None

    def started(self) -> bool:
        return any(self.folder.glob("ran-*"))

    def flagged(self) -> bool:
        """Whether a program that sleeps the first time has come to that."""
        return (self.rig.volume / f"flag-{self.run_id}").exists()

    def reported(self) -> bool:
        return (self.folder / "result.json").exists()

    def row(self) -> bool:
        return bool(self.rig.app.ledger.results(self.run_id))


def kill_harness(rig: Rig, stage: Stage, victim: Victim, run_id: str) -> Case:
    """Kill the first attempt's executor; the run goes on, with the same program once more."""
    first = SLEEPING if stage == "during the program" else WRITING
    rig.submit(run_id, script=write_script(rig.root.parent / "harness.json", first, WRITING))
    rig.fault()
    controller = rig.controller(*ORCHESTRATE)
    attempt = Attempt(rig=rig, run_id=run_id)
    pid = _stopped(attempt, stage)
    # What was meant to be hit is hit: the process stands still while this is looked at.
    at_point = {
        "before the program": not attempt.started(),
        "during the program": attempt.started() and not attempt.reported(),
        "after result.json": attempt.reported() and not attempt.row(),
    }[stage]
    killed = kill(pid, victim)
    finished = controller.wait(GIVE_UP_S) and controller.exit_code == 0
    log = rig.log()
    reported = stage == "after result.json"
    expected = Expected(
        attempts=((1, 1, "SUCCESS" if reported else "FAILED"), (2, 1, "SUCCESS")),
        ran={1: int(stage != "before the program"), 2: 1},
    )
    return Case(
        name=f"{stage}: {victim}",
        group=stage,
        reached=at_point,
        finished=finished,
        recovery_s=recovery(log, killed),
        audit=audit(rig, run_id, expected),
    )


def _stopped(attempt: Attempt, stage: Stage) -> int:
    """The harness's process, standing still at the stage."""
    pid = eventually(attempt.process, GIVE_UP_S)
    reached: Callable[[], bool] = {
        "before the program": lambda: True,
        "during the program": attempt.started,
        "after result.json": attempt.reported,
    }[stage]
    deadline = time.monotonic() + GIVE_UP_S
    while not reached() and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(pid, signal.SIGSTOP)
    return pid


def kill(pid: int, victim: Victim) -> float:
    """SIGKILL for the harness and what goes with it; the time of the kill."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    watchers = [int(child) for child in children if os.getpgid(int(child)) != os.getpgid(pid)]
    if victim == "all":
        for watcher in watchers:
            os.kill(watcher, signal.SIGKILL)
    if victim == "process":
        os.kill(pid, signal.SIGKILL)
    else:
        os.killpg(os.getpgid(pid), signal.SIGKILL)
    return time.time()


def kill_workspace(rig: Rig, point: Point | None, run_id: str) -> Case:
    """Kill the workspace while a program runs, and the controller at a point of the attempt that follows."""
    expected = Expected(attempts=((1, 1, "LOST"), (1, 2, "SUCCESS")), ran={1: 2})
    rig.submit(run_id, script=write_script(rig.root.parent / "once.json", FIRST_SLEEPING))
    rig.fault()
    first = rig.controller(*ORCHESTRATE)
    attempt = Attempt(rig=rig, run_id=run_id)
    eventually(lambda: attempt.flagged() or None, GIVE_UP_S)
    pid = attempt.process()
    assert pid is not None
    # Nobody sees the executor die, as when the machine is gone: the server stands still meanwhile.
    os.kill(rig.spawned.process.pid, signal.SIGSTOP)
    kill(pid, "all")
    killed = rig.kill_workspace()
    if point is not None:
        after = point.mode == "after"
        rig.fault(point.kind.rule(skip=point.n - 1, action="hold", after_effect=after))
        return take_over(rig, point, run_id, first, expected)
    finished = first.wait(GIVE_UP_S) and first.exit_code == 0
    return Case(
        name="during the program",
        group="no other kill",
        reached=True,
        finished=finished,
        recovery_s=recovery(rig.log(), killed),
        audit=audit(rig, run_id, expected),
    )

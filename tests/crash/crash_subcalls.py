"""A batch of model calls is interrupted: harness, controller, both, the workspace, or all of it dies."""

from __future__ import annotations

import os
import signal
import time
from typing import Literal

from crash_batch import Batch, Blow, audit_batch
from crash_controller import Controller
from crash_harness import Attempt, kill
from crash_points import Case, recovery
from crash_rig import GIVE_UP_S, ORCHESTRATE, Rig, eventually

from executor_harness import protocol

# process, group, all: of the harness, as in crash_harness. both: its process, and the controller. machine:
# everything but the controller, which is another one's.
Victim = Literal["process", "group", "all", "controller", "both", "workspace", "machine"]
# So many prompts have been answered; or all have, and their answers are in the table.
Moment = int | Literal["in the table"]
MOMENTS: tuple[tuple[Victim, tuple[Moment, ...]], ...] = (
    ("process", (0, 1, 30, 100, 170, 199, 200, "in the table")),
    ("group", (30, 170)),
    ("all", (30, 170, 200)),
    ("controller", (0, 30, 100, 199, "in the table")),
    ("both", (1, 100, 200)),
    ("workspace", (30, 100, 170)),
    ("machine", (1, 100, 170)),
)
# A workspace that starts ends the processes that its forerunner left behind.
_ENDS = {"controller": "SUCCESS", "machine": "LOST"}


def interrupt(rig: Rig, victim: Victim, moment: Moment, run_id: str, *, prompts: int = 200) -> Case:
    """Kill what is to be killed at a moment of the batch; the run goes on, and asks the same once more."""
    batch = Batch(rig=rig, run_id=run_id, prompts=prompts)
    batch.submit()
    rig.fault()
    controller = rig.controller(*ORCHESTRATE)
    _wait(batch, moment)
    attempt = Attempt(rig=rig, run_id=run_id)
    pid = eventually(attempt.process, GIVE_UP_S)
    os.kill(pid, signal.SIGSTOP)
    reached = not (batch.folder / protocol.RESULT_FILE).exists()
    blow = Blow(
        asked=batch.asked(),
        on_record=frozenset(batch.on_record()),
        log_lost=victim in {"workspace", "machine"},
    )
    killed, controller = _strike(rig, victim, pid, controller)
    finished = controller.wait(GIVE_UP_S) and controller.exit_code == 0
    return Case(
        name=f"{victim} at {moment}",
        group=victim,
        reached=reached,
        finished=finished,
        recovery_s=recovery(rig.log(), killed),
        audit=audit_batch(batch, blow, _ENDS.get(victim, "FAILED")),
    )


def _wait(batch: Batch, moment: Moment) -> None:
    """Until the batch is at that moment."""
    eventually(lambda: any(batch.folder.glob("spend*")) or None, GIVE_UP_S)
    wanted = batch.prompts if moment == "in the table" else moment
    eventually(lambda: len(batch.asked()) >= wanted or None, GIVE_UP_S)
    if moment == "in the table":
        deadline = time.monotonic() + GIVE_UP_S
        while any(batch.journal.glob("*.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.001)


def _strike(rig: Rig, victim: Victim, pid: int, controller: Controller) -> tuple[float, Controller]:
    """Kill; the time of it, and the controller that goes on."""
    if victim == "controller":
        os.kill(pid, signal.SIGCONT)
        return controller.kill(), rig.controller(*ORCHESTRATE)
    if victim == "both":
        controller.kill()
        return kill(pid, "process"), rig.controller(*ORCHESTRATE)
    if victim == "workspace":
        os.kill(pid, signal.SIGCONT)
        return rig.kill_workspace(), controller
    if victim == "machine":
        # Nobody sees the executor die: the server stands still meanwhile.
        os.kill(rig.spawned.process.pid, signal.SIGSTOP)
        kill(pid, "all")
        return rig.kill_workspace(), controller
    return kill(pid, victim), controller

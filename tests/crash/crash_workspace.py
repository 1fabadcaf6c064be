"""The workspace and its machine die during a program; a controller is killed in the attempt that follows."""

from __future__ import annotations

import os
import signal

from crash_audit import Expected, audit
from crash_harness import Attempt, kill
from crash_points import Case, Point, recovery, take_over
from crash_programs import FIRST_SLEEPING, write_script
from crash_rig import GIVE_UP_S, ORCHESTRATE, Rig, eventually


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

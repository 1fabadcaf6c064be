"""A run is cancelled: who asks for it, or the controller, is killed; or the program is quicker."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import TYPE_CHECKING

from databricks_rlm_agent.runs.fsm import State
from tools.crash.audit import Expected, audit
from tools.crash.executor import Attempt
from tools.crash.kinds import CANCEL, CANCEL_JOB, SAVE, Kind, points
from tools.crash.points import Case, Point, recovery
from tools.crash.programs import ANSWER, SHORT, SLEEPING, write_script
from tools.crash.rig import GIVE_UP_S, ORCHESTRATE, Rig, eventually

if TYPE_CHECKING:
    from tools.crash.controller import Controller

CANCELLED = Expected(
    attempts=((1, 1, "CANCELLED"),), state=State.CANCELLED, answer=None, tables=False, calls=1, ran={1: 1}
)
RACES = 10
# What the command itself sends; everything else comes from the controller that was there before.
_ASKING = {CANCEL.name, "discovery", "warehouse call", "read run"}


def record_cancel(rig: Rig, run_id: str) -> list[tuple[Kind, int]]:
    """What is sent from the wish to cancel to the end of the run."""
    controller = _executing(rig, run_id, SLEEPING)
    rig.fault()
    _cancel(rig, run_id)
    assert controller.wait(GIVE_UP_S), controller.log.read_text()
    every = points(rig.log())
    found = audit(rig, run_id, CANCELLED)
    assert not found.problems, found.problems
    return list(itertools.islice(every, every.index((SAVE, 1)) + 1))


def kill_cancel(rig: Rig, point: Point, run_id: str) -> Case:
    """Kill whoever sends the request of a point; the command is repeated, or another controller goes on."""
    first = _executing(rig, run_id, SLEEPING)
    after = point.mode == "after"
    rig.fault(point.kind.rule(skip=point.n - 1, action="hold", after_effect=after))
    asking = rig.controller("cancel", run_id, "--no-wait")
    victim = asking if point.kind.name in _ASKING else first
    held = rig.held(victim)
    killed = victim.kill()
    if held is not None:
        rig.release(held, drop=not after)
    if victim is asking:
        _cancel(rig, run_id)
    else:
        asking.wait(GIVE_UP_S)
    last = first if victim is asking else rig.controller(*ORCHESTRATE)
    finished = last.wait(GIVE_UP_S) and last.exit_code == 0
    return Case(
        name=point.name,
        group=point.kind.name,
        reached=held is not None,
        finished=finished,
        recovery_s=recovery(rig.log(), killed),
        audit=audit(rig, run_id, CANCELLED),
    )


def completion_wins(rig: Rig, run_id: str) -> Case:
    """The job run is over before its cancellation arrives: its result is kept."""
    flag = rig.volume / f"flag-{run_id}"
    waiting = f"{SHORT}import time\nwhile not pathlib.Path({str(flag)!r}).exists():\n    time.sleep(0.02)\n"
    controller = _executing(rig, run_id, waiting)
    rig.fault(CANCEL_JOB.rule(action="hold"))
    _cancel(rig, run_id)
    held = rig.held(controller)
    flag.touch()
    eventually(lambda: Attempt(rig=rig, run_id=run_id).row() or None, GIVE_UP_S)
    if held is not None:
        rig.release(held, drop=False)
    finished = controller.wait(GIVE_UP_S) and controller.exit_code == 0
    expected = Expected(
        attempts=((1, 1, "SUCCESS"),), state=State.CANCELLED, answer=None, tables=False, calls=1, ran={1: 1}
    )
    return Case(
        name="completion wins",
        group="completion wins",
        reached=held is not None,
        finished=finished,
        recovery_s=0.0,
        audit=audit(rig, run_id, expected),
    )


def race(rig: Rig, seed: int, run_id: str) -> Case:
    """Cancelled at a random moment. Either may win; what is there afterwards must fit together."""
    rng = random.Random(seed)
    path = write_script(rig.root.parent / f"race-{seed}.json", f"{SHORT}import time\ntime.sleep(0.3)\n")
    rig.submit(run_id, script=path)
    rig.fault()
    controller = rig.controller(*ORCHESTRATE)
    controller.wait(rng.uniform(0, 3), kill=False)
    _cancel(rig, run_id)
    finished = controller.wait(GIVE_UP_S) and controller.exit_code == 0
    run, rows = rig.app.store.get(run_id), rig.app.ledger.results(run_id)
    won = run.fsm_state is State.SUCCEEDED
    attempts = [(row["iter_n"], row["attempt"], row["status"]) for row in rows]
    ran = {1: int(any(_marks(rig, run_id)))}
    expected = Expected(
        attempts=attempts,
        state=State.SUCCEEDED if won else State.CANCELLED,
        answer=ANSWER if won else None,
        tables=False,
        calls=run.budget.usage.calls,
        ran={1: 1} if ("SUCCESS" in {row["status"] for row in rows}) else ran,
    )
    return Case(
        name=f"race, seed {seed}: {run.fsm_state}, {[status for _, _, status in attempts]}",
        group="race",
        reached=True,
        finished=finished,
        recovery_s=0.0,
        audit=audit(rig, run_id, expected),
    )


def _executing(rig: Rig, run_id: str, program: str) -> Controller:
    """A controller with a run whose program runs and whose state says so."""
    rig.submit(run_id, script=write_script(rig.root.parent / f"{run_id}.json", program))
    rig.fault()
    controller = rig.controller(*ORCHESTRATE)
    eventually(lambda: any(_marks(rig, run_id)) or None, GIVE_UP_S)
    eventually(lambda: rig.app.store.get(run_id).fsm_state is State.EXECUTING or None, GIVE_UP_S)
    return controller


def _cancel(rig: Rig, run_id: str) -> None:
    asking = rig.controller("cancel", run_id, "--no-wait")
    assert asking.wait(GIVE_UP_S), asking.log.read_text()
    assert asking.exit_code == 0, asking.log.read_text()


def _marks(rig: Rig, run_id: str) -> list[Path]:
    return list((rig.volume / "scratchpad" / f"run_{run_id}").rglob("ran-*"))

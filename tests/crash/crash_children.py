"""A run with child runs: a controller is killed before and after each effect, alone or one of two."""

from __future__ import annotations

from crash_again import EFFECTS
from crash_kinds import ANSWER, INSERT, Kind, points
from crash_points import Case, Point, recovery
from crash_rig import GIVE_UP_S, ORCHESTRATE, Rig
from crash_tree import audit_tree, write_tree

# How many controllers are at work.
CREWS = {1: "alone", 2: "one of two"}


def record_children(rig: Rig, run_id: str) -> list[tuple[Kind, int]]:
    """The effects of a run with children in which nothing goes wrong."""
    rig.submit(run_id, script=write_tree(rig, run_id))
    rig.fault()
    controller = rig.controller(*ORCHESTRATE)
    assert controller.wait(GIVE_UP_S), controller.log.read_text()
    assert controller.exit_code == 0, controller.log.read_text()
    log = rig.log()
    found = audit_tree(rig, run_id, log)
    assert not found.problems, found.problems
    # Programs ask models meanwhile, which is no controller's doing.
    every = points(entry for entry in log if entry["prompt_sha256"] is None)
    return [(kind, n) for kind, n in every if kind in {INSERT, ANSWER, *EFFECTS}]


def kill_children(rig: Rig, point: Point, run_id: str, *, controllers: int) -> Case:
    """Kill a controller at one point while so many are at work; another one finishes the runs.

    How many statements it takes depends on what falls into one tick: a point that was not met is tried again.
    """
    for letter in "abc":
        case = _kill(rig, point, f"{run_id}{letter}", controllers)
        if case.reached or not case.finished or case.audit.problems:
            break
    return case


def _kill(rig: Rig, point: Point, run_id: str, controllers: int) -> Case:
    rig.submit(run_id, script=write_tree(rig, run_id))
    after = point.mode == "after"
    rig.fault(point.kind.rule(skip=point.n - 1, action="hold", after_effect=after))
    first, *others = [rig.controller(*ORCHESTRATE) for _ in range(controllers)]
    held = rig.held(first)
    killed = first.kill()
    if held is not None:
        # With two it may be the other one's: to that one it is a request that failed, or was answered late.
        rig.release(held, drop=not after)
    heir = others[0] if others else rig.controller(*ORCHESTRATE)
    finished = heir.wait(GIVE_UP_S) and heir.exit_code == 0
    log = rig.log()
    return Case(
        name=f"{point.name}, {CREWS[controllers]}",
        group=f"{point.kind.name}, {CREWS[controllers]}",
        reached=held is not None,
        finished=finished,
        recovery_s=recovery(log, killed),
        audit=audit_tree(rig, run_id, log),
    )

"""The controller that recovers is killed as well, at each of its effects, and a third one goes on."""

from __future__ import annotations

import itertools

from tools.crash.audit import audit
from tools.crash.kinds import (
    BY_NAME,
    CLAIM,
    ENTRYPOINT,
    EVENTS,
    MANIFEST,
    REQUESTS,
    RESULTS,
    SAVE,
    SUBMIT,
    Kind,
    points,
)
from tools.crash.points import Case, Mode, Point, recovery
from tools.crash.rig import GIVE_UP_S, ORCHESTRATE, Rig

EFFECTS = (CLAIM, ENTRYPOINT, MANIFEST, SUBMIT, REQUESTS, RESULTS, EVENTS, SAVE)
# Each leaves something else behind: a claim, a program, a manifest, a job run, ledger rows, a result unread.
_FIRST: tuple[tuple[str, Mode], ...] = (
    ("claim", "after"),
    ("put entrypoint", "after"),
    ("put manifest", "after"),
    ("submit", "before"),
    ("submit", "after"),
    ("append requests", "after"),
    ("save", "before"),
    ("read result", "after"),
)
FIRST = tuple(Point(kind=BY_NAME[name], n=1, mode=mode) for name, mode in _FIRST)


def record_recovery(rig: Rig, first: Point, run_id: str) -> list[tuple[Kind, int]]:
    """The effects of the second controller, from its claim to its first save."""
    _kill_first(rig, first, run_id)
    rig.fault()
    second = rig.controller(*ORCHESTRATE)
    assert second.wait(GIVE_UP_S), second.log.read_text()
    found = [point for point in points(rig.log()) if point[0] in EFFECTS]
    until = list(itertools.takewhile(lambda point: point != (SAVE, 1), found))
    return [*until, (SAVE, 1)]


def kill_twice(rig: Rig, first: Point, then: Point, run_id: str) -> Case:
    """Kill the first controller at one point, and the second one at another; the third finishes the run."""
    _kill_first(rig, first, run_id)
    after = then.mode == "after"
    rig.fault(then.kind.rule(skip=then.n - 1, action="hold", after_effect=after))
    second = rig.controller(*ORCHESTRATE)
    held = rig.held(second)
    killed = second.kill()
    if held is not None:
        rig.release(held, drop=not after)
    third = rig.controller(*ORCHESTRATE)
    finished = third.wait(GIVE_UP_S) and third.exit_code == 0
    return Case(
        name=f"{first.name}, then {then.name}",
        group=first.name,
        reached=held is not None,
        finished=finished,
        recovery_s=recovery(rig.log(), killed),
        audit=audit(rig, run_id),
        faults=2,
    )


def _kill_first(rig: Rig, point: Point, run_id: str) -> None:
    rig.submit(run_id)
    after = point.mode == "after"
    rig.fault(point.kind.rule(skip=point.n - 1, action="hold", after_effect=after))
    controller = rig.controller(*ORCHESTRATE)
    held = rig.held(controller)
    assert held is not None, f"{point.name} was not reached"
    controller.kill()
    rig.release(held, drop=not after)

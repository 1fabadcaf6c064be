"""A controller is stopped dead between any two effects of a run, and killed there; another one goes on."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tools.crash.audit import Audit, Expected, audit
from tools.crash.controller import Controller
from tools.crash.kinds import CLAIM, INSERT, SAVE, Kind, kind_of, points
from tools.crash.programs import TASK
from tools.crash.rig import GIVE_UP_S, ORCHESTRATE, Rig, eventually

# before: the request never takes effect. after: it did, its reply is lost. late: it takes effect only when
# the second controller has finished the run, as a packet does that was on its way for a long time.
Mode = Literal["before", "after", "late"]
MODES: tuple[Mode, ...] = ("before", "after", "late")


@dataclass(frozen=True, kw_only=True)
class Point:
    """The n-th request (from 1) of a kind, and what becomes of it."""

    kind: Kind
    n: int
    mode: Mode

    @property
    def name(self) -> str:
        return f"{self.kind.name} {self.n} {self.mode}"

    @property
    def slug(self) -> str:
        return self.name.replace(" ", "-")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What came of one kill. ``recovery_s``: from the kill to the next state that was saved."""

    name: str
    group: str
    reached: bool
    finished: bool
    recovery_s: float
    audit: Audit
    faults: int = 1
    restarts: int = 0  # of a controller that a fault had ended

    @property
    def good(self) -> bool:
        return self.reached and self.finished and not self.audit.problems


def record(
    rig: Rig,
    run_id: str,
    *,
    script: Path | None = None,
    expected: Expected = Expected(),  # noqa: B008 - frozen
) -> tuple[list[dict[str, Any]], list[tuple[Kind, int]], Audit]:
    """A run without faults: its requests, its points, and the audit that every other one must equal."""
    rig.submit(run_id, script=script)
    rig.fault()
    controller = rig.controller(*ORCHESTRATE)
    assert controller.wait(GIVE_UP_S), controller.log.read_text()
    assert controller.exit_code == 0, controller.log.read_text()
    log = rig.log()
    return log, points(log), audit(rig, run_id, expected)


def kill_at(
    rig: Rig,
    point: Point,
    run_id: str,
    *,
    script: Path | None = None,
    expected: Expected = Expected(),  # noqa: B008 - frozen
) -> Case:
    """Kill the first controller at ``point`` and let a second one finish the run."""
    inserting = point.kind is INSERT
    first_command = submitting(rig, run_id) if inserting else ORCHESTRATE
    if not inserting:
        rig.submit(run_id, script=script)
    after = point.mode == "after"
    rig.fault(point.kind.rule(skip=point.n - 1, action="hold", after_effect=after))
    first = rig.controller(*first_command)
    return take_over(rig, point, run_id, first, expected, inserting=inserting)


def take_over(
    rig: Rig, point: Point, run_id: str, first: Controller, expected: Expected, *, inserting: bool = False
) -> Case:
    """Kill ``first`` where it is held, and let a second controller finish the run."""
    held = rig.held(first)
    killed = first.kill()
    if held is not None and point.mode != "late":
        rig.release(held, drop=point.mode == "before")
    if inserting:
        rig.submit(run_id)  # who heard nothing gives the same task again, under the same id
    second = rig.controller(*ORCHESTRATE)
    finished = second.wait(GIVE_UP_S) and second.exit_code == 0
    log = rig.log()
    if held is not None and point.mode == "late":
        before = rig.app.store.get(run_id).version
        rig.release(held, drop=False)
        eventually(lambda: len(rig.log()) > len(log) or None)
        assert rig.app.store.get(run_id).version == before, "a late request changed a finished run"
    return Case(
        name=point.name,
        group=point.kind.name,
        reached=held is not None,
        finished=finished,
        recovery_s=recovery(log, killed),
        audit=audit(rig, run_id, expected),
    )


def submitting(rig: Rig, run_id: str, script: Path | None = None) -> tuple[str, ...]:
    """The command line that gives the task."""
    given = ("--input", f"tag={run_id}", "--model", f"scripted:{script or rig.script}")
    return ("submit", TASK, "--run-id", run_id, *given)


def recovery(log: Sequence[Mapping[str, Any]], since: float) -> float:
    """Seconds from a kill to the end of the next save after a claim; 0 if none was needed any more."""
    rest = sorted((entry for entry in log if entry["time"] >= since * 1000), key=lambda entry: entry["time"])
    claimed = itertools.dropwhile(lambda entry: kind_of(entry) is not CLAIM, rest)
    saved = next((entry for entry in claimed if kind_of(entry) is SAVE), None)
    return max(0.0, (saved["time"] + saved["duration_ms"]) / 1000 - since) if saved else 0.0

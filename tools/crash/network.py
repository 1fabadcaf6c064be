"""A network that fails: one fault at a time on every kind of request, then noise on all of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tools.crash.audit import Expected, audit
from tools.crash.kinds import INSERT, Kind
from tools.crash.points import Case, submitting
from tools.crash.programs import DYING, WRITING, write_script
from tools.crash.rig import ORCHESTRATE, Rig

WAIT_S = 60.0
STARTS = 8  # of a controller, for one run
NOISE = 0.15
_ONE = Expected(attempts=((1, 1, "SUCCESS"),))
_DIED = Expected(attempts=((1, 1, "FAILED"), (2, 1, "SUCCESS")))


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to a request."""

    name: str
    action: str
    after_effect: bool = False
    more: dict[str, Any] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        return {"action": self.action, "after_effect": self.after_effect, **self.more}


def _status(code: int, *, after: bool = False, retry_after: int | None = None) -> Fault:
    suffix = " after the effect" if after else ""
    if retry_after is not None:
        suffix += f", Retry-After {retry_after}"
    more = {"status": code, "retry_after": retry_after}
    return Fault(name=f"{code}{suffix}", action="status", after_effect=after, more=more)


FAULTS = (
    _status(429),
    _status(429, retry_after=1),
    *(_status(code, after=after) for code in (503, 500, 504) for after in (False, True)),
    Fault(name="dropped", action="drop"),
    Fault(name="dropped after the effect", action="drop", after_effect=True),
    Fault(name="5 s late", action="delay", more={"delay_s": 5}),
)


def fault_at(rig: Rig, kind: Kind, fault: Fault, run_id: str, *, dying: bool) -> Case:
    """One run with one fault, on the first request of a kind."""
    programs = (DYING, WRITING) if dying else (WRITING,)
    script = write_script(rig.root.parent / "network.json", *programs)
    expected = _DIED if dying else _ONE
    if kind is INSERT:
        rig.fault(kind.rule(**fault.fields()))
        starts = _until_done(rig, *submitting(rig, run_id, script))
    else:
        rig.submit(run_id, script=script)
        rig.fault(kind.rule(**fault.fields()))
        starts = 0
    return _finish(rig, run_id, expected, name=f"{kind.name}: {fault.name}", group=kind.name, starts=starts)


def noise(rig: Rig, seed: int, run_id: str) -> Case:
    """One whole run, in which 15 % of all requests go wrong."""
    rig.submit(run_id)
    rig.fault(*_noise(random.Random(seed)))
    return _finish(rig, run_id, Expected(), name=f"15 % noise, seed {seed}", group="noise", starts=0)


def _noise(rng: random.Random) -> Iterator[dict[str, Any]]:
    # A request that one rule hits is not counted by the rules behind it: 15 % of all requests are hit when
    # p / (1 + p) of the numbers are.
    for number in range(600):
        if rng.random() < NOISE / (1 - NOISE):
            yield {"skip": number, **rng.choice(FAULTS).fields(), "delay_s": 2 * rng.random()}


def _finish(rig: Rig, run_id: str, expected: Expected, *, name: str, group: str, starts: int) -> Case:
    starts += _until_done(rig, *ORCHESTRATE)
    fired, log = rig.fired(), rig.log()
    saved = [entry for entry in log if entry["fault"]]
    rig.fault()
    found = audit(rig, run_id, expected)
    began, ended = log[0]["time"], log[-1]["time"] + log[-1]["duration_ms"]
    return Case(
        name=name,
        group=group,
        reached=fired > 0,
        finished=starts < STARTS,
        recovery_s=(ended - began) / 1000,
        audit=found,
        faults=len(saved),
        restarts=starts - 1 - (group == INSERT.name),
    )


def _until_done(rig: Rig, *arguments: str) -> int:
    """Start it again until it ends well, as a continuous job is; return the number of starts."""
    starts = 0
    while starts < STARTS:
        starts += 1
        controller = rig.controller(*arguments)
        if controller.wait(WAIT_S) and controller.exit_code == 0:
            break
    return starts


def cases(recorded: list[Kind]) -> list[tuple[Kind, Fault]]:
    """Every kind with every fault."""
    return [(kind, fault) for kind in recorded for fault in FAULTS]

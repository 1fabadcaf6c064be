"""A poll that dies or loses a reply, before or after any statement: it ends as if nothing had happened."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from intake_support import Controller, Killed, Rig, at

from databricks_rlm_agent.errors import Conflict, Unreachable
from databricks_rlm_agent.runs.fsm import State

# Statements of the poll below; a test says so if that changes.
STATEMENTS = 12
WRITES = [3, 4, 5, 6, 7, 9, 11]


def prepare(rig: Rig) -> Controller:
    """A poll later there is an item to start, to refuse, to supersede, to answer, and to report."""
    for key in ("edited", "asked", "finished"):
        rig.put(key, at(1))
    rig.controller().poll()
    rig.settle(rig.run("edited"), State.PLANNING)
    rig.settle(rig.run("asked"), State.WAITING_FOR_INPUT, question="Which?")
    rig.controller().poll()
    rig.settle(rig.run("finished"), State.SUCCEEDED, answer="42")
    rig.settle(rig.run("edited"), State.PLANNING)
    rig.change("edited", at(3), details="Something else.")
    rig.change("asked", at(3), reply="That one.")
    rig.put("new", at(3))
    rig.put("empty", at(3), summary=None, details=None)
    return rig.controller(name="c2")


def facts(rig: Rig) -> dict[str, Any]:
    """Everything that anybody could see, without times and random ids."""
    runs = [
        (
            run.item_id,
            run.item_revision,
            run.fsm_state,
            run.iter_n,
            run.cancel_reason,
            tuple(run.capsule.constraints),
        )
        for run in rig.runs()
    ]
    events = Counter((run.item_id, kind) for run in rig.runs() for kind in rig.events(run))
    table = rig.session.fetch(f"SELECT issue_key, state, agent_note, changed FROM {rig.mapping.table}")
    return {
        "runs": sorted(runs, key=str),
        "events": events,
        "table": sorted(map(str, table)),
        "twice": [name for name, n in Counter(run.run_id for run in rig.runs()).items() if n > 1],
    }


def raised(number: int, *, after: bool, error: BaseException) -> Callable[[int, bool], None]:
    def fault(seen: int, late: bool) -> None:
        if (seen, late) == (number, after):
            raise error

    return fault


@pytest.fixture(scope="module")
def expected(other_rig: Rig) -> dict[str, Any]:
    """What anybody can see after polls that nothing disturbs."""
    prepare(other_rig).poll()
    other_rig.controller(name="c3").poll()
    return facts(other_rig)


def test_the_poll_does_all_there_is_to_do(rig: Rig, expected: dict[str, Any]) -> None:
    controller = prepare(rig)
    report = controller.poll()
    assert (report.created, report.rejected, report.answered, report.superseded) == (2, 1, 1, 1)
    assert len(controller.session.log) == STATEMENTS, "\n".join(controller.session.log)
    writes = [n for n, text in enumerate(controller.session.log) if text.startswith(("MERGE", "UPDATE"))]
    assert writes == WRITES
    rig.controller(name="c3").poll()
    assert facts(rig) == expected
    assert expected["twice"] == []


@pytest.mark.parametrize("number", range(STATEMENTS))
def test_killed(rig: Rig, expected: dict[str, Any], number: int) -> None:
    """After each statement, which is before the next one: between the two nothing has an effect."""
    controller = prepare(rig)
    controller.session.fault = raised(number, after=True, error=Killed())
    with pytest.raises(Killed):
        controller.poll()
    for name in ("c3", "c4"):
        rig.controller(name=name).poll()
    assert facts(rig) == expected


@pytest.mark.parametrize("number", WRITES)
def test_a_reply_that_is_lost(rig: Rig, expected: dict[str, Any], number: int) -> None:
    """The statement takes effect, and the controller never hears of it; it lives on and polls again."""
    polled_again(rig, raised(number, after=True, error=Unreachable("lost")))
    assert facts(rig) == expected


@pytest.mark.parametrize("number", WRITES)
def test_a_conflict(rig: Rig, expected: dict[str, Any], number: int) -> None:
    polled_again(rig, raised(number, after=False, error=Conflict("DELTA_CONCURRENT_APPEND")))
    assert facts(rig) == expected


def polled_again(rig: Rig, fault: Callable[[int, bool], None]) -> None:
    controller = prepare(rig)
    controller.session.fault = fault
    for _ in range(3):
        with contextlib.suppress(Unreachable):
            controller.poll()

"""A controller dies, is cut off or is overtaken at every one of its calls: the run ends as without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from fakes import (
    LEASE_S,
    LOST,
    NO_FILE,
    NO_ROW,
    RAISED,
    Controller,
    Ending,
    Gate,
    Killed,
    World,
    check_invariants,
    program,
    settle,
)

from databricks_rlm_agent.attempts.records import EventRow, RequestRow, ResultRow
from databricks_rlm_agent.errors import Conflict, RemoteError, Unreachable
from databricks_rlm_agent.runs.actions import Finish
from databricks_rlm_agent.runs.budget import Budget
from databricks_rlm_agent.runs.fsm import State

# Every way in which an attempt can end, a repair, a retry and a summary.
SCRIPT = [
    program("fails()"),
    program("lost()"),
    program("no_row()"),
    program("no_file()"),
    program("long()"),
    Finish(answer="42"),
]
ENDINGS = {(1, 1): RAISED, (2, 1): LOST, (3, 1): NO_ROW, (4, 1): NO_FILE, (5, 1): Ending(stdout_bytes=10_000)}


@dataclass(kw_only=True)
class Story:
    """Two controllers that take turns, one of which meets a fault at the ``at``-th call of them all."""

    at: int | None
    after: bool
    happen: Callable[[Story], None]
    runs: tuple[str, ...] = ("r1",)
    world: World = field(default_factory=lambda: World(endings=ENDINGS))
    calls: list[str] = field(default_factory=list)
    controllers: list[Controller] = field(default_factory=list)

    def __post_init__(self) -> None:
        for run_id in self.runs:
            self.world.add(run_id)
        self.controllers = [self.fresh(), self.fresh()]

    def fresh(self) -> Controller:
        number = self.world.new_id("c")
        return Controller(world=self.world, script=SCRIPT, name=number, gate=Gate(fault=self.fault))

    def fault(self, name: str, after: bool) -> None:
        if not after:
            self.calls.append(name)
        if self.at == len(self.calls) - 1 and after is self.after:
            self.at = None
            self.happen(self)

    def context(self, index: int) -> None:
        try:
            self.controllers[index]()
        except Killed:
            self.controllers[index] = self.fresh()  # the platform starts another one
        except RemoteError:
            pass  # the loop waits and ticks again
        check_invariants(self.world)

    def play(self) -> dict[str, Any]:
        settle(self.world, lambda: self.context(0), lambda: self.context(1), steps=120)
        check_invariants(self.world)
        # Only what the plan cost may differ: a crash after thinking and before publishing thinks again.
        return {
            "runs": {
                run.run_id: (run.fsm_state, run.outcome, run.iter_n, run.attempt, run.capsule)
                for run in self.world.runs.values()
            },
            "results": {
                (row.run_id, row.iter_n, row.attempt): row.status for row in self.world.table(ResultRow)
            },
            "requests": {
                (row.run_id, row.iter_n, row.attempt, row.artifact_hash)
                for row in self.world.table(RequestRow)
            },
            "launches": dict(self.world.launches),
        }


def kill(_story: Story) -> None:
    raise Killed


def cut_off(_story: Story) -> None:
    raise Unreachable("No answer.")


def conflict(_story: Story) -> None:
    raise Conflict("Somebody else won.")


def overtake(story: Story) -> None:
    """The controller is held until its lease has lapsed, and another one does all that it can."""
    story.world.now_s += LEASE_S + 1
    heir = story.fresh()
    for _ in range(3):
        heir()
        story.world.run_jobs()
        story.world.now_s += 1
    # The stale one looked before the other published, so it may think once more than is needed.
    story.world.violations = [text for text in story.world.violations if "planned again" not in text]


def quiet(_story: Story) -> None:
    raise AssertionError("nothing should happen")


def baseline(runs: tuple[str, ...] = ("r1",)) -> tuple[dict[str, Any], list[str]]:
    story = Story(at=None, after=False, happen=quiet, runs=runs)
    return story.play(), story.calls


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("happen", [kill, cut_off], ids=lambda happen: happen.__name__)
def test_a_fault_at_every_call_changes_nothing_of_the_outcome(
    happen: Callable[[Story], None], after: bool
) -> None:
    expected, calls = baseline()
    assert {"plan", "put manifest.json", "submit", "save", "append execution_results"} <= set(calls)
    for at, name in enumerate(calls):
        story = Story(at=at, after=after, happen=happen)
        assert story.play() == expected, f"{happen.__name__} at call {at}, {name}"
        assert story.at is None


def test_a_conflict_at_every_write_changes_nothing_of_the_outcome() -> None:
    expected, calls = baseline()
    for at, name in enumerate(calls):
        if name.startswith(("append", "save", "claim")):
            assert Story(at=at, after=False, happen=conflict).play() == expected, f"at call {at}, {name}"


def test_being_overtaken_at_every_call_changes_nothing_of_the_outcome() -> None:
    expected, calls = baseline()
    for at, name in enumerate(calls):
        story = Story(at=at, after=False, happen=overtake)
        story.fault = _without_replans(story)  # type: ignore[method-assign]
        story.controllers = [story.fresh(), story.fresh()]
        assert story.play() == expected, f"at call {at}, {name}"


def _without_replans(story: Story) -> Callable[[str, bool], None]:
    plain = Story.fault

    def fault(name: str, after: bool) -> None:
        plain(story, name, after)
        story.world.violations = [text for text in story.world.violations if "planned again" not in text]

    return fault


def test_three_runs_and_a_kill_at_every_call() -> None:
    runs = ("a", "b", "c")
    expected, calls = baseline(runs)
    for at, name in enumerate(calls[::3]):
        story = Story(at=3 * at, after=True, happen=kill, runs=runs)
        assert story.play() == expected, f"kill at call {3 * at}, {name}"


def test_a_controller_that_dies_again_and_again_gets_there_in_the_end() -> None:
    """Every controller dies within its first calls: only what is durable carries the run on."""
    world = World(endings=ENDINGS)
    world.add()
    expected, _ = baseline()
    deaths = 0

    def mortal() -> Gate:
        calls: list[str] = []
        life = 3 + 7 * (deaths % 5)

        def fault(name: str, after: bool) -> None:
            if not after and name != "due":  # to wait costs no life
                calls.append(name)
            if len(calls) == life:
                raise Killed

        return Gate(fault=fault)

    def context() -> None:
        nonlocal deaths, controller
        try:
            controller()
        except Killed:
            deaths += 1
            controller = Controller(world=world, script=SCRIPT, name=world.new_id("c"), gate=mortal())
            world.now_s += LEASE_S

    controller = Controller(world=world, script=SCRIPT, gate=mortal())
    settle(world, context, steps=3_000)
    check_invariants(world)
    run = world.runs["r1"]
    assert deaths > 3
    assert {"r1": (run.fsm_state, run.outcome, run.iter_n, run.attempt, run.capsule)} == expected["runs"]


@pytest.mark.fault("A3")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_of_calls_that_nobody_made_none_is_counted_but_one_for_a_death_right_before_it(after: bool) -> None:
    _, calls = baseline()
    for at, name in enumerate(calls):
        story = Story(at=at, after=after, happen=kill)
        story.play()
        run, made = story.world.runs["r1"], story.world.calls["r1"]
        recorded = name.removeprefix("put ").removesuffix(".json").isdigit() and after
        before_it = name in {"plan", "summarize"} and not after
        assert run.budget.usage.calls == made + (recorded or before_it), f"killed at call {at}, {name}"


@pytest.mark.fault("A3")
@pytest.mark.parametrize("call", ["plan", "put entrypoint.py", "save"])
def test_a_crash_loop_waits_and_does_not_spend(call: str) -> None:
    """32 controllers die one after the other at the same point, the first 12 of them within five minutes."""
    world = World()
    world.add(budget=Budget(max_model_calls=40))
    deaths: list[float] = []

    while len(deaths) < 32:
        try:
            Controller(world=world, script=SCRIPT, name=world.new_id("c"), gate=Gate(fault=_at(call)))()
        except Killed:
            deaths.append(world.now_s)
        world.now_s += 1
    assert len([moment for moment in deaths if moment <= 300]) <= 12
    settle(world, Controller(world=world, script=[Finish(answer="42")] * 2, name="last"), steps=400)
    run = world.runs["r1"]
    assert (run.fsm_state, run.outcome.answer) == (State.SUCCEEDED, "42")
    # A call that is on record counts, though its controller has died before it could make it.
    assert run.budget.usage.calls == world.calls["r1"] + (32 if call == "plan" else 0)


@pytest.mark.fault("A3")
def test_a_controller_that_was_held_up_asks_nothing_more() -> None:
    world = World()
    world.add()
    heir = Controller(world=world, script=SCRIPT, name="heir")
    asked: list[int] = []

    def overtaken(name: str, after: bool) -> None:
        if name == "put 1.json" and not after and not asked:
            asked.append(world.calls["r1"])
            world.now_s += LEASE_S + 1
            heir()

    Controller(world=world, script=SCRIPT, name="late", gate=Gate(fault=overtaken))()
    assert (asked, world.calls["r1"]) == ([0], 1)
    settle(world, heir)
    assert world.runs["r1"].budget.usage.calls == world.calls["r1"]


@pytest.mark.fault("A3")
def test_a_controller_that_was_stopped_in_peace_keeps_nobody_waiting() -> None:
    world = World()
    world.add()
    for _ in range(5):
        stopped = Controller(world=world, script=SCRIPT, name=world.new_id("c"), gate=Gate(fault=_at("plan")))
        with pytest.raises(Killed):
            stopped()
        stopped.tick.leases.release()
    Controller(world=world, script=SCRIPT)()
    assert world.runs["r1"].fsm_state is State.EXECUTING


def _at(call: str) -> Callable[[str, bool], None]:
    def die(name: str, after: bool) -> None:
        if name == call and not after:
            raise Killed

    return die


def test_events_of_two_epochs_never_share_a_key() -> None:
    story = Story(at=8, after=True, happen=kill)
    story.play()
    by_epoch: dict[int, set[int]] = {}
    for row in story.world.table(EventRow):
        by_epoch.setdefault(row.epoch, set()).add(row.seq)
    order = [seq for epoch in sorted(by_epoch) for seq in sorted(by_epoch[epoch])]
    assert order == sorted(set(order))

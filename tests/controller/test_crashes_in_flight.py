"""Faults at every call while plans are in flight over several ticks, with retries and answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from fakes import LOST, RAISED, Controller, Gate, Killed, World, check_invariants, program
from pools import SteppedPool
from test_crashes import Story, conflict, cut_off, kill, overtake, quiet

from databricks_rlm_agent.attempts.records import EventRow, ResultRow
from databricks_rlm_agent.errors import RemoteError
from databricks_rlm_agent.runs.actions import Ask, Finish
from databricks_rlm_agent.runs.fsm import State

SCRIPT = [
    program("lost()"),
    Ask(question="Which year?"),
    program("fails()"),
    Ask(question="Really?"),
    Finish(answer="42"),
]
# The first program is lost twice, the second is lost and then raises.
ENDINGS = {(1, 1): LOST, (1, 2): LOST, (3, 1): LOST, (3, 2): RAISED}
ATTEMPTS = {(1, 1), (1, 2), (1, 3), (3, 1), (3, 2)}
MAX_TURNS = 150


@dataclass(kw_only=True)
class InFlight(Story):
    """Two controllers whose models answer two ticks later; ``stop`` is SIGTERM instead of SIGKILL."""

    world: World = field(default_factory=lambda: World(endings=ENDINGS))
    crews: list[SteppedPool] = field(default_factory=list)
    gracefully: bool = False
    turns: int = 0
    open: dict[int, list[int]] = field(default_factory=dict)

    def fault(self, name: str, after: bool) -> None:
        """As in the story, but other calls may lie between the begin and the end of one."""
        mine = self.open.setdefault(threading.get_ident(), [])
        if not after:
            self.calls.append(name)
            mine.append(len(self.calls) - 1)
        number = mine[-1]
        try:
            if self.at == number and after is self.after:
                self.at = None
                self.happen(self)
        except BaseException:
            if not after:  # there will be no end of it
                mine.pop()
            raise
        finally:
            if after:
                mine.pop()

    def fresh(self) -> Controller:
        self.crews.append(SteppedPool(slow=True))
        return Controller(
            world=self.world,
            script=SCRIPT,
            name=self.world.new_id("c"),
            worker_pool=self.crews[-1],
            gate=Gate(fault=self.fault),
        )

    def context(self, index: int) -> None:
        controller = self.controllers[index]
        self.turns += 1
        try:
            controller(wait_s=0)
            assert isinstance(controller.worker_pool, SteppedPool)
            if self.turns % 4 >= 2 and controller.worker_pool.parked:
                controller.worker_pool.resume()
        except Killed:
            if self.gracefully:
                controller.tick.leases.release()
            self.controllers[index] = self.fresh()
        except RemoteError:
            pass
        check_invariants(self.world)

    def settle(self) -> None:
        for number in range(MAX_TURNS):
            self.context(number % 2)
            for run in list(self.world.runs.values()):
                if run.fsm_state is State.WAITING_FOR_INPUT:
                    assert self.world.answer(run, f"yes, {run.iter_n}")
                    assert not self.world.answer(run, "again")  # by who looked before
            self.world.run_jobs()
            self.world.now_s += 1
            if all(run.fsm_state.terminal for run in self.world.runs.values()):
                return
        raise AssertionError(f"not done after {MAX_TURNS} turns: {self.world.runs}")

    def play(self) -> dict[str, Any]:
        try:
            self.settle()
        finally:
            for worker_pool in self.crews:  # those of the dead too: no thread stays behind
                worker_pool.resume_all()
        check_invariants(self.world)
        return {
            "runs": {
                run.run_id: (run.fsm_state, run.outcome, run.iter_n, run.attempt, run.capsule)
                for run in self.world.runs.values()
            },
            "results": {(row.iter_n, row.attempt): row.status for row in self.world.table(ResultRow)},
            "launches": dict(self.world.launches),
        }


@pytest.fixture(scope="module")
def baseline() -> tuple[dict[str, Any], list[str]]:
    story = InFlight(at=None, after=False, happen=quiet)
    return story.play(), story.calls


def test_the_story_without_a_fault(baseline: tuple[dict[str, Any], list[str]]) -> None:
    expected, calls = baseline
    state, outcome, iter_n, *_, capsule = expected["runs"]["r1"]
    assert (state, outcome.answer, iter_n) == (State.SUCCEEDED, "42", 5)
    assert capsule.constraints == [
        "Asked: Which year? Answered: yes, 2",
        "Asked: Really? Answered: yes, 4",
    ]
    assert set(expected["results"]) == ATTEMPTS
    assert [key.attempt for key in expected["launches"]] == [1, 2, 3, 1, 2]
    assert len(calls) > 60


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("happen", [kill, cut_off, overtake], ids=lambda happen: happen.__name__)
def test_a_fault_at_every_call(
    baseline: tuple[dict[str, Any], list[str]], happen: Callable[[Story], None], after: bool
) -> None:
    expected, calls = baseline
    for at, name in enumerate(calls):
        story = InFlight(at=at, after=after, happen=_quietly(happen))
        assert story.play() == expected, f"{happen.__name__} at call {at}, {name}"
        assert story.at is None


def test_a_stop_at_every_call_hands_over(baseline: tuple[dict[str, Any], list[str]]) -> None:
    """SIGTERM: leases are released, with plans in flight, and nobody waits for them to lapse."""
    expected, calls = baseline
    undisturbed = InFlight(at=None, after=False, happen=quiet)
    undisturbed.play()
    for at, name in enumerate(calls):
        story = InFlight(at=at, after=True, happen=kill, gracefully=True)
        assert story.play() == expected, f"at call {at}, {name}"
        # A plan in flight is made again, which takes as long as it takes; no lease is waited for.
        assert story.world.now_s <= undisturbed.world.now_s + 6, f"at call {at}, {name}"


def test_a_conflict_at_every_write(baseline: tuple[dict[str, Any], list[str]]) -> None:
    expected, calls = baseline
    for at, name in enumerate(calls):
        if name.startswith(("append", "save", "claim")):
            assert InFlight(at=at, after=False, happen=conflict).play() == expected, f"at call {at}, {name}"


def test_three_runs_in_flight_and_a_kill(baseline: tuple[dict[str, Any], list[str]]) -> None:
    runs = ("a", "b", "c")
    whole = InFlight(at=None, after=False, happen=quiet, runs=runs)
    expected = whole.play()
    for at in range(0, len(whole.calls), 5):
        story = InFlight(at=at, after=bool(at % 2), happen=kill, runs=runs)
        found = story.play()
        assert found["runs"] == expected["runs"], f"at call {at}, {whole.calls[at]}"
        assert found["launches"].keys() == expected["launches"].keys()


def test_no_two_controllers_act_in_one_epoch() -> None:
    story = InFlight(at=9, after=False, happen=_quietly(overtake))
    story.play()
    actors: dict[int, set[str]] = {}
    for row in story.world.table(EventRow):
        actors.setdefault(row.epoch, set()).add(row.actor)
    assert len(actors) > 3
    assert all(len(names) == 1 for names in actors.values())


def _quietly(happen: Callable[[Story], None]) -> Callable[[Story], None]:
    """An heir plans at once. Who was overtaken may think once more than is needed, which is no violation."""
    if happen is not overtake:
        return happen

    def act(story: Story) -> None:
        assert isinstance(story, InFlight)
        fresh = story.fresh

        def quick() -> Controller:
            controller = fresh()
            story.crews[-1].slow = False
            return controller

        story.fresh = quick  # type: ignore[method-assign]
        try:
            overtake(story)
        finally:
            story.fresh = fresh  # type: ignore[method-assign]
        plain = story.fault

        def fault(name: str, after: bool) -> None:
            plain(name, after)
            story.world.violations = [text for text in story.world.violations if "planned again" not in text]

        for controller in story.controllers:
            controller.gate.fault = fault

    return act

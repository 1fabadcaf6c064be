"""Child runs: made once, waited for without cost, cancelled with their parent, paid from its budget."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes import (
    LEASE_S,
    NO_FILE,
    NO_ROW,
    Controller,
    Ending,
    Gate,
    Killed,
    World,
    check_invariants,
    program,
    settle,
)
from pools import InlinePool

from databricks_rlm_agent.attempts.manifest import Manifest
from databricks_rlm_agent.errors import RemoteError, Unreachable
from databricks_rlm_agent.runs.actions import Action, Finish, Spawn, child_id
from databricks_rlm_agent.runs.budget import Budget, Usage
from databricks_rlm_agent.runs.fsm import State
from executor_harness.protocol import ChildTask

TASKS = tuple(ChildTask(name=name, task=f"count {name}") for name in ("north", "south"))
PARENT: list[Action] = [Spawn(tasks=TASKS), program("combine()"), Finish(answer="3")]
CHILD: list[Action] = [program("count()"), Finish(answer="1")]
IDS = [child_id("r1", 1, task.name) for task in TASKS]


def controller(world: World, script: Any = PARENT, name: str = "c1", gate: Gate | None = None) -> Controller:
    return Controller(
        world=world,
        script=script,
        child_script=CHILD,
        name=name,
        gate=gate or Gate(),
        worker_pool=InlinePool(),
    )


def test_a_run_waits_for_its_children_and_finds_their_answers_as_inputs() -> None:
    world = World()
    world.add("r1")
    only = controller(world)
    only()
    parent = world.runs["r1"]
    assert parent.fsm_state is State.WAITING_FOR_CHILDREN
    assert sorted(world.runs) == sorted(["r1", *IDS])
    assert {run.depth for run in world.children("r1")} == {1}
    settle(world, only)
    check_invariants(world)
    assert world.runs["r1"].outcome.answer == "3"
    folder = "/Volumes/main/rlm/artifacts/scratchpad/run_r1/iter_1/children"
    document = json.loads(world.files[f"{folder}/north.json"])
    assert (document["state"], document["answer"], document["run_id"]) == ("SUCCEEDED", "1", IDS[0])
    manifest = Manifest.parse(_manifest(world, "r1", 2), where="")
    assert manifest.request.inputs["south"] == {"kind": "answer", "path": f"{folder}/south.json"}
    assert [note.state for note in world.runs["r1"].capsule.answers] == ["SUCCEEDED"] * 2


def test_what_children_spend_is_their_parents() -> None:
    world = World()
    world.add("r1", budget=Budget(max_model_calls=100, max_tokens=900, max_cost_usd=9.0))
    only = controller(world)
    only()
    lent = world.runs["r1"].budget
    assert lent.on_loan.usage.calls == 2 * world.children("r1")[0].budget.max_model_calls
    assert world.children("r1")[0].budget.max_cost_usd == 3.0
    settle(world, only)
    budget = world.runs["r1"].budget
    assert budget.usage.calls == sum(world.calls.values())
    assert budget.usage.input_tokens == 10 * sum(world.calls.values())
    assert (budget.on_loan.usage, budget.children) == (Usage(), 2)


def test_a_budget_that_is_too_small_for_children_is_a_refusal() -> None:
    world = World()
    world.add("r1", budget=Budget(max_model_calls=1))
    settle(world, controller(world))
    assert world.runs["r1"].fsm_state is State.FAILED
    assert "there may be 0" in str(world.runs["r1"].outcome.reason)
    assert list(world.runs) == ["r1"]


def test_runs_are_only_so_deep() -> None:
    world = World()
    world.add("r1", budget=Budget(max_depth=1))
    settle(world, Controller(world=world, script=PARENT, child_script=PARENT))
    assert world.runs["r1"].fsm_state is State.SUCCEEDED
    assert {run.fsm_state for run in world.children("r1")} == {State.FAILED}
    assert "there may be 0" in str(world.children("r1")[0].outcome.reason)


def test_a_program_asks_for_children() -> None:
    world = World(endings={(1, 1): Ending(spawned=TASKS)})
    world.add("r1")
    script = [program("spawn()"), program("combine()"), Finish(answer="3")]
    world.endings = {(1, 1): Ending(spawned=TASKS)}
    settle_children(world, controller(world, script))
    assert world.runs["r1"].outcome.answer == "3"
    assert sorted(world.runs) == sorted(["r1", *IDS])


def settle_children(world: World, *controllers: Any) -> None:
    """As ``settle``; the children's own programs ask for nothing."""
    controllers[0]()
    world.run_jobs()
    world.now_s += 1
    controllers[0]()
    world.endings = {}
    settle(world, *controllers)


@pytest.mark.parametrize("when", range(5))
def test_a_parents_cancellation_reaches_every_run_below_it(when: int) -> None:
    world = World()
    world.add("r1")
    only = controller(world)
    for _ in range(when):
        only()
        world.run_jobs()
        world.now_s += 1
    world.request_cancel("r1")
    settle(world, only)
    check_invariants(world)
    assert world.runs["r1"].fsm_state is State.CANCELLED
    assert all(run.fsm_state.terminal for run in world.runs.values())


def test_nothing_is_asked_while_children_are_at_work() -> None:
    world = World()
    world.add("r1")
    only = controller(world)
    only()
    before = world.runs["r1"].version
    for _ in range(5):  # their jobs do not end
        world.now_s += 1
        only()
    assert world.runs["r1"].version == before


# -- crashes ---------------------------------------------------------------------------------------


class Story:
    """Two controllers that take turns; one of them meets a fault at the ``at``-th call of them all."""

    def __init__(self, world: World, script: Any, at: int | None, after: bool, kind: str) -> None:
        self.world, self.script, self.at, self.after, self.kind = world, script, at, after, kind
        self.calls = 0
        world.add("r1")
        self.controllers = [self.fresh(), self.fresh()]

    def fresh(self) -> Controller:
        name = self.world.new_id("c")
        return controller(self.world, self.script, name=name, gate=Gate(fault=self.fault))

    def fault(self, name: str, after: bool) -> None:
        self.calls += not after
        if self.at == self.calls - 1 and after is self.after:
            self.at = None
            if self.kind == "kill":
                raise Killed
            if self.kind == "overtaken":
                self.world.now_s += LEASE_S + 1
                heir = self.fresh()
                heir()
                self.world.run_jobs()
                heir()
            elif name != "plan":
                raise Unreachable("No answer.")

    def context(self, index: int) -> None:
        try:
            self.controllers[index]()
        except Killed:
            self.controllers[index] = self.fresh()
            self.world.now_s += LEASE_S / 2
        except RemoteError:
            pass
        # A stale controller looked before the other published: it may think once more than is needed.
        self.world.violations = [text for text in self.world.violations if "planned again" not in text]
        check_invariants(self.world)

    def play(self) -> None:
        settle(self.world, lambda: self.context(0), lambda: self.context(1), steps=160)


def _world(by: str) -> tuple[World, list[Action]]:
    if by == "planner":
        return World(endings={(1, 1): NO_FILE, (2, 1): NO_ROW}), PARENT
    # Only the parent's first program is at (1, 1) of run r1: its children ask for more, in vain.
    return World(endings={(1, 1): Ending(spawned=TASKS)}), [
        program("spawn()"),
        program("combine()"),
        Finish(answer="3"),
    ]


@pytest.mark.parametrize("by", ["planner", "program"])
@pytest.mark.parametrize(
    ("kind", "after", "cancel_at"),
    [
        ("kill", False, None),
        ("kill", True, None),
        ("overtaken", False, None),
        ("unreachable", True, None),
        ("kill", False, 2),
        ("kill", True, 4),
    ],
)
def test_whenever_a_controller_dies_no_child_is_lost_or_made_twice(
    by: str, kind: str, after: bool, cancel_at: int | None
) -> None:
    world, script = _world(by)
    plain = Story(world, script, None, False, kind)
    plain.play()
    # Every call for a plain kill; every second one for the others, which the state machine has as well.
    for at in range(0, plain.calls, 1 if (kind, cancel_at) == ("kill", None) else 2):
        world, script = _world(by)
        story = Story(world, script, at, after, kind)
        if cancel_at is not None:
            for context in range(cancel_at):
                story.context(context % 2)
                world.run_jobs()
                world.now_s += 1
            world.request_cancel("r1")
        story.play()
        assert all(run.fsm_state.terminal for run in world.runs.values()), at
        roots = world.children("r1")
        assert {run.run_id for run in roots} in (set(IDS), set() if cancel_at is not None else set(IDS)), at
        if cancel_at is None:
            assert world.runs["r1"].outcome.answer == "3", at
        spent = world.runs["r1"].budget.usage.calls
        assert spent >= sum(world.calls.values()), at  # what a dead controller asked counts


def _manifest(world: World, run_id: str, iter_n: int) -> bytes:
    return world.files[f"/Volumes/main/rlm/artifacts/scratchpad/run_{run_id}/iter_{iter_n}/manifest.json"]

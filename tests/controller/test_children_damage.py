"""Child runs when a row, a file or a permission is gone: nobody is stuck, nothing works for nobody."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from fakes import GOOD, NAMESPACE, Controller, Ending, Gate, Killed, World, program, settle
from pools import InlinePool

from databricks_rlm_agent.attempts.records import EventRow
from databricks_rlm_agent.errors import Forbidden, Unreachable
from databricks_rlm_agent.runs.actions import Action, Finish, Spawn, child_id
from databricks_rlm_agent.runs.budget import Budget
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.run import Run
from executor_harness.protocol import ChildTask

TASKS = tuple(ChildTask(name=name, task=name) for name in ("north", "south"))
PLANNED: list[Action] = [Spawn(tasks=TASKS), program("combine()"), Finish(answer="3")]
BY_PROGRAM: list[Action] = [program("spawn()"), program("combine()"), Finish(answer="3")]
CHILD: list[Action] = [program("count()"), Finish(answer="1")]
IDS = [child_id("r1", 1, task.name) for task in TASKS]
FOLDER = NAMESPACE.attempt_dir("r1", 1, 1)


def controller(world: World, script: Any = PLANNED, gate: Gate | None = None) -> Controller:
    name = world.new_id("c")
    return Controller(
        world=world,
        script=script,
        child_script=CHILD,
        name=name,
        gate=gate or Gate(),
        worker_pool=InlinePool(),
    )


def failing(name: str, error: BaseException, *, after: bool = False) -> Gate:
    """A gate that fails at the first call of that name."""
    left = [error]

    def fault(called: str, when: bool) -> None:
        if called == name and when is after and left:
            raise left.pop()

    return Gate(fault=fault)


def begun(budget: Budget | None = None) -> tuple[World, Controller]:
    """A parent that waits for its two children, of which none has run yet."""
    world = World()
    world.add("r1", budget=budget)
    only = controller(world)
    only()
    assert world.runs["r1"].fsm_state is State.WAITING_FOR_CHILDREN
    return world, only


def kinds(world: World) -> list[str]:
    return [row.kind for row in world.table(EventRow) if row.run_id == "r1"]


@pytest.mark.parametrize("after", [False, True])
def test_a_parent_that_waits_for_children_that_nobody_made_makes_them(after: bool) -> None:
    world = World()
    world.add("r1")
    with pytest.raises(Killed):
        controller(world, gate=failing("insert", Killed(), after=after))()
    parent = world.runs["r1"]
    assert (parent.fsm_state, len(world.runs)) == (State.WAITING_FOR_CHILDREN, 3 if after else 1)
    settle(world, controller(world))
    assert world.runs["r1"].outcome.answer == "3"
    assert sorted(world.runs) == sorted(["r1", *IDS])
    assert ("children_made" in kinds(world)) is not after
    assert world.runs[IDS[0]].budget.max_model_calls * 2 == parent.budget.on_loan.usage.calls
    assert world.runs["r1"].budget.usage.calls == sum(world.calls.values())


@pytest.mark.fault("A3")
def test_what_a_lost_controller_did_not_ask_is_not_missing_to_the_next() -> None:
    world = World(endings={(1, 1): Ending(spawned=TASKS)})
    world.add("r1", budget=Budget(max_model_calls=40))
    first = controller(world, BY_PROGRAM, failing("save", Killed()))
    controller(world, BY_PROGRAM)()
    world.run_jobs()
    with pytest.raises(Killed):
        first()
    world.now_s += 60
    settle(world, controller(world, BY_PROGRAM))
    assert set(IDS) <= set(world.runs)
    assert "refusal" not in kinds(world)
    assert world.violations == []


def test_children_are_the_same_as_granted_whatever_was_lost_meanwhile() -> None:
    world = World(endings={(1, 1): Ending(spawned=TASKS)})
    world.add("r1", budget=Budget(max_model_calls=120))
    controller(world, BY_PROGRAM)()
    world.run_jobs()
    for name in ("save", "insert"):
        world.now_s += 60
        with pytest.raises(Killed):
            controller(world, BY_PROGRAM, failing(name, Killed()))()
    lent = world.runs["r1"].budget.on_loan.usage.calls
    world.endings = {}
    world.now_s += 60
    controller(world, BY_PROGRAM)()
    assert sum(child.budget.max_model_calls for child in world.children("r1")) == lent
    settle(world, controller(world, BY_PROGRAM))
    assert world.runs["r1"].outcome.answer == "3"


@pytest.mark.parametrize(
    ("call", "error"), [("put north.json", Forbidden("No.")), ("children", ValueError("A fault of ours."))]
)
def test_a_fault_while_answers_are_collected_ends_this_run_and_no_other(call: str, error: Exception) -> None:
    world, only = begun()
    while not all(child.fsm_state.terminal for child in world.children("r1")):
        only()
        world.run_jobs()
        world.now_s += 1
    world.add("r2")
    report = controller(world, gate=failing(call, error))()
    assert report.advanced == 2  # the other one is not held up
    ended = world.runs["r1"]
    assert ended.fsm_state is State.FAILED
    assert str(error.args[0]) in str(ended.outcome.reason)


def test_a_parent_that_fails_while_it_waits_leaves_nobody_at_work() -> None:
    world, only = begun()
    world.request_cancel("r1")
    controller(world, gate=failing("cancel_children", Forbidden("No.")))()
    assert world.runs["r1"].fsm_state is State.FAILED
    settle(world, only)
    assert {child.fsm_state for child in world.children("r1")} == {State.CANCELLED}
    assert "Its parent failed" in str(world.children("r1")[0].outcome.reason)


def test_a_passing_fault_while_answers_are_collected_costs_time_only() -> None:
    world, only = begun()
    settle_children(world, only)
    controller(world, gate=failing("put north.json", Unreachable("No answer."), after=True))()
    assert world.runs["r1"].fsm_state is State.WAITING_FOR_CHILDREN
    world.now_s += 60
    settle(world, controller(world))
    assert world.runs["r1"].outcome.answer == "3"
    assert world.violations == []


def settle_children(world: World, only: Controller) -> None:
    for _ in range(20):
        if all(child.fsm_state.terminal for child in world.children("r1")):
            return
        only()
        world.run_jobs()
        world.now_s += 1


def test_a_child_whose_row_is_gone_begins_again_where_it_was() -> None:
    """Somebody deleted it. Its manifest and its job run are there, so nothing is done twice."""
    world, only = begun()
    settle_children(world, only)
    del world.runs[IDS[0]]
    settle(world, only)
    assert world.runs[IDS[0]].outcome.answer == "1"
    assert world.runs["r1"].outcome.answer == "3"
    assert all(count == 1 for count in world.launches.values())


def test_a_child_whose_row_and_task_are_gone_is_lost_and_counts_in_full() -> None:
    world, only = begun()
    settle_children(world, only)
    part = world.runs["r1"].budget.on_loan.usage.calls // 2
    del world.runs[IDS[0]]
    world.files[f"{FOLDER}/manifest.json"] = b"{"
    spent = world.runs["r1"].budget.usage.calls
    settle(world, only)
    parent = world.runs["r1"]
    assert parent.outcome.answer == "3"
    document = json.loads(world.files[f"{FOLDER}/children/north.json"])
    assert (document["state"], document["answer"], document["reason"]) == ("LOST", None, "Its row is gone.")
    assert "north (LOST: Its row is gone.)" in parent.capsule.failed_approaches[0].text
    # The parent has asked twice since; the other child three times at most.
    assert part < parent.budget.usage.calls - spent <= part + 5


def damaged(world: World, run_id: str, column: str) -> Run:
    world.torn[run_id] = {column: "{"}
    return world.runs[run_id]


@pytest.mark.parametrize("column", ["capsule", "budget", "last_result", "outcome"])
def test_a_damaged_child_ends_and_what_it_may_have_spent_counts(column: str) -> None:
    world, only = begun(Budget(max_model_calls=90))
    only()
    part = world.children("r1")[0].budget.max_model_calls
    damaged(world, IDS[0], column)
    settle(world, only)
    parent = world.runs["r1"]
    assert world.runs[IDS[0]].fsm_state is State.CANCELLED
    assert parent.outcome.answer == "3"
    assert sum(world.calls.values()) <= parent.budget.usage.calls <= 90
    if column == "budget":
        assert parent.budget.usage.calls >= part


@pytest.mark.parametrize("column", ["capsule", "budget"])
def test_a_damaged_parent_ends_after_its_children(column: str) -> None:
    world, only = begun(Budget(max_model_calls=90))
    only()
    damaged(world, "r1", column)
    settle(world, only)
    parent = world.runs["r1"]
    assert (parent.fsm_state, "does not parse" in str(parent.outcome.reason)) == (State.CANCELLED, True)
    assert all(child.fsm_state.terminal for child in world.children("r1"))
    if column == "capsule":  # whom it waited for is not known any more: all that was lent counts
        assert parent.budget.spent().usage.calls >= sum(world.calls.values())


def test_an_answer_may_not_hide_an_input() -> None:
    world = World()
    run = world.add("r1")
    capsule = run.capsule.model_copy(update={"inputs": {"south": {"kind": "text", "text": "x"}}})
    world.runs["r1"] = replace(run, capsule=capsule)
    settle(world, controller(world))
    assert world.runs["r1"].fsm_state is State.FAILED
    assert "has an input named 'south' already" in str(world.runs["r1"].outcome.reason)
    assert list(world.runs) == ["r1"]


def test_children_of_children_count_against_the_number_of_all() -> None:
    world = World(endings={(1, 1): GOOD})
    world.add("r1", budget=Budget(max_children=6))
    scripts: dict[str, list[Action | str | Exception]] = {
        "north": [Spawn(tasks=TASKS[:1]), Finish(answer="1")],
        "count": [Spawn(tasks=TASKS), Finish(answer="3")],
    }
    only = Controller(world=world, script=(), child_script=CHILD, scripts=scripts, worker_pool=InlinePool())
    # The child of a child has the same task as its parent, and may not go deeper.
    settle(world, only)
    assert [run.depth for run in world.runs.values()].count(2) == 1
    assert world.runs["r1"].budget.children == 3

"""Cancellation: the intent is durable, the job run is ended and confirmed, and what was done is kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes import (
    LEASE_S,
    LOST,
    NAMESPACE,
    Controller,
    Gate,
    Killed,
    World,
    check_invariants,
    program,
    settle,
)

from databricks_rlm_agent.attempts.records import ResultRow
from databricks_rlm_agent.errors import RemoteError, Throttled, Unreachable
from databricks_rlm_agent.runs.actions import Ask, Finish
from databricks_rlm_agent.runs.budget import Budget
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.run import OVERRUN_S, AttemptKey

DONE = Finish(answer="42")


def statuses(world: World) -> dict[tuple[int, int], str]:
    return {(row.iter_n, row.attempt): row.status for row in world.table(ResultRow)}


def test_a_run_that_has_not_begun_is_cancelled_without_a_plan() -> None:
    world = World()
    world.add()
    world.request_cancel("r1", reason="not needed")
    Controller(world=world, script=[program()])()
    run = world.runs["r1"]
    assert (run.fsm_state, run.outcome.reason) == (State.CANCELLED, "not needed")
    assert (world.plans, world.files) == ([], {})


def test_a_job_run_is_ended_and_confirmed_before_the_run_ends() -> None:
    world = World()
    world.add()
    controller = Controller(world=world, script=[program(), DONE])
    controller()
    world.request_cancel("r1")
    for _ in range(3):  # asked again for as long as it takes
        assert controller().due == 0
        assert world.runs["r1"].fsm_state is State.EXECUTING
    assert len(world.cancels) == 3
    world.run_jobs()
    controller()
    assert world.runs["r1"].fsm_state is State.CANCELLED
    assert statuses(world) == {(1, 1): "CANCELLED"}
    assert world.plans == [("r1", 1)]
    check_invariants(world)


def test_a_completion_that_won_the_race_is_kept() -> None:
    world = World()
    world.add()
    controller = Controller(world=world, script=[program(), DONE])
    controller()
    world.run_jobs()
    world.request_cancel("r1")
    controller()
    run = world.runs["r1"]
    assert (run.fsm_state, statuses(world)) == (State.CANCELLED, {(1, 1): "SUCCESS"})
    assert run.capsule.tables[0].name == "main.rlm.t1"
    assert (world.cancels, world.plans) == ([], [("r1", 1)])


def test_a_run_that_waits_for_an_answer_can_be_cancelled() -> None:
    world = World()
    world.add()
    controller = Controller(world=world, script=[Ask(question="Which year?")])
    controller()
    world.request_cancel("r1")
    controller()
    assert world.runs["r1"].fsm_state is State.CANCELLED


def test_a_run_that_has_ended_stays_as_it_is() -> None:
    world = World()
    world.add()
    controller = Controller(world=world, script=[DONE])
    controller()
    before = world.runs["r1"]
    world.request_cancel("r1")
    controller()
    assert world.runs["r1"] == before


def test_no_further_attempt_is_made_of_a_cancelled_run() -> None:
    world = World(endings={(1, 1): LOST})
    world.add()
    controller = Controller(world=world, script=[program(), DONE])
    controller()
    world.run_jobs()
    world.request_cancel("r1")
    settle(world, controller)
    assert world.runs["r1"].fsm_state is State.CANCELLED
    assert list(world.launches) == [AttemptKey(run_id="r1", iter_n=1, attempt=1)]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [Killed(), Unreachable("x"), Throttled("x")], ids=["kill", "gone", "slow"])
def test_a_fault_at_any_call_of_a_cancellation_changes_nothing(error: BaseException, after: bool) -> None:
    """Every call from the claim of the run to its end, one after the other."""
    at = 0
    while True:
        world, calls = World(), [0]

        def fault(
            _name: str, is_after: bool, world: World = world, calls: list[int] = calls, at: int = at
        ) -> None:
            if len(world.jobs) == 1:  # whoever cancels learns of it after the submit at the latest
                world.request_cancel("r1")
            calls[0] += not is_after
            if calls[0] - 1 == at and is_after is after:
                calls[0] += 1_000_000
                raise error

        world.add()
        turns = [Controller(world=world, script=[program(), DONE], gate=Gate(fault=fault))]

        def context(turns: list[Controller] = turns, world: World = world, fault: Any = fault) -> None:
            try:
                turns[0]()
            except Killed:
                turns[0] = Controller(
                    world=world, script=[program(), DONE], name=world.new_id("c"), gate=Gate(fault=fault)
                )
            except RemoteError:
                pass

        settle(world, context)
        check_invariants(world)
        run = world.runs["r1"]
        assert run.fsm_state is State.CANCELLED, at
        assert all(job.verdict.over for job in world.jobs.values())
        assert set(statuses(world).values()) <= {"CANCELLED", "SUCCESS"}
        if calls[0] < 1_000_000:
            assert at > 10
            return
        at += 1


def test_a_job_run_that_was_submitted_but_not_recorded_is_found_and_ended() -> None:
    world = World()
    world.add()

    def die(name: str, after: bool) -> None:
        if name == "submit" and after:
            raise Killed

    with pytest.raises(Killed):
        Controller(world=world, script=[program()], gate=Gate(fault=die))()
    world.request_cancel("r1")
    world.now_s += LEASE_S + 1
    heir = Controller(world=world, script=[program(), DONE], name="c2")
    heir()
    assert world.runs["r1"].fsm_state is State.EXECUTING  # its job run is known now
    settle(world, heir)
    assert world.runs["r1"].fsm_state is State.CANCELLED
    assert world.cancels


def test_a_held_up_controller_cannot_start_a_job_for_a_run_that_was_cancelled_meanwhile() -> None:
    world = World()
    world.add()
    heir = Controller(world=world, script=[], name="c2")

    def overtaken(name: str, after: bool) -> None:
        if name == "put manifest.json" and not after:
            world.request_cancel("r1")
            world.now_s += LEASE_S + 1
            heir()

    slow = Controller(world=world, script=[program()], gate=Gate(fault=overtaken))
    report = slow()
    assert (report.fenced, world.runs["r1"].fsm_state) == (1, State.CANCELLED)
    assert world.jobs == {}
    closing = json.loads(world.files[f"{NAMESPACE.attempt_dir('r1', 1, 1)}/manifest.json"])
    assert closing["closing"] == "cancel"
    check_invariants(world)


@pytest.mark.parametrize(
    "decision", [DONE, Ask(question="Which year?"), "No idea."], ids=["finish", "ask", "give up"]
)
def test_a_held_up_controller_cannot_start_a_job_after_another_decided(decision: object) -> None:
    world = World()
    world.add()
    heir = Controller(world=world, script=[decision], name="c2")

    def overtaken(name: str, after: bool) -> None:
        if name == "put manifest.json" and not after:
            world.now_s += LEASE_S + 1
            heir()

    Controller(world=world, script=[program()], gate=Gate(fault=overtaken))()
    assert world.jobs == {}
    ended = world.runs["r1"].fsm_state
    assert ended in {State.SUCCEEDED, State.WAITING_FOR_INPUT, State.FAILED}


def test_a_decision_on_record_is_taken_and_not_thought_over() -> None:
    world = World()
    world.add()
    # One dies before it publishes; the next decides and dies before it saves; the third takes that decision.
    for number, name in enumerate(("put manifest.json", "save")):

        def die(called: str, after: bool, name: str = name) -> None:
            if called == name and not after:
                raise Killed

        script = [program()] if number == 0 else [Finish(answer="from the second")]
        with pytest.raises(Killed):
            Controller(world=world, script=script, name=f"c{number}", gate=Gate(fault=die))()
        world.now_s += LEASE_S + 1
    Controller(world=world, script=[Finish(answer="from the third")], name="c3")()
    run = world.runs["r1"]
    assert (run.fsm_state, run.outcome.answer) == (State.SUCCEEDED, "from the second")
    assert len(world.plans) == 2
    # The first one's turn never reported: its record counts; the second one's plan was found.
    assert run.budget.usage.calls == world.calls["r1"] == 2


def test_a_job_run_that_outlives_all_of_its_time_is_ended_and_counts_as_a_timeout() -> None:
    world = World()
    world.add()
    controller = Controller(world=world, script=[program(timeout_s=10), DONE])
    controller()
    for _ in range(40):
        world.now_s += 60
        controller()
        if world.cancels:
            break
    assert world.now_s > 10 + OVERRUN_S
    settle(world, controller, steps=80)
    assert statuses(world)[1, 1] == "TIMEOUT"
    assert world.runs["r1"].fsm_state is State.SUCCEEDED  # the planner was told, and went on


def test_a_run_ends_with_its_time() -> None:
    world = World()
    world.add(budget=Budget(max_wall_s=100))
    controller = Controller(world=world, script=[program(timeout_s=1_000), DONE])
    controller()
    last = world.runs["r1"].last_request
    assert last is not None
    assert last.timeout_s <= 100
    world.now_s += 101
    world.run_jobs()
    controller()
    run = world.runs["r1"]
    assert (run.fsm_state, run.outcome.reason) == (State.FAILED, "The run has used its 100 seconds.")
    assert statuses(world) == {(1, 1): "SUCCESS"}  # what was done is kept

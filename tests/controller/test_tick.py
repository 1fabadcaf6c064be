from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from fakes import (
    GOOD,
    LEASE_S,
    LOST,
    NAMESPACE,
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
from databricks_rlm_agent.attempts.result import Status
from databricks_rlm_agent.errors import (
    ConfigError,
    Conflict,
    ModelOutage,
    NotFound,
    Rejected,
    Throttled,
    Unreachable,
)
from databricks_rlm_agent.runs.actions import Ask, Finish
from databricks_rlm_agent.runs.budget import Budget
from databricks_rlm_agent.runs.fsm import Event, State
from databricks_rlm_agent.runs.run import AttemptKey, RunOutcome

DONE = Finish(answer="42", evidence="main.rlm.t1")
EFFECTS = ["put entrypoint.py", "put manifest.json", "submit"]


def events(world: World, kind: str) -> list[dict[str, Any]]:
    return [json.loads(row.payload) for row in world.table(EventRow) if row.kind == kind]


def once(error: BaseException, name: str, *, after: bool) -> Gate:
    """Raises once, at the first call of that name."""
    left = [error]

    def fault(called: str, is_after: bool) -> None:
        if called == name and is_after is after and left:
            raise left.pop()

    return Gate(fault=fault)


def statuses(world: World) -> dict[tuple[int, int], str]:
    return {(row.iter_n, row.attempt): row.status for row in world.table(ResultRow)}


def test_a_program_and_an_answer() -> None:
    world = World()
    world.add()
    controller = Controller(world=world, script=[program(), DONE])
    first = controller()
    assert (first.due, first.advanced, first.fenced) == (1, 1, 0)
    run = world.runs["r1"]
    assert (run.fsm_state, run.lease_owner, run.lease_expiry) == (State.EXECUTING, None, None)
    assert controller().due == 0  # a run that waits for its job costs nothing
    settle(world, controller)
    run = world.runs["r1"]
    assert (run.fsm_state, run.outcome.answer, run.iter_n) == (State.SUCCEEDED, "42", 2)
    assert run.capsule.tables[0].name == "main.rlm.t1"
    assert run.budget.usage.calls == 2
    check_invariants(world)
    moves = [(event["from_state"], event["to_state"]) for event in events(world, "transition")]
    assert moves == [
        ("PENDING", "PLANNING"),
        ("PLANNING", "EXECUTING"),
        ("INGESTING", "PLANNING"),
        ("PLANNING", "SUCCEEDED"),
    ]


def test_an_idle_tick_writes_nothing() -> None:
    world = World()
    assert Controller(world=world, script=[])().due == 0
    assert world.commits == 0


def test_the_commits_of_a_tick_do_not_grow_with_the_runs() -> None:
    counts = []
    for many in (1, 25):
        world = World()
        for number in range(many):
            world.add(f"r{number}")
        Controller(world=world, script=[program()], planners=8)()
        assert len(world.jobs) == many
        counts.append(world.commits)
    assert counts[0] == counts[1] == 4  # claim, requests, events, save


def test_a_failure_goes_to_the_planner_and_is_repaired() -> None:
    world = World(endings={(1, 1): RAISED})
    world.add()
    settle(world, Controller(world=world, script=[program("1/0"), program(), DONE]))
    run = world.runs["r1"]
    assert (run.fsm_state, run.iter_n) == (State.SUCCEEDED, 3)
    assert statuses(world) == {(1, 1): "FAILED", (2, 1): "SUCCESS"}
    assert "KeyError" in run.capsule.failed_approaches[0].text
    check_invariants(world)


def test_a_lost_attempt_is_tried_again_without_a_new_plan() -> None:
    world = World(endings={(1, 1): LOST})
    world.add()
    settle(world, Controller(world=world, script=[program("print('x')", timeout_s=7), DONE]))
    assert world.runs["r1"].fsm_state is State.SUCCEEDED
    assert world.plans == [("r1", 1), ("r1", 2)]
    assert statuses(world) == {(1, 1): "LOST", (1, 2): "SUCCESS"}
    assert len(world.jobs) == 2  # two tokens
    folder = NAMESPACE.attempt_dir("r1", 1, 2)
    paths = [f"{NAMESPACE.attempt_dir('r1', 1, k)}/manifest.json" for k in (1, 2)]
    first, second = (json.loads(world.files[path])["request"] for path in paths)
    assert second["artifact"]["path"] == f"{folder}/entrypoint.py"
    assert [second[name] for name in ("purpose", "timeout_s", "inputs")] == [
        first[name] for name in ("purpose", "timeout_s", "inputs")
    ]
    assert world.files[f"{folder}/entrypoint.py"] == b"print('x')"
    check_invariants(world)


@pytest.mark.parametrize(
    ("code", "kind", "attempts"),
    [
        ("DRIVER_ERROR", "CLIENT_ERROR", 3),
        ("LIBRARY_INSTALLATION_ERROR", "CLIENT_ERROR", 2),
        ("RUN_EXECUTION_ERROR", "CLIENT_ERROR", 1),
        ("USER_CANCELED", "CLIENT_ERROR", 1),
        ("INVALID_RUN_CONFIGURATION", "INTERNAL_ERROR", 1),
    ],
)
def test_attempts_are_bounded_by_the_retry_table_and_the_budget(code: str, kind: str, attempts: int) -> None:
    lost = Ending(file=False, row=False, code=code, type=kind)
    world = World(endings={(1, attempt): lost for attempt in range(1, 9)})
    world.add(budget=Budget(max_attempts=3))
    settle(world, Controller(world=world, script=[program(), DONE]))
    assert [key.attempt for key in sorted(world.launches) if key.iter_n == 1] == list(range(1, attempts + 1))
    assert world.plans == [("r1", 1), ("r1", 2)]  # the last attempt's end is a result for the planner
    check_invariants(world)


@pytest.mark.parametrize("ending", [GOOD, NO_ROW, NO_FILE], ids=["both", "file only", "row only"])
def test_any_source_of_the_result_will_do(ending: Ending) -> None:
    world = World(endings={(1, 1): ending})
    world.add()
    settle(world, Controller(world=world, script=[program(), DONE]))
    assert world.runs["r1"].fsm_state is State.SUCCEEDED
    assert world.runs["r1"].capsule.tables[0].name == "main.rlm.t1"
    (row,) = world.table(ResultRow)
    assert (row.status, row.reported_by) == ("SUCCESS", "executor" if ending.row else "controller")


@pytest.mark.parametrize("change", ["garbage", "another attempt", "another request"])
def test_a_result_that_is_not_this_attempts_is_not_believed(change: str) -> None:
    world = World(endings={(1, 1): Ending(row=False, code="RUN_EXECUTION_ERROR", type="CLIENT_ERROR")})
    world.add()
    controller = Controller(world=world, script=[program(), DONE])
    controller()
    world.run_jobs()
    path = f"{NAMESPACE.attempt_dir('r1', 1, 1)}/result.json"
    document = json.loads(world.files[path])
    match change:
        case "garbage":
            world.files[path] = world.files[path][:-7]
        case "another attempt":
            world.files[path] = json.dumps(document | {"attempt": 2}).encode()
        case "another request":
            world.files[path] = json.dumps(document | {"request_sha256": "0" * 64}).encode()
    world.now_s += 5
    settle(world, controller)
    assert statuses(world) == {(1, 1): "FAILED"}
    assert events(world, "rejected_result")[0]["path"] == path


def test_a_long_output_is_summarized_and_the_facts_stay() -> None:
    world = World(endings={(1, 1): Ending(stdout_bytes=10_000)})
    world.add()
    settle(world, Controller(world=world, script=[program(), DONE]))
    run = world.runs["r1"]
    assert run.capsule.last_result.splitlines() == ["Iteration 1, attempt 1: SUCCESS. Purpose: look", "short"]
    assert run.capsule.tables[0].name == "main.rlm.t1"
    assert run.budget.usage.calls == 3
    assert [event["purpose"] for event in events(world, "model_call")] == ["planner", "summarizer", "planner"]


def test_a_result_that_comes_late_is_waited_for() -> None:
    """The watcher of a killed process writes its result after the job run has ended."""
    world = World(endings={(1, 1): Ending(row=False, code="DRIVER_ERROR", type="CLIENT_ERROR")})
    world.add()
    controller = Controller(world=world, script=[program(), DONE])
    controller()
    world.run_jobs()
    path = f"{NAMESPACE.attempt_dir('r1', 1, 1)}/result.json"
    late = {path: world.files.pop(path)}
    ingester = replace(controller.tick.advancer.ingester, sleep=lambda _seconds: world.files.update(late))
    tick = replace(controller.tick, advancer=replace(controller.tick.advancer, ingester=ingester))
    world.now_s += 5
    settle(world, tick)
    assert statuses(world) == {(1, 1): "SUCCESS"}
    assert sum(world.launches.values()) == 1


def test_a_question_waits_without_cost() -> None:
    world = World()
    world.add()
    controller = Controller(world=world, script=[Ask(question="Which year?")])
    controller()
    assert world.runs["r1"].fsm_state is State.WAITING_FOR_INPUT
    assert world.runs["r1"].outcome.question == "Which year?"
    world.now_s += 1_000
    assert controller().due == 0


def test_an_answered_question_goes_on_with_the_next_iteration() -> None:
    world = World()
    world.add()
    controller = Controller(world=world, script=[Ask(question="Which year?"), program(), DONE])
    controller()
    asked = world.runs["r1"]
    told = asked.capsule.with_constraint("2013")
    world.change(asked.after(Event.ANSWERED, capsule=told, outcome=RunOutcome(), iter_n=asked.iter_n + 1))
    settle(world, controller)
    run = world.runs["r1"]
    assert (run.fsm_state, run.iter_n, run.capsule.constraints) == (State.SUCCEEDED, 3, ["2013"])
    check_invariants(world)


def test_a_planner_that_gives_up_and_a_spent_budget_end_the_run_with_the_reason() -> None:
    world = World()
    world.add("a")
    Controller(world=world, script=["No idea."])()
    assert (world.runs["a"].fsm_state, world.runs["a"].outcome.reason) == (State.FAILED, "No idea.")
    world = World()
    world.add("b", budget=Budget(max_iterations=1))
    settle(world, Controller(world=world, script=[program(), DONE]))
    assert world.runs["b"].outcome.reason == "The run has used its 1 iterations."
    assert world.plans == [("b", 1)]


def test_a_manifest_is_adopted_after_a_lapsed_lease() -> None:
    world = World()
    world.add()
    dying = Controller(world=world, script=[program()], name="c1", gate=once(Killed(), "submit", after=True))
    with pytest.raises(Killed):
        dying()
    heir = Controller(world=world, script=[program("other()"), DONE], name="c2")
    assert heir().due == 0  # the lease still holds
    world.now_s += LEASE_S + 1
    heir()
    assert world.plans == [("r1", 1)]
    assert world.runs["r1"].fsm_state is State.EXECUTING
    assert events(world, "adopted_manifest") == [{"iter_n": 1, "attempt": 1}]
    assert events(world, "lease_lapsed") == [{"former_owner": "c1", "former_epoch": 1}]
    (request,) = world.table(RequestRow)
    assert (request.submitted_by_worker, request.databricks_run_id) == ("c2", 100)
    settle(world, heir)
    check_invariants(world)


@pytest.mark.fault("A14")
@pytest.mark.parametrize("left", [False, True], ids=["nothing left", "result left"])
def test_a_job_run_that_was_deleted_before_it_was_recorded_is_lost(left: bool) -> None:
    world = World()
    world.add()
    with pytest.raises(Killed):
        Controller(world=world, script=[program()], gate=once(Killed(), "submit", after=True))()
    if left:
        world.run_jobs()
    for job in world.jobs.values():
        job.deleted = True
    world.now_s += LEASE_S + 1
    script = [program(), DONE] if left else [program(), program("again()"), DONE]
    settle(world, Controller(world=world, script=script, name="c2"))
    assert statuses(world) == ({(1, 1): "SUCCESS"} if left else {(1, 1): "LOST", (2, 1): "SUCCESS"})
    assert world.runs["r1"].outcome.answer == "42"  # the planner was told, and went on
    assert sum(world.launches.values()) == (1 if left else 2)  # the deleted one, and the planner's next


@pytest.mark.fault("A18")
@pytest.mark.parametrize("file", [False, True], ids=["killed at once", "had time for a result"])
def test_a_platform_that_goes_away_loses_the_attempt_however_it_ends_the_program(file: bool) -> None:
    status = Status.CANCELLED if file else Status.SUCCESS
    gone = Ending(status=status, file=file, row=False, code="DRIVER_ERROR", type="CLOUD_FAILURE")
    world = World(endings={(1, 1): gone})
    world.add()
    settle(world, Controller(world=world, script=[program(), DONE]))
    assert statuses(world) == {(1, 1): "LOST", (1, 2): "SUCCESS"}
    assert world.runs["r1"].outcome.answer == "42"


@pytest.mark.fault("A18")
def test_a_program_that_a_person_cancelled_on_the_platform_is_not_tried_again() -> None:
    ended = Ending(status=Status.CANCELLED, code="USER_CANCELED", type="CLIENT_ERROR")
    world = World(endings={(1, 1): ended})
    world.add()
    settle(world, Controller(world=world, script=[program(), DONE]))
    assert statuses(world) == {(1, 1): "CANCELLED"}


@pytest.mark.fault("A4")
def test_an_outage_of_the_model_is_waited_for_on_the_runs_row() -> None:
    world, down = World(), [True]
    world.add("r1")
    world.add("r2", task="other")

    def fault(name: str, after: bool) -> None:
        if name == "plan" and not after and down[0]:
            raise ModelOutage("No model answered.", retry_after=30)

    first = Controller(world=world, script=[DONE], gate=Gate(fault=fault))
    report = first()
    assert report.retry_after_s is None  # another run may have another model
    run, began = world.runs["r1"], world.now()
    assert (run.fsm_state, run.outcome.waits_for) == (State.PLANNING, "model")
    assert run.outcome.reason == "No model answered."
    assert (run.lease_expiry, run.due_at) == (None, began + timedelta(seconds=30))
    world.now_s += 29
    assert Controller(world=world, script=[DONE], name="c2", gate=Gate(fault=fault))().due == 0
    world.now_s += 2  # the next one that looks asks again, whoever it is
    Controller(world=world, script=[DONE], name="c3", gate=Gate(fault=fault))()
    assert world.runs["r1"].outcome.since == began.isoformat()
    down[0] = False
    world.now_s += 60
    Controller(world=world, script=[DONE], name="c4")()
    run = world.runs["r1"]
    assert (run.fsm_state, run.outcome.answer, run.outcome.waits_for) == (State.SUCCEEDED, "42", None)
    assert [event["error"] for event in events(world, "passing_error") if event] == ["ModelOutage"] * 4


@pytest.mark.fault("A4")
def test_a_run_that_waits_for_its_model_can_be_cancelled() -> None:
    world = World()
    world.add()
    outage = ModelOutage("No model answered.", retry_after=600)
    controller = Controller(world=world, script=[DONE], gate=once(outage, "plan", after=False))
    controller()
    world.request_cancel("r1")
    controller()
    run = world.runs["r1"]
    assert (run.fsm_state, run.outcome.reason, run.outcome.waits_for) == (State.CANCELLED, "enough", None)


@pytest.mark.fault("A23")
@pytest.mark.parametrize("name", ["append run_events", "save"])
def test_what_could_not_be_saved_is_saved_by_a_later_tick_and_not_done_again(name: str) -> None:
    world = World()
    world.add("r1")
    world.add("r2")
    gate = once(Unreachable("x"), name, after=False)
    controller = Controller(world=world, script=[program(), DONE], gate=gate)
    with pytest.raises(Unreachable):
        controller()
    controller()
    assert {run.fsm_state for run in world.runs.values()} == {State.EXECUTING}
    assert {run.lease_epoch for run in world.runs.values()} == {1}
    assert sorted(world.plans) == [("r1", 1), ("r2", 1)]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "name", ["put entrypoint.py", "put manifest.json", "submit", "url", "get result.json"]
)
@pytest.mark.parametrize("error", [Unreachable("x"), Throttled("x", retry_after=3)], ids=["gone", "slow"])
def test_a_passing_fault_is_tried_again_and_costs_no_second_plan(
    error: Exception, name: str, after: bool
) -> None:
    world = World()
    world.add()
    gate = once(error, name, after=after)
    settle(world, Controller(world=world, script=[program(), DONE], gate=gate))
    run = world.runs["r1"]
    assert (run.fsm_state, run.outcome.answer) == (State.SUCCEEDED, "42")
    assert run.budget.usage.calls == len(world.plans)  # nothing that was spent is forgotten
    check_invariants(world)
    if name != "url":
        assert events(world, "passing_error")[0]["message"] == "x"


def test_a_run_held_up_by_a_fault_did_not_go_on() -> None:
    world = World()
    world.add()
    gate = once(Unreachable("x"), "put entrypoint.py", after=False)
    controller = Controller(world=world, script=[program()], gate=gate)
    assert controller().advanced == 1  # PENDING to PLANNING
    world.now_s += 1
    gate.fault = once(Unreachable("x"), "put entrypoint.py", after=False).fault
    assert controller().advanced == 0
    assert controller().due == 0  # it is left alone for a while
    world.now_s += 1
    assert controller().advanced == 1


@pytest.mark.parametrize(
    "error",
    [Rejected("No such cluster."), ConfigError("No key."), ValueError("a bug"), KeyError("a bug")],
    ids=lambda error: type(error).__name__,
)
def test_the_failure_of_one_run_leaves_the_others_alone(error: Exception) -> None:
    world = World()
    for name in ("a", "b", "c"):
        world.add(name)
    controller = Controller(world=world, script=[program(), DONE])
    controller.gate.fault = once(error, "plan", after=True).fault
    settle(world, controller)
    ends = sorted(str(run.fsm_state) for run in world.runs.values())
    assert ends == ["FAILED", "SUCCEEDED", "SUCCEEDED"]
    (failed,) = (run for run in world.runs.values() if run.fsm_state is State.FAILED)
    assert str(error.args[0]) in (failed.outcome.reason or "")
    check_invariants(world)


def test_a_failing_poll_does_not_fail_a_healthy_run() -> None:
    world = World(endings={(1, 1): LOST})
    world.add()
    controller = Controller(world=world, script=[program(), DONE])
    controller()
    world.now_s += 5
    for error in (Unreachable("x"), Rejected("y"), Throttled("z")):
        controller.gate.fault = once(error, "verdict", after=False).fault
        assert controller().due == 0
    assert world.runs["r1"].fsm_state is State.EXECUTING
    settle(world, controller)
    assert world.runs["r1"].fsm_state is State.SUCCEEDED


def test_a_job_run_that_the_workspace_has_forgotten_is_lost_and_not_run_again() -> None:
    world = World()
    world.add()
    controller = Controller(world=world, script=[program(), DONE])
    controller()
    world.jobs.clear()
    world.now_s += 5
    controller()
    assert statuses(world) == {(1, 1): Status.LOST}
    assert world.launches[AttemptKey(run_id="r1", iter_n=1, attempt=2)] == 0
    assert "JOB_RUN_NOT_FOUND" in world.runs["r1"].capsule.failed_approaches[0].text


def test_a_stale_controller_changes_nothing() -> None:
    world = World()
    world.add()
    heir = Controller(world=world, script=[program(), DONE], name="c2")

    def overtaken(name: str, after: bool) -> None:
        if name == "put manifest.json" and not after:
            world.now_s += LEASE_S + 1
            heir()

    slow = Controller(
        world=world, script=[program("slow()", purpose="slow"), DONE], gate=Gate(fault=overtaken)
    )
    report = slow()
    assert (report.advanced, report.fenced) == (0, 1)
    assert world.runs["r1"].lease_epoch == 2
    (request,) = world.table(RequestRow)
    assert request.submitted_by_worker == "c2"
    slow.gate.fault = lambda _name, _after: None
    settle(world, heir, slow)
    check_invariants(world)


def test_a_store_that_cannot_be_reached_is_said_so() -> None:
    for name in ("due", "claim", "save"):
        world = World()
        world.add()
        controller = Controller(
            world=world, script=[program()], gate=once(Unreachable("x"), name, after=False)
        )
        with pytest.raises(Unreachable):
            controller()


def test_programs_of_an_attempt_are_never_overwritten() -> None:
    world = World()
    world.add()
    gate = once(Killed(), "put manifest.json", after=False)
    with pytest.raises(Killed):
        Controller(world=world, script=[program("first()")], gate=gate)()
    world.now_s += LEASE_S + 1
    Controller(world=world, script=[program("second()")], name="c2")()
    folder = NAMESPACE.attempt_dir("r1", 1, 1)
    assert world.files[f"{folder}/entrypoint.py"] == b"first()"
    check_invariants(world)


def test_the_program_of_an_attempt_before_must_be_there() -> None:
    world = World(endings={(1, 1): LOST})
    world.add()
    controller = Controller(world=world, script=[program()])
    controller()
    world.run_jobs()
    del world.files[f"{NAMESPACE.attempt_dir('r1', 1, 1)}/manifest.json"]
    world.now_s += 5
    controller()
    assert world.runs["r1"].fsm_state is State.FAILED
    assert "manifest of the attempt before is gone" in (world.runs["r1"].outcome.reason or "")


def test_conflicts_inside_a_step_are_passing_faults() -> None:
    world = World()
    world.add()
    settle(world, Controller(world=world, script=[DONE], gate=once(Conflict("x"), "plan", after=False)))
    assert world.runs["r1"].fsm_state is State.SUCCEEDED


def test_not_found_from_the_submit_ends_the_run() -> None:
    world = World()
    world.add()
    Controller(world=world, script=[program()], gate=once(NotFound("No cluster."), "submit", after=False))()
    assert world.runs["r1"].outcome.reason == "No cluster."


def test_a_controller_does_not_race_with_itself_when_its_lease_has_lapsed() -> None:
    world = World()
    world.add()
    controller = Controller(world=world, script=[program(), DONE])
    again: list[int] = []

    def lapsed(name: str, after: bool) -> None:
        if name == "plan" and after and not again:
            again.append(1)
            world.now_s += LEASE_S + 1
            again.append(controller.tick(wait_s=0).due)

    controller.gate.fault = lapsed
    assert controller().advanced == 1
    assert again == [1, 0]
    assert world.plans == [("r1", 1)]

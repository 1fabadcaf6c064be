"""Damaged rows, files and replies: rejected with a reason on record; no run is stuck, no other disturbed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from fakes import (
    LEASE_S,
    NAMESPACE,
    Controller,
    Ending,
    Gate,
    Killed,
    World,
    check_invariants,
    program,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from databricks_rlm_agent.attempts.records import EventRow, ResultRow
from databricks_rlm_agent.errors import Throttled
from databricks_rlm_agent.runs.actions import Action, Ask, Finish, RunPython
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.run import AttemptKey, Run
from databricks_rlm_agent.storage.stores import to_row

SCRIPT: list[Action | str | Exception] = [program("one()"), program("two()"), Finish(answer="42")]
WHOLE = "whole"  # the run that must not be disturbed
FOLDER = NAMESPACE.attempt_dir("r1", 1, 1)
MAX_TICKS = 20
COLUMNS = ("capsule", "budget", "last_request", "last_result", "outcome")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
TEXTS = st.text(max_size=20) | JSON.map(json.dumps) | st.sampled_from(["", "{", "[" * 5_000, "NaN", "\ud800"])
BYTES = (
    st.binary(max_size=40)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.sampled_from([b"", b"[" * 5_000, b'{"run_id": "\\ud800"}', b"\xff\xfe", b"\xef\xbb\xbf{}"])
)


def changed(document: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A document of ours with one thing in it that is missing or something else."""
    paths = [(name,) for name in document]
    paths += [(name, inner) for name, value in document.items() if isinstance(value, dict) for inner in value]

    def change(path: tuple[str, ...], value: Any, drop: bool) -> dict[str, Any]:
        copy = json.loads(json.dumps(document))
        at = copy
        for name in path[:-1]:
            at = at[name]
        at.pop(path[-1]) if drop else at.update({path[-1]: value})
        return dict(copy)

    return st.builds(change, st.sampled_from(paths), JSON, st.booleans())


def began() -> tuple[World, Controller]:
    """Two runs whose first programs run."""
    world = World()
    world.add()
    world.add(WHOLE)
    controller = Controller(world=world, script=SCRIPT)
    controller()
    assert {run.fsm_state for run in world.runs.values()} == {State.EXECUTING}
    return world, controller


def ended(world: World, *controllers: Callable[[], object]) -> Run:
    """What becomes of the damaged run, within so many ticks, and with nothing else disturbed."""
    for step in range(MAX_TICKS):
        if all(run.fsm_state.terminal for run in world.runs.values()):
            break
        for _ in range(2):  # a damaged row may have to be mended first
            controllers[step % len(controllers)]()
        world.run_jobs()
        world.now_s += 3
    assert {run.run_id: run.fsm_state for run in world.runs.values() if not run.fsm_state.terminal} == {}
    if WHOLE in world.runs:
        whole = world.runs[WHOLE]
        assert (whole.fsm_state, whole.outcome.answer) == (State.SUCCEEDED, "42")
    assert world.violations == []
    assert all(count == 1 for count in world.launches.values())
    assert all(job.verdict.over for job in world.jobs.values())
    return world.runs["r1"]


def events(world: World, kind: str) -> list[dict[str, Any]]:
    rows = [row for row in world.table(EventRow) if (row.run_id, row.kind) == ("r1", kind)]
    return [json.loads(row.payload) for row in rows]


def check_row(world: World, controller: Controller, column: str, text: str | None) -> None:
    before = world.runs["r1"]
    world.torn["r1"] = {column: text}
    after = ended(world, controller)
    if rejected := events(world, "rejected_state"):
        assert column in rejected[0]["reason"]
        assert after.fsm_state is State.CANCELLED
        assert column in (after.outcome.reason or "")
        if before.fsm_state is State.EXECUTING:  # its job run was found, ended and confirmed
            assert AttemptKey(run_id="r1", iter_n=1, attempt=1) in world.cancels
    check_invariants(world)


@settings(max_examples=150)
@given(st.sampled_from(COLUMNS), st.none() | TEXTS, st.booleans())
def test_a_row_with_any_text_in_a_column(column: str, text: str | None, executing: bool) -> None:
    if executing:
        world, controller = began()
    else:
        world = World()
        world.add()
        world.add(WHOLE)
        controller = Controller(world=world, script=SCRIPT)
    check_row(world, controller, column, text)


@settings(max_examples=200)
@given(st.data())
def test_a_row_with_something_wrong_in_one_document(data: st.DataObject) -> None:
    world, controller = began()
    column = data.draw(st.sampled_from(["capsule", "budget", "last_request"]))
    document = json.loads(getattr(to_row(world.runs["r1"]), column))
    check_row(world, controller, column, json.dumps(data.draw(changed(document))))


@pytest.mark.parametrize("name", ["save", "put manifest.json", "verdict", "submit", "request_cancel"])
def test_a_damaged_run_ends_though_its_controller_dies_on_the_way(name: str) -> None:
    """What a claim or a save has written anew must not pass for a whole row."""
    for column in COLUMNS:
        world, _ = began()
        world.torn["r1"] = {column: "{"}
        left = [1]

        def die(called: str, after: bool, left: list[int] = left) -> None:
            if called == name and after and left:
                left.pop()
                raise Killed

        controllers = [Controller(world=world, script=SCRIPT, name="c2", gate=Gate(fault=die))]

        def context(controllers: list[Controller] = controllers, world: World = world) -> None:
            try:
                controllers[0]()
            except Killed:
                controllers[0] = Controller(world=world, script=SCRIPT, name="c3")
                world.now_s += LEASE_S

        run = ended(world, context)
        assert run.fsm_state is State.CANCELLED, column
        assert column in (run.outcome.reason or "")


# Manifests


def dead_after_its_manifest(script: list[Action | str | Exception]) -> World:
    """A controller put the manifest of r1 and died; what it put is the test's to damage."""
    world = World()
    world.add()

    def die(called: str, after: bool) -> None:
        if called in {"submit", "save"} and not after:
            raise Killed

    # The first one dies before its manifest, so that a closing is put on record by the second.
    for fault in ("put manifest.json", "submit save"):

        def stop(called: str, after: bool, names: str = fault) -> None:
            if called in [*names.split(), names] and not after:
                raise Killed

        first = [program("lost()")] if fault.startswith("put") else script
        with pytest.raises(Killed):
            Controller(world=world, script=first, name=world.new_id("c"), gate=Gate(fault=stop))()
        world.now_s += LEASE_S + 1
    assert f"{FOLDER}/manifest.json" in world.files
    return world


def check_manifest(content: bytes, script: list[Action | str | Exception]) -> None:
    world = dead_after_its_manifest(script)
    whole = world.files[f"{FOLDER}/manifest.json"]
    world.files[f"{FOLDER}/manifest.json"] = content
    plans = len(world.plans)
    world.add(WHOLE)
    run = ended(world, Controller(world=world, script=SCRIPT, name="heir"))
    assert [name for name, iter_n in world.plans[plans:] if name == "r1" and iter_n == 1] == []
    if rejected := events(world, "rejected_manifest"):
        assert rejected[0]["path"] == f"{FOLDER}/manifest.json"
        assert run.fsm_state is State.FAILED
        assert "manifest" in (run.outcome.reason or "").lower()
        assert [key for key in world.launches if key.run_id == "r1"] == []
    else:  # nothing that matters was changed
        assert run.fsm_state in {State.SUCCEEDED, State.FAILED, State.CANCELLED}
        assert run.outcome.reason is None or "Internal error" not in run.outcome.reason, whole


@settings(max_examples=100)
@given(BYTES)
def test_a_manifest_of_any_bytes_ends_the_run_and_is_never_planned_over(content: bytes) -> None:
    check_manifest(content, [program("one()")])


def manifest_of(script: list[Action | str | Exception]) -> dict[str, Any]:
    return dict(json.loads(dead_after_its_manifest(script).files[f"{FOLDER}/manifest.json"]))


PROGRAM: list[Action | str | Exception] = [program("one()"), program("two()"), Finish(answer="42")]
CLOSING: list[Action | str | Exception] = [Finish(answer="42")]


@pytest.mark.parametrize("script", [PROGRAM, CLOSING], ids=["program", "closing"])
def test_a_manifest_with_something_wrong_in_it(script: list[Action | str | Exception]) -> None:
    document = manifest_of(script)

    @settings(max_examples=120)
    @given(changed(document))
    def check(damaged: dict[str, Any]) -> None:
        if damaged.get("closing") == "ask":
            return  # waits for its person, as it says
        check_manifest(json.dumps(damaged).encode(), script)

    check()


@pytest.mark.parametrize("cut", [1, 100, 1_000, -1])
def test_a_manifest_that_was_cut_short(cut: int) -> None:
    content = json.dumps(manifest_of(PROGRAM)).encode()[:cut]
    check_manifest(content, PROGRAM)


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it["request"].update(run_id="other"),
        lambda it: it["request"].update(iter_n=7),
        lambda it: it["request"].update(purpose="something else"),
        lambda it: it["request"]["artifact"].update(sha256="0" * 64),
        lambda it: it["submit_payload"].update(idempotency_token="0" * 64),
        lambda it: it["submit_payload"].update(tasks=[]),
        lambda it: it["submit_payload"]["tasks"].append({}),
    ],
    ids=["run", "iteration", "request", "program", "token", "no task", "more tasks"],
)
def test_a_manifest_that_is_not_this_attempts_or_not_what_was_frozen(change: Callable[[Any], Any]) -> None:
    document = manifest_of(PROGRAM)
    change(document)
    world = dead_after_its_manifest(PROGRAM)
    world.files[f"{FOLDER}/manifest.json"] = json.dumps(document).encode()
    run = ended(world, Controller(world=world, script=SCRIPT, name="heir"))
    assert run.fsm_state is State.FAILED
    assert events(world, "rejected_manifest")
    assert world.jobs == {}


@pytest.mark.parametrize(
    "change",
    [{"closing": "explode"}, {"outcome": {"mood": "good"}}, {"outcome": {"answer": 7}}, {"attempt": 2}],
    ids=str,
)
def test_a_closing_with_wrong_fields(change: dict[str, Any]) -> None:
    world = dead_after_its_manifest(CLOSING)
    world.files[f"{FOLDER}/manifest.json"] = json.dumps(manifest_of(CLOSING) | change).encode()
    run = ended(world, Controller(world=world, script=SCRIPT, name="heir"))
    assert (run.fsm_state, len(events(world, "rejected_manifest"))) == (State.FAILED, 1)


# Results


def check_result(content: bytes, ending: Ending = Ending(row=False)) -> Run:  # noqa: B008 -- frozen
    world, controller = began()
    world.endings = {(1, 1): ending}
    world.run_jobs()
    path = f"{FOLDER}/result.json"
    world.files[path] = content
    run = ended(world, controller)
    assert (run.fsm_state, run.outcome.answer) == (State.SUCCEEDED, "42")
    found = [row for row in world.table(ResultRow) if (row.run_id, row.iter_n) == ("r1", 1)]
    assert len(found) == 1
    if rejected := events(world, "rejected_result"):
        assert rejected[0]["path"] == path
        assert found[0].status == ("SUCCESS" if ending.row else "LOST")
    assert 0 <= run.budget.executor_s < 1e9
    check_invariants(world)
    return run


@settings(max_examples=100)
@given(BYTES, st.booleans())
def test_a_result_of_any_bytes_is_no_result(content: bytes, row: bool) -> None:
    check_result(content, Ending(row=row))


def result() -> dict[str, Any]:
    world, _ = began()
    world.run_jobs()
    return dict(json.loads(world.files[f"{FOLDER}/result.json"]))


def test_a_result_with_something_wrong_in_it() -> None:
    @settings(max_examples=150)
    @given(changed(result() | {"value": {"a": 1}, "duration_s": 1.0, "metrics": {"m": 1.0}}))
    def check(damaged: dict[str, Any]) -> None:
        check_result(json.dumps(damaged).encode())

    check()


@pytest.mark.parametrize("seconds", ["-5", "NaN", "Infinity", "-Infinity", "1e308", "null"])
def test_no_figure_of_a_result_gives_a_run_time_or_takes_it_for_ever(seconds: str) -> None:
    text = json.dumps(result() | {"duration_s": 12345})
    if seconds != "1e308":
        check_result(text.replace("12345", seconds).encode())


def test_a_result_that_is_too_large_is_not_read() -> None:
    text = json.dumps(result() | {"value": "x" * (5 * 1024 * 1024)})
    run = check_result(text.encode())
    assert run.last_result is not None
    assert len(run.last_result.model_dump_json()) < 10_000


ROW_TEXTS = st.sampled_from(
    ["[" * 100_000, "", "{", "[1]", "null", "NaN", '{"a": "b"}', '[{"name": 7}]', '[{"nam": "x"}]', "7"]
)


@settings(max_examples=100)
@given(
    st.sampled_from(["metrics", "produced_artifacts", "produced_tables", "status", "reported_by"]),
    ROW_TEXTS | st.text(max_size=9),
)
def test_a_row_of_the_ledger_with_any_text_in_a_column(column: str, text: str) -> None:
    world, controller = began()
    world.endings = {(1, 1): Ending(file=False)}
    world.run_jobs()
    (key,) = (key for key, row in world.rows.items() if isinstance(row, ResultRow) and row.run_id == "r1")
    world.rows[key] = ResultRow(**(asdict(world.rows[key]) | {column: text}))
    run = ended(world, controller)
    assert (run.fsm_state, run.outcome.answer) == (State.SUCCEEDED, "42")
    if rejected := events(world, "rejected_result"):
        assert rejected[0]["path"] == "execution_results"


# Planners

ACTIONS = (
    st.builds(
        RunPython,
        code=st.text(max_size=20),
        purpose=st.text(max_size=20) | st.just("p" * 5_000),
        timeout_s=st.none() | st.integers(-5, 10**9),
        inputs=st.dictionaries(st.text(max_size=5), JSON, max_size=2),
    )
    | st.builds(Ask, question=st.text(max_size=20))
    | st.builds(Finish, answer=st.text(max_size=20), evidence=st.text(max_size=9))
    | st.builds(
        RunPython,
        code=st.sampled_from(["\ud800", "x" * 1_000]),
        purpose=st.just("\udcff"),
        inputs=st.sampled_from([{"a": {1, 2}}, {"a": object()}, {"a": float("nan")}, {1: 2}]),
    )
    | st.text(max_size=20)
    | st.builds(ValueError, st.text(max_size=9))
    | st.builds(Throttled, st.text(max_size=9))
)


@settings(max_examples=150)
@given(ACTIONS)
def test_whatever_a_planner_says_the_run_ends_or_asks(action: Any) -> None:
    world = World()
    world.add()
    world.add(WHOLE)
    odd = Controller(world=world, script=[action, Finish(answer="42")])
    plan = odd.tick.advancer.planner.plan  # the same planner, in whole for the other run

    def one_is_odd(context: Any) -> Any:
        if context.run_id == WHOLE:
            return Controller(world=world, script=SCRIPT).tick.advancer.planner.plan(context)
        return plan(context)

    object.__setattr__(odd.tick.advancer.planner, "plan", one_is_odd)
    for _ in range(12):
        odd()
        world.run_jobs()
        world.now_s += 61
    run, whole = world.runs["r1"], world.runs[WHOLE]
    assert (whole.fsm_state, whole.outcome.answer) == (State.SUCCEEDED, "42")
    passing = isinstance(action, Throttled)
    assert run.fsm_state.terminal or run.fsm_state is State.WAITING_FOR_INPUT or passing
    if run.fsm_state is State.FAILED:
        assert run.outcome.reason
    check_invariants(world)

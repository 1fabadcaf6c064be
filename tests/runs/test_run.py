"""Runs: answers, time, and what closes an attempt."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import manifest

from databricks_rlm_agent.attempts.manifest import Closing, Manifest, PlanRecord, parse_intent
from databricks_rlm_agent.errors import InvalidData, UsageError
from databricks_rlm_agent.runs.budget import Budget, Usage
from databricks_rlm_agent.runs.fsm import Event, State
from databricks_rlm_agent.runs.run import OVERRUN_S, LastRequest, Run, RunOutcome, new_run

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def run(**changes: object) -> Run:
    return replace(new_run("count", run_id="r1", clock=lambda: NOW), **changes)  # type: ignore[arg-type]


def waiting() -> Run:
    asked = run().after(Event.CLAIM).after(Event.ASK, outcome=RunOutcome(question="Which year?"))
    return replace(asked, iter_n=3, attempt=2, version=7, lease_epoch=4)


def test_an_answer_goes_on_with_the_next_iteration() -> None:
    after = waiting().answered("  2013\n")
    assert (after.fsm_state, after.iter_n, after.attempt) == (State.PLANNING, 4, 1)
    assert after.capsule.constraints == ["Asked: Which year? Answered: 2013"]
    assert after.outcome == RunOutcome()
    assert (after.version, after.lease_epoch) == (7, 4)  # compare-and-set compares what was read


@pytest.mark.parametrize("state", [state for state in State if state is not State.WAITING_FOR_INPUT])
def test_only_a_question_can_be_answered(state: State) -> None:
    with pytest.raises(UsageError, match="waits for no answer"):
        run(fsm_state=state).answered("2013")


@given(st.text(max_size=3_000))
def test_any_answer_is_heeded_or_refused_and_can_be_stored(text: str) -> None:
    if not text.strip():
        with pytest.raises(UsageError, match="empty"):
            waiting().answered(text)
        return
    (told,) = waiting().answered(text).capsule.constraints
    assert len(told) <= 600
    told.encode()


def last_request(submitted_at: datetime) -> LastRequest:
    return LastRequest(
        databricks_run_id=7, request_sha256="0", output_dir="/d", timeout_s=60, submitted_at=submitted_at
    )


def test_how_long_a_job_run_takes() -> None:
    begun = NOW - timedelta(seconds=30)
    assert run(last_request=last_request(begun)).executing_s(NOW) == 30
    assert run(updated_at=NOW - timedelta(seconds=5)).executing_s(NOW) == 5


def test_a_job_run_has_had_its_time_when_it_outlived_executor_and_platform() -> None:
    began = run(last_request=last_request(NOW))
    end = NOW + timedelta(seconds=60 + OVERRUN_S)
    assert not began.overrun(end, started=True)
    assert began.overrun(end + timedelta(seconds=1), started=True)
    assert not began.overrun(end + timedelta(days=1), started=False)  # it waits for compute, not for itself
    bounded = replace(began, budget=Budget(max_wall_s=100))
    assert bounded.overrun(NOW + timedelta(seconds=101 + OVERRUN_S), started=False)


# Intents


def closing(**changes: object) -> dict[str, object]:
    made = Closing(
        run_id="r1",
        iter_n=2,
        attempt=1,
        closing=Event.FINISH,
        outcome={"answer": "42"},
        plan=PlanRecord(epoch=3, usage=Usage(calls=2)),
    )
    return json.loads(made.to_bytes()) | changes


def test_an_intent_is_a_program_or_a_closing() -> None:
    found = parse_intent(json.dumps(closing()).encode(), where="here")
    assert isinstance(found, Closing)
    assert (found.closing, found.outcome, found.plan.usage.calls) == (Event.FINISH, {"answer": "42"}, 2)
    assert (found.key.iter_n, parse_intent(found.to_bytes(), where="here")) == (2, found)
    assert isinstance(parse_intent(json.dumps(manifest()).encode(), where="here"), Manifest)


@pytest.mark.parametrize(
    "change",
    [
        {"closing": "submitted"},
        {"closing": None},
        {"run_id": "../x"},
        {"iter_n": 0},
        {"attempt": "one"},
        {"outcome": None},
        {"outcome": {"answer": None}},
        {"outcome": {"mood": "good"}},
        {"plan": None},
        {"plan": {"epoch": -1}},
        {"schema_version": 2},
    ],
    ids=str,
)
def test_a_closing_with_wrong_fields_is_none(change: dict[str, object]) -> None:
    with pytest.raises(InvalidData, match=r"manifest does not parse.*\(here\)"):
        parse_intent(json.dumps(closing(**change)).encode(), where="here")


def test_intents_that_older_versions_wrote_have_no_kind() -> None:
    for document, kind in ((closing(), Closing), (manifest(), Manifest)):
        assert document.pop("kind") == kind.__name__.lower().replace("manifest", "program")
        assert isinstance(parse_intent(json.dumps(document).encode(), where="here"), kind)


def test_the_kind_decides() -> None:
    with pytest.raises(InvalidData, match="does not parse"):
        parse_intent(json.dumps(closing(kind="program")).encode(), where="here")
    with pytest.raises(InvalidData, match="does not parse"):
        parse_intent(json.dumps(manifest() | {"kind": "other"}).encode(), where="here")


def test_a_program_that_speaks_of_closing_is_a_program() -> None:
    document = manifest()
    document["request"]["purpose"] = 'the "closing" prices'
    assert isinstance(parse_intent(json.dumps(document).encode(), where="here"), Manifest)

"""What stands around a conversation: policy, lease, budget and the record of all that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from google.adk.models.llm_response import LlmResponse
from google.genai import types
from model_fakes import FakeModels, call, reply

from databricks_rlm_agent.errors import Conflict, Unreachable
from databricks_rlm_agent.planner.planner import AdkPlanner
from databricks_rlm_agent.planner.review import run_policy
from databricks_rlm_agent.planner.tools import Toolbox
from databricks_rlm_agent.policy.judge import GATED, PolicyFinding, gate
from databricks_rlm_agent.ports import Planner, PlanningContext, PlanResult
from databricks_rlm_agent.runs.actions import Action, Finish, RunPython

Make = Callable[..., Planner]
RUN = {"call": "run_python", "args": {"code": "print(1)", "purpose": "to see"}}
FINISH = {"call": "finish", "args": {"answer": "JFK"}}
SEARCH = {"call": "search_catalog", "args": {}}


def noted(planned: PlanResult, kind: str) -> list[dict[str, Any]]:
    return [note.payload for note in planned.notes if note.kind == kind]


def program(code: str) -> dict[str, Any]:
    return {"call": "run_python", "args": {"code": code, "purpose": "p"}}


# The policy on actions.


def test_what_a_policy_refuses_is_noted_and_told_to_the_model(
    scripted: Make, context: PlanningContext
) -> None:
    def no_programs(_context: PlanningContext, action: Action) -> PolicyFinding | None:
        return PolicyFinding(rule="r", reason="No programs.") if isinstance(action, RunPython) else None

    planned = scripted(RUN, FINISH, policy=no_programs).plan(context)
    assert isinstance(planned.action, Finish)
    assert [note["reason"] for note in noted(planned, "refusal")] == ["No programs."]
    assert noted(planned, "policy") == [
        {"rule": "r", "tool": "run_python", "reason": "No programs.", "mode": "DEV", "refused": True}
    ]
    assert noted(planned, "tool_call")[0]["error"] == "No programs."


def test_what_a_policy_lets_pass_is_noted(scripted: Make, context: PlanningContext) -> None:
    finding = PolicyFinding(rule="unclear", reason="Who knows.", refused=False)
    planned = scripted(RUN, policy=lambda _context, _action: finding).plan(context)
    assert isinstance(planned.action, RunPython)
    assert [note["refused"] for note in noted(planned, "policy")] == [False]
    assert noted(planned, "refusal") == []


@pytest.mark.parametrize("mode", ["DEV", "PROD"])
def test_the_policy_knows_the_run(
    scripted: Make, make_context: Callable[..., PlanningContext], world: dict[str, Any], mode: str
) -> None:
    tables = [{"name": "main.rlm.mine"}]
    inputs = {"orders": {"kind": "table", "name": "main.rlm.run_events"}}
    context = replace(make_context(tables=tables, inputs=inputs), mode=mode)
    mine, other = (
        program("spark.sql('DROP TABLE main.rlm.mine')"),
        program("spark.sql('DROP TABLE main.rlm.other')"),
    )
    ledger = program("spark.sql(f'DELETE FROM {rlm.inputs[\"orders\"].name} WHERE a = 1')")
    policy = run_policy(world["namespace"], None)
    planned = scripted(ledger, other, mine, policy=policy).plan(context)
    assert isinstance(planned.action, RunPython)
    assert "mine" in planned.action.code
    assert [note["rule"] for note in noted(planned, "policy")] == ["own tables", "destructive"]


def test_a_policy_that_refuses_for_ever_ends_planning(scripted: Make, context: PlanningContext) -> None:
    planned = scripted(RUN, RUN, RUN, RUN, policy=lambda *_: PolicyFinding(rule="r", reason="No.")).plan(
        context
    )
    assert planned.action is None
    assert "refused 3 times; the last reason: No." in (planned.failure or "")
    assert len(planned.calls) == 3


# Tools by mode.


@pytest.mark.parametrize(("mode", "tool"), [("PROD", "search_catalog"), ("PROD", "run_python")])
def test_a_gated_tool_is_neither_offered_nor_answered(
    world: dict[str, Any], context: PlanningContext, mode: str, tool: str
) -> None:
    args = {"code": "print(1)", "purpose": "p"} if tool == "run_python" else {}
    replies = [reply(call(tool, **args)), reply(call("finish", answer="x"))]
    models = FakeModels({"gemini-fake": iter(replies * 2)})
    planner = AdkPlanner(
        models=models,
        toolbox=Toolbox(**world),
        gated={"DEV": frozenset(), "PROD": frozenset({tool})},
    )
    planned = planner.plan(replace(context, mode=mode))
    assert planned.action == Finish(answer="x")
    finding = noted(planned, "policy")[0]
    assert (finding["rule"], finding["tool"], finding["mode"], finding["refused"]) == (
        "tool",
        tool,
        mode,
        True,
    )
    requests = models.links[0].requests
    assert f"- {tool}" not in str(requests[0].config.system_instruction)
    assert tool not in {each.name for each in requests[0].config.tools[0].function_declarations}
    answer = requests[1].contents[-1].parts[0].function_response.response
    assert answer == {"error": f"{tool} is not to be used in mode PROD. Use another tool or action."}

    free = planner.plan(replace(context, mode="DEV"))
    assert noted(free, "policy") == []


def test_no_mode_goes_without_anything_by_default() -> None:
    assert all(gate("run_python", mode) is None for mode in (*GATED, "other"))
    assert gate("ask", "other", {"DEV": frozenset(), "PROD": frozenset({"ask"})}) is not None


# The lease.


def test_without_the_lease_nothing_is_asked(scripted: Make, context: PlanningContext) -> None:
    planner = scripted(RUN)
    checks: list[str] = []
    planned = planner.plan(replace(context, lease_held=lambda: bool(checks.append("?"))))
    assert isinstance(planned.fault, Conflict)
    assert "The lease of the run was lost" in str(planned.fault)
    assert (checks, planned.calls) == (["?"], ())


@pytest.mark.parametrize("asked", [1, 2, 3])
def test_a_lease_lost_in_between_ends_planning(scripted: Make, context: PlanningContext, asked: int) -> None:
    times = iter([True] * asked + [False] * 9)
    reviewed: list[Action] = []

    def review(action: Action) -> str | None:
        reviewed.append(action)
        return None

    planned = scripted(SEARCH, SEARCH, RUN).plan(
        replace(context, lease_held=lambda: next(times), review=review)
    )
    assert isinstance(planned.fault, Conflict)
    assert (planned.action, planned.failure) == (None, None)
    assert len(planned.calls) == min(asked, 3)  # what was asked before that is told
    assert len(reviewed) == (asked == 3)  # the last time is after the review, before the action is accepted


# What control itself says.


def test_controls_own_judgement_is_a_refusal(scripted: Make, context: PlanningContext) -> None:
    def review(action: Action) -> str | None:
        return "The check of main.rlm.x failed." if isinstance(action, Finish) else None

    planned = scripted(FINISH, RUN).plan(replace(context, review=review))
    assert isinstance(planned.action, RunPython)
    assert [note["tool"] for note in noted(planned, "refusal")] == ["finish"]
    assert noted(planned, "policy") == []


def test_a_fault_of_the_workspace_in_a_review_is_nobodys_refusal(
    scripted: Make, context: PlanningContext
) -> None:
    def review(_action: Action) -> str | None:
        raise Unreachable("No answer from the warehouse.")

    planned = scripted(FINISH, RUN).plan(replace(context, review=review))
    assert isinstance(planned.fault, Unreachable)
    assert (planned.action, planned.failure, len(planned.calls)) == (None, None, 1)
    assert noted(planned, "refusal") == []


def test_a_review_may_wait_without_holding_up_other_runs(
    scripted: Make, make_context: Callable[..., PlanningContext]
) -> None:
    import threading
    from concurrent.futures import ThreadPoolExecutor

    both = threading.Barrier(2, timeout=120)  # each review waits for the other's
    planner = scripted(FINISH)
    turns = [replace(make_context(), review=lambda _action: None if both.wait() >= 0 else "")] * 2
    with ThreadPoolExecutor(2) as pool:
        assert all(isinstance(planned.action, Finish) for planned in pool.map(planner.plan, turns))


def test_of_two_actions_in_a_reply_one_is_reviewed_and_taken(
    world: dict[str, Any], context: PlanningContext
) -> None:
    reviewed: list[Action] = []

    def review(action: Action) -> str | None:
        reviewed.append(action)
        return None

    both = reply(call("finish", answer="one"), call("finish", answer="two"))
    planner = AdkPlanner(
        models=FakeModels({"gemini-fake": iter([both])}),
        toolbox=Toolbox(**world),
    )
    planned = planner.plan(replace(context, review=review))
    assert planned.action == Finish(answer="one")
    assert reviewed == [Finish(answer="one")]


# The record.


def test_no_key_gets_into_what_is_noted(
    world: dict[str, Any], context: PlanningContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-very-secret-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    replies = [reply(call("run_python", code=f"k = '{key}'", purpose=key)), reply(call("finish", answer="x"))]
    planner = AdkPlanner(
        models=FakeModels({"gemini-fake": iter(replies)}),
        toolbox=Toolbox(**world),
        policy=lambda _context, action: (
            PolicyFinding(rule="secret", reason=f"It has {key}.") if isinstance(action, RunPython) else None
        ),
    )
    planned = planner.plan(context)
    assert {note.kind for note in planned.notes} == {"policy", "refusal", "tool_call"}
    assert key not in repr(planned.notes)


def test_a_reply_that_only_ends_the_conversation_is_no_call_of_a_model() -> None:
    from databricks_rlm_agent.planner.conversation import last_response

    response = last_response()
    assert isinstance(response, LlmResponse)
    assert isinstance(response.content, types.Content)
    assert not any(part.function_call for part in response.content.parts or [])

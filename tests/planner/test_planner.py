from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from model_fakes import create_planner

from databricks_rlm_agent.ports import Planner, PlanningContext, PlanResult
from databricks_rlm_agent.runs.actions import Ask, Finish, RunPython, Spawn
from databricks_rlm_agent.runs.budget import Budget, Usage
from executor_harness.protocol import ChildTask

Make = Callable[..., Planner]
RUN = {"call": "run_python", "args": {"code": "print(1)", "purpose": "to see"}}
FINISH = {"call": "finish", "args": {"answer": "JFK", "evidence": "main.rlm.result"}}


def refusals(planned: PlanResult) -> list[str]:
    return [note.payload["reason"] for note in planned.notes if note.kind == "refusal"]


@pytest.mark.parametrize(
    ("reply", "action"),
    [
        (RUN, RunPython(code="print(1)", purpose="to see")),
        (
            {
                "call": "run_python",
                "args": {
                    "code": "x = {}",
                    "purpose": "p",
                    "task_type": "python",
                    "inputs": {"t": {"kind": "table", "name": "a.b.c"}},
                    "timeout_s": 60,
                },
            },
            RunPython(
                code="x = {}", purpose="p", inputs={"t": {"kind": "table", "name": "a.b.c"}}, timeout_s=60
            ),
        ),
        ({"call": "ask", "args": {"question": "Which year?"}}, Ask(question="Which year?")),
        (FINISH, Finish(answer="JFK", evidence="main.rlm.result")),
    ],
)
def test_an_action_ends_the_iteration(
    scripted: Make, context: PlanningContext, reply: Any, action: Any
) -> None:
    planned = scripted(reply).plan(context)
    assert (planned.action, planned.failure) == (action, None)
    assert len(planned.calls) == 1
    assert planned.usage.calls == 1
    assert planned.usage.input_tokens > 100
    assert planned.usage.output_tokens > 0
    assert planned.calls[0].error is None
    assert planned.calls[0].purpose == "planner"


def test_tools_may_be_read_before_the_action(scripted: Make, context: PlanningContext) -> None:
    planned = scripted(
        {"call": "search_catalog", "args": {"text": "fli"}},
        {"call": "describe_table", "args": {"table": "main.rlm.nothing"}},
        {"text": "I know enough."},
        RUN,
    ).plan(context)
    assert isinstance(planned.action, RunPython)
    assert len(planned.calls) == 4
    tools = [note.payload for note in planned.notes if note.kind == "tool_call"]
    assert [tool["tool"] for tool in tools] == ["search_catalog", "describe_table", "run_python"]
    assert "There is no such table" in tools[1]["error"]


def test_the_same_iteration_hears_the_same_reply(
    scripted: Make, make_context: Callable[..., PlanningContext]
) -> None:
    planner = scripted(script={"planner": [[RUN], [FINISH]]})
    for _ in range(2):
        assert isinstance(planner.plan(make_context(1)).action, RunPython)
        assert isinstance(planner.plan(make_context(2)).action, Finish)


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ({"code": "def f(:", "purpose": "p"}, "line 1"),
        ({"code": "  ", "purpose": "p"}, "empty"),
        ({"code": "x = 1\0", "purpose": "p"}, "does not compile"),
        ({"code": "(" * 5000 + ")" * 5000, "purpose": "p"}, "does not compile"),
        ({"code": "-" * 100_000 + "1", "purpose": "p"}, "does not compile"),
        ({"code": "x = '\ud800'", "purpose": "p"}, "lone surrogate"),
        pytest.param(
            {"code": "import asyncio\nawait asyncio.sleep(0)", "purpose": "p"},
            "line 2: 'await' outside function. Await is not supported at the top level",
            marks=pytest.mark.fault("A11"),
        ),
        ({"code": "#" * 300_000, "purpose": "p"}, "limit"),
        ({"code": "x = 1"}, "purpose: Field required"),
        ({"code": 5, "purpose": "p"}, "code: Input should be a valid string"),
        ({"code": "x = 1", "purpose": "p", "timeout_s": "soon"}, "timeout_s"),
        ({"code": "x = 1", "purpose": "p", "timeout_s": 0}, "between 1 and"),
        ({"code": "x = 1", "purpose": "p", "task_type": "r"}, "task_type"),
        ({"code": "x = 1", "purpose": "p", "cluster": "big"}, "cluster"),
        ({"code": "x = 1", "purpose": "p", "inputs": [1]}, "inputs"),
        ({"code": "x = 1", "purpose": "p", "inputs": {"a": {"kind": "text", "text": "x" * 30_000}}}, "limit"),
        ({"code": "x = 1", "purpose": "p", "inputs": {"a": 1}}, "not a handle"),
        ({"code": "x = 1", "purpose": "p", "inputs": {"a": {"kind": []}}}, "not a handle"),
        (
            {"code": "x = 1", "purpose": "p", "inputs": {"a": {"kind": "table", "name": "t"}}},
            "full table name",
        ),
        (
            {"code": "x = 1", "purpose": "p", "inputs": {"a": {"kind": "file", "path": "/etc/x"}}},
            "in a Volume",
        ),
        ({"code": "x = 1", "purpose": "\ud800"}, "lone surrogate"),
        ({}, "Field required"),
    ],
)
def test_a_refusal_goes_back_to_the_model(
    scripted: Make, context: PlanningContext, args: Any, reason: str
) -> None:
    planned = scripted({"call": "run_python", "args": args}, FINISH).plan(context)
    assert isinstance(planned.action, Finish)
    assert planned.failure is None
    assert len(refusals(planned)) == 1
    assert reason in refusals(planned)[0]
    assert len(refusals(planned)[0]) < 3_000


def test_refusals_are_bounded(scripted: Make, context: PlanningContext) -> None:
    bad = {"call": "finish", "args": {"answer": " "}}
    planned = scripted(bad, bad, bad, FINISH).plan(context)
    assert planned.action is None
    assert "refused 3 times" in (planned.failure or "")
    assert "answer is empty" in (planned.failure or "")
    assert len(planned.calls) == 3


def test_an_unknown_tool_is_refused_by_name(scripted: Make, context: PlanningContext) -> None:
    planned = scripted({"call": "spawn", "args": {"tasks": []}}, RUN).plan(context)
    assert isinstance(planned.action, RunPython)
    assert "There is no tool 'spawn'" in refusals(planned)[0]
    assert "run_python" in refusals(planned)[0]


def test_unknown_tools_are_bounded(scripted: Make, context: PlanningContext) -> None:
    planned = scripted(*[{"call": "rm_rf"}] * 4).plan(context)
    assert "There is no tool 'rm_rf'" in (planned.failure or "")
    assert len(planned.calls) == 3


def test_a_text_is_forgiven_once(scripted: Make, context: PlanningContext) -> None:
    assert isinstance(scripted({"text": "Hm."}, RUN).plan(context).action, RunPython)
    planned = scripted({"text": "Hm."}, {"text": "Hm?"}, RUN).plan(context)
    assert planned.action is None
    assert planned.failure == "The model gave no action."


def test_model_calls_are_bounded(scripted: Make, context: PlanningContext) -> None:
    planned = scripted(*[{"call": "search_catalog", "args": {"text": ""}}] * 20).plan(context)
    assert "asked 12 times" in (planned.failure or "")
    assert len(planned.calls) == 12


def test_the_end_of_the_script_is_a_clear_failure(
    scripted: Make, make_context: Callable[..., PlanningContext]
) -> None:
    planned = scripted({"call": "search_catalog"}).plan(make_context(1))
    assert "planner, iteration 1, call 2" in (planned.failure or "")
    assert "script.json" in (planned.failure or "")
    assert planned.calls[-1].error
    assert "iteration 7, call 1" in (scripted(RUN).plan(make_context(7)).failure or "")


def test_many_threads_may_plan_at_once(scripted: Make, context: PlanningContext) -> None:
    planner = scripted({"call": "search_catalog"}, RUN)
    with ThreadPoolExecutor(8) as pool:
        planned = list(pool.map(lambda _: planner.plan(context), range(24)))
    assert all(isinstance(one.action, RunPython) and len(one.calls) == 2 for one in planned)


def test_importing_the_planner_imports_nothing_heavy() -> None:
    code = (
        "import sys, databricks_rlm_agent.planner.planner; "
        "print([m for m in ('google.adk', 'google.genai', 'litellm', 'pyspark') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_two_actions_in_one_reply(
    tmp_path: Any, world: dict[str, Any], context: PlanningContext, monkeypatch: Any
) -> None:
    from google.adk.models.llm_response import LlmResponse
    from google.genai import types

    from databricks_rlm_agent.planner import chain as module

    async def both(self: Any, llm_request: Any, stream: bool = False) -> Any:
        calls = [types.FunctionCall(name=one["call"], args=one["args"]) for one in (RUN, FINISH)]
        parts = [types.Part(function_call=call) for call in calls]
        yield LlmResponse(content=types.Content(role="model", parts=parts))

    monkeypatch.setattr(module.ScriptedModel, "generate_content_async", both)
    file = tmp_path / "s.json"
    file.write_text('{"planner": [[{"text": "x"}]]}')
    planned = create_planner(f"scripted:{file}", **world).plan(context)
    assert isinstance(planned.action, RunPython)
    assert planned.failure is None
    assert len(planned.calls) == 1
    assert "one is taken already" in planned.notes[-1].payload["error"]


def test_a_finish_may_quote_the_last_result(
    scripted: Make, make_context: Callable[..., PlanningContext]
) -> None:
    wrong = {"call": "finish", "args": {"answer": "It is {{value.airport}}."}}
    right = {
        "call": "finish",
        "args": {"answer": "It is {{value.worst.0}}.", "evidence": "{{ value.worst }}"},
    }
    context = replace(make_context(), last_value={"worst": ["JFK"]})
    planned = scripted(wrong, right).plan(context)
    assert planned.action == Finish(answer="It is JFK.", evidence='["JFK"]')
    assert "worst" in refusals(planned)[0]


@pytest.mark.fault("A9")
@pytest.mark.parametrize("quoted", ["answer", "evidence"])
def test_a_value_that_no_program_gave_cannot_be_quoted(
    scripted: Make, context: PlanningContext, quoted: str
) -> None:
    wrong = {"call": "finish", "args": {"answer": "42", quoted: "total {{value}}"}}
    right = {"call": "finish", "args": {"answer": "42"}}
    planned = scripted(wrong, right).plan(context)
    assert planned.action == Finish(answer="42")
    assert "the last program gave no value" in refusals(planned)[0]


def test_the_runs_own_budget_of_model_calls_is_kept(scripted: Make, context: PlanningContext) -> None:
    budget = Budget(max_model_calls=10, usage=Usage(calls=8))
    planned = scripted(*[{"call": "search_catalog"}] * 5).plan(replace(context, budget=budget))
    assert (planned.failure or "").startswith("budget: ")
    assert planned.usage.calls == 2


def test_a_tools_own_defect_is_told_to_the_model(
    scripted: Make, context: PlanningContext, world: dict[str, Any]
) -> None:
    world["sql"].rows = None
    planned = scripted({"call": "sample_table", "args": {"table": "a.b.c"}}, RUN).plan(context)
    assert isinstance(planned.action, RunPython)
    assert "sample_table failed: TypeError" in refusals(planned)[0]


def test_an_odd_escape_is_no_error(scripted: Make, context: PlanningContext) -> None:
    code = "x = '\\d'"
    assert (
        scripted({"call": "run_python", "args": {"code": code, "purpose": "p"}}).plan(context).failure is None
    )


CHILD = {"name": "jfk", "task": "Look at JFK.", "inputs": {"t": {"kind": "table", "name": "a.b.c"}}}


def test_children_are_spawned_where_there_is_room(scripted: Make, context: PlanningContext) -> None:
    reply = {"call": "spawn", "args": {"tasks": [CHILD, {"name": "lga", "task": "Look at LGA."}]}}
    planned = scripted(reply).plan(replace(context, children_left=2))
    assert planned.action == Spawn(tasks=(ChildTask(**CHILD), ChildTask(name="lga", task="Look at LGA.")))
    planned = scripted(reply, RUN).plan(replace(context, children_left=1))
    assert isinstance(planned.action, RunPython)
    assert "2 child runs are asked for, and there may be 1" in refusals(planned)[0]


@pytest.mark.parametrize(
    ("tasks", "reason"),
    [
        ([], "No child tasks"),
        ("x", "tasks: Input should be a valid list"),
        ([{"name": "A", "task": "t"}], "tasks[0].name: String should match"),
        ([{"name": "a"}], "tasks[0].task: Field required"),
        ([{"name": "a", "task": "t", "budget": 1}], "tasks[0] has budget"),
        ([{"name": "a", "task": "t"}, {"name": "a", "task": "u"}], "same name"),
        ([{"name": "a", "task": "t", "inputs": {"x": {"kind": "folder", "path": "/etc"}}}], "in a Volume"),
        ([{"name": "a", "task": "t", "inputs": {"x": {"kind": "run"}}}], "'x' is not a handle"),
        ([{"name": "a", "task": " "}], "empty"),
    ],
)
def test_children_that_cannot_be_are_refused(
    scripted: Make, context: PlanningContext, tasks: Any, reason: str
) -> None:
    planned = scripted({"call": "spawn", "args": {"tasks": tasks}}, RUN).plan(
        replace(context, children_left=5)
    )
    assert isinstance(planned.action, RunPython)
    assert reason in refusals(planned)[0]


@pytest.mark.parametrize("kind", ["file", "folder", "answer"])
def test_handles_with_a_path(scripted: Make, context: PlanningContext, kind: str) -> None:
    inputs = {"x": {"kind": kind, "path": "/Volumes/a/b/c/d"}}
    args = {"code": "x = 1", "purpose": "p", "inputs": inputs}
    planned = scripted({"call": "run_python", "args": args}).plan(context)
    assert isinstance(planned.action, RunPython)
    assert planned.action.inputs == inputs

"""Whatever a model replies, planning ends: within its bounds, with a decision or with a clear reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain, cycle, repeat
from typing import Any

import pytest
from google.adk.models.llm_response import LlmResponse
from google.genai import types
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_fakes import FakeModels, call, reply

from databricks_rlm_agent.attempts.result import Result
from databricks_rlm_agent.planner.conversation import MAX_CALLS
from databricks_rlm_agent.planner.planner import MAX_MODEL_CALLS, AdkPlanner
from databricks_rlm_agent.planner.tools import Toolbox
from databricks_rlm_agent.ports import ModelCall, PlannerNote, PlanningContext
from databricks_rlm_agent.retry import MODELS
from databricks_rlm_agent.runs.actions import Finish
from executor_harness.protocol import Stream

NAME = "gemini-fake"
TOOLS = [
    *("run_python", "ask", "finish"),
    *("search_catalog", "describe_table", "sample_table", "list_files", "read_file"),
]
# All of Unicode with lone surrogates and control characters, as a broken gateway may let through.
TEXT = st.text(st.characters(exclude_categories=()), max_size=20) | st.sampled_from(
    ["", " ", "\x00", "\ud800", "x" * 20_000, "{{value.a}}", "catalog.schema.table", "/Volumes/a/b/c"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.sampled_from(
    ["code", "purpose", "inputs", "timeout_s", "question", "answer", "evidence", "text", "path", "table"]
)
CALLS = st.builds(
    # Without validation: what a provider's library lets through is not for us to assume.
    lambda name, args: types.Part.model_construct(
        function_call=types.FunctionCall.model_construct(name=name, args=args)
    ),
    st.sampled_from([*TOOLS, None, "", "rm_rf"]) | TEXT,
    st.dictionaries(ARGUMENTS | TEXT, JSON, max_size=4) | st.none(),
)
TEXTS = st.builds(lambda text: types.Part.model_construct(text=text), TEXT | st.none())
THOUGHTS = st.builds(lambda text: types.Part.model_construct(text=text, thought=True), TEXT)
PARTS = st.lists(CALLS | TEXTS | THOUGHTS | st.just(types.Part()), max_size=4)
CONTENTS = st.none() | st.builds(
    lambda parts: types.Content.model_construct(role="model", parts=parts), PARTS | st.none()
)
USAGES = st.none() | st.builds(
    lambda read, written: types.GenerateContentResponseUsageMetadata.model_construct(
        prompt_token_count=read, candidates_token_count=written
    ),
    st.none() | st.integers(-5, 500),
    st.none() | st.integers(-5, 500),
)
RESPONSES = st.builds(
    lambda content, usage, code, message: LlmResponse.model_construct(
        content=content, usage_metadata=usage, error_code=code, error_message=message
    ),
    CONTENTS,
    USAGES,
    st.none() | st.sampled_from(["MAX_TOKENS", "SAFETY", "MALFORMED_FUNCTION_CALL"]),
    st.none() | TEXT,
)
FAULTS = st.builds(
    lambda kind, text: kind(text),
    st.sampled_from([ValueError, KeyError, TimeoutError, RecursionError, OSError, StopAsyncIteration]),
    TEXT,
)
Make = Callable[..., AdkPlanner]
# The fixtures hold nothing that an example changes; and a busy machine is no fault of the strategies.
CALM = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.fixture
def planner(world: dict[str, Any]) -> Make:
    def make(*replies: Any) -> AdkPlanner:
        endless = chain(replies, cycle(replies)) if replies else repeat(reply())
        models = FakeModels({NAME: endless})
        return AdkPlanner(models=models, toolbox=Toolbox(**world))

    return make


def storable(text: str) -> bool:
    return text.encode("utf-8", "replace") == text.encode("utf-8", "surrogatepass")


def check_recorded(calls: tuple[ModelCall, ...], notes: tuple[PlannerNote, ...]) -> None:
    """All of it can go into run_events: as JSON, in Unicode, and bounded."""
    assert len(calls) <= MAX_MODEL_CALLS * MODELS.attempts
    for one in calls:
        assert one.usage.calls == 1 or (one.usage.calls == 0 and one.error)  # nobody has answered
        assert len(one.error or "") <= 1_000
        assert storable(one.error or "")
    for note in notes:
        row = json.dumps(note.payload, ensure_ascii=False)
        assert storable(row), note
        assert len(row) < 5_000


@settings(max_examples=80, deadline=None, suppress_health_check=CALM)
@given(st.lists(RESPONSES | FAULTS, min_size=1, max_size=5))
def test_any_reply_ends_in_a_decision_or_a_reason(
    planner: Make, context: PlanningContext, replies: list[Any]
) -> None:
    planned = planner(*replies).plan(context)
    assert [planned.action, planned.failure, planned.fault].count(None) == 2
    assert planned.failure is None or (planned.failure.strip() and len(planned.failure) < 2_000)
    assert storable(f"{planned.failure} {planned.fault}")
    check_recorded(planned.calls, planned.notes)


@settings(max_examples=25, deadline=None, suppress_health_check=CALM)
@given(st.lists(RESPONSES | FAULTS, min_size=1, max_size=3))
def test_any_summary_is_one_or_none(planner: Make, context: PlanningContext, replies: list[Any]) -> None:
    long = Result(
        run_id="r1", iter_n=1, attempt=1, status="SUCCESS", stdout=Stream(bytes=10**6, head="h", tail="t")
    )
    summary = planner(*replies).summarize(context, long)
    check_recorded(summary.calls, ())
    assert summary.delta is None or storable(summary.delta.digest)


def test_calls_beyond_the_bound_and_without_a_name_are_left_out(
    planner: Make, context: PlanningContext
) -> None:
    nameless = types.Part(function_call=types.FunctionCall(args={}))
    flood = reply(*[call("search_catalog", text=str(n)) for n in range(100)], nameless)
    planned = planner(flood, reply(call("finish", answer="x"))).plan(context)
    assert planned.action == Finish(answer="x")
    assert len([note for note in planned.notes if note.kind == "tool_call"]) == MAX_CALLS + 1
    (left_out,) = [note.payload for note in planned.notes if note.kind == "tool_calls_left_out"]
    assert left_out == {"count": 85}


def test_only_nameless_calls_are_no_action(planner: Make, context: PlanningContext) -> None:
    planned = planner(reply(types.Part(function_call=types.FunctionCall(args={})))).plan(context)
    assert planned.action is None
    assert planned.failure
    assert len(planned.calls) <= 3


def test_a_name_without_end_is_clipped(planner: Make, context: PlanningContext) -> None:
    planned = planner(reply(call("x" * 100_000))).plan(context)
    assert "There is no tool 'xxx" in (planned.failure or "")
    check_recorded(planned.calls, planned.notes)


def test_deep_arguments_are_refused(planner: Make, context: PlanningContext) -> None:
    deep: Any = []
    for _ in range(50_000):
        deep = [deep]
    part = types.Part.model_construct(
        function_call=types.FunctionCall.model_construct(name="run_python", args={"code": deep})
    )
    planned = planner(reply(part)).plan(context)
    assert planned.action is None
    assert planned.failure
    check_recorded(planned.calls, planned.notes)

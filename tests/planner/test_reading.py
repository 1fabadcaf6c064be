"""Long outputs are read in parts: within the budget, and without harm if that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import repeat
from typing import Any

import pytest
from google.genai import types
from model_fakes import FakeModel, FakeModels, call, reply
from pydantic import Field

from databricks_rlm_agent.attempts.result import Result
from databricks_rlm_agent.errors import Unreachable
from databricks_rlm_agent.planner.planner import AdkPlanner
from databricks_rlm_agent.planner.summarizer import MAX_READERS, PLANNER_CALLS
from databricks_rlm_agent.planner.tools import Toolbox
from databricks_rlm_agent.ports import PlanningContext, Summary
from databricks_rlm_agent.runs.budget import Budget
from executor_harness.protocol import ProducedTable, Stream

PATH = "/Volumes/main/rlm/files/scratchpad/run_r1/iter_1/stdout.txt"
SUMMARY = call(
    "remember", digest="The needle is 41.", decisions=["use it", "x" * 5_000], failed_approaches=[]
)


def a_result(content: bytes) -> Result:
    text = content.decode()
    stdout = Stream(path=PATH, bytes=len(content), head=text[:4_000], tail=text[-4_000:])
    tables = [ProducedTable(name="main.rlm.t")]
    return Result(
        run_id="r1", iter_n=1, attempt=1, status="SUCCESS", stdout=stdout, produced_tables=tables,
        metrics={"rows": 3.0},
    )  # fmt: skip


LONG = b"start\n" + b"x" * 90_000 + b"\nValueError: the needle is 41\n" + b"y" * 90_000 + b"\nthe end\n"


class Reader(FakeModel):
    """Answers readers with a note, and the summarizer with a summary; counts how many are asked at once."""

    at_once: list[int] = Field(default_factory=list)
    asked: int = 0

    async def generate_content_async(self, llm_request: Any, stream: bool = False) -> Any:
        self.requests.append(llm_request)
        if llm_request.config.tools:
            yield reply(SUMMARY, tokens=(100, 50))
            return
        self.asked += 1
        await asyncio.sleep(0.01)
        self.at_once.append(self.asked)
        self.asked -= 1
        answer = next(self.replies)
        if isinstance(answer, BaseException):
            raise answer
        yield reply(types.Part(text=answer), tokens=(4_000, 20))


Make = Callable[..., tuple[AdkPlanner, Reader]]


@pytest.fixture
def make(world: dict[str, Any]) -> Make:
    def make(notes: Any, content: bytes = LONG) -> tuple[AdkPlanner, Reader]:
        world["volume"].files[PATH] = content
        models = FakeModels({"gemini-a": iter(())})
        reader = Reader(model="gemini-a", replies=iter(notes))
        models.links = [reader]
        return AdkPlanner(models=models, toolbox=Toolbox(**world)), reader

    return make


def instruction_of(reader: Reader) -> str:
    """The summarizer's own instruction."""
    return str(next(r for r in reader.requests if r.config.tools).config.system_instruction)


def test_parts_are_read_at_once_and_their_notes_are_told(make: Make, context: PlanningContext) -> None:
    planner, reader = make(f"note {n}" for n in range(99))
    summary = planner.summarize(context, a_result(LONG))
    assert summary.delta is not None
    assert summary.delta.digest == 'The needle is 41.\nOn record: Metrics: {"rows": 3.0}'
    items = [(item.text[:6], item.iter_n, item.by) for item in summary.delta.decisions]  # type: ignore[union-attr]
    assert items == [("use it", 1, "summarizer"), ("xxxxxx", 1, "summarizer")]
    assert [table.name for table in summary.delta.tables] == ["main.rlm.t"]
    assert len(reader.at_once) == MAX_READERS
    assert max(reader.at_once) > 1
    prompt = instruction_of(reader)
    assert len(prompt) < 16_000
    assert all(f": note {n}" in prompt for n in range(MAX_READERS))
    assert "ValueError: the needle is 41" in prompt
    parts = [str(r.config.system_instruction) for r in reader.requests if not r.config.tools]
    assert any("start\nxxx" in part for part in parts)
    assert any("the needle is 41" in part for part in parts)
    assert any("the end" in part for part in parts)
    assert len(summary.calls) == MAX_READERS + 1
    assert {call.purpose for call in summary.calls} == {"summarizer"}


def test_a_part_that_could_not_be_read_is_left_out_and_paid(make: Make, context: PlanningContext) -> None:
    planner, reader = make([ValueError("no"), *repeat("fine", 20)])
    summary = planner.summarize(context, a_result(LONG))
    assert summary.delta is not None
    assert instruction_of(reader).count(": fine") == MAX_READERS - 1
    assert [call.error for call in summary.calls if call.error] == ["ValueError: no"]
    assert len(summary.calls) == MAX_READERS + 1


@pytest.mark.parametrize(
    ("calls", "readers"), [(5, 0), (PLANNER_CALLS + 3, 0), (PLANNER_CALLS + 5, 2), (90, 8)]
)
def test_the_planner_keeps_its_calls(make: Make, context: PlanningContext, calls: int, readers: int) -> None:
    planner, reader = make(repeat("note"))
    summary = planner.summarize(replace(context, budget=Budget(max_model_calls=calls)), a_result(LONG))
    assert summary.delta is not None
    assert len(reader.at_once) == readers


@pytest.mark.parametrize("tokens", [2_000, 20_000, 60_000, 200_000])
def test_readers_spend_a_part_of_the_tokens_only(make: Make, context: PlanningContext, tokens: int) -> None:
    planner, reader = make(repeat("note"))
    summary = planner.summarize(replace(context, budget=Budget(max_tokens=tokens)), a_result(LONG))
    spent = [call.usage.input_tokens + call.usage.output_tokens for call in summary.calls]
    assert sum(spent) <= tokens
    assert len(reader.at_once) <= tokens // 4 // 4_000
    assert (len(reader.at_once) > 0) == (tokens >= 60_000)


def test_an_output_that_fits_is_shown_whole(make: Make, context: PlanningContext) -> None:
    content = b"line of some words\n" * 400
    planner, reader = make([], content)
    assert planner.summarize(context, a_result(content)).delta is not None
    assert reader.at_once == []
    assert "line of some words\n" * 400 in instruction_of(reader) + "\n"


def test_a_volume_that_does_not_answer_costs_the_parts_only(
    make: Make, context: PlanningContext, world: Any
) -> None:
    planner, reader = make(repeat("note"))

    def get(path: str, **_: Any) -> bytes:
        raise Unreachable("No answer.", where=path)

    world["volume"].get = get
    summary = planner.summarize(context, a_result(LONG))
    assert summary.delta is not None
    assert reader.at_once == []
    assert "head of stdout" in instruction_of(reader)


def test_without_its_lease_a_context_asks_nobody(make: Make, context: PlanningContext) -> None:
    planner, reader = make(repeat("note"))
    summary = planner.summarize(replace(context, lease_held=lambda: False), a_result(LONG))
    assert summary == Summary(delta=None, calls=())
    assert reader.requests == []


def test_the_longer_stream_is_read(make: Make, context: PlanningContext) -> None:
    planner, reader = make(repeat("note"))
    result = a_result(LONG)
    result = result.model_copy(update={"stdout": Stream(bytes=5, head="short"), "stderr": result.stdout})
    assert planner.summarize(context, result).delta is not None
    assert "head of stderr" in instruction_of(reader)
    assert "short" in instruction_of(reader)

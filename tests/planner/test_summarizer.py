from __future__ import annotations

from collections.abc import Callable
from typing import Any

from databricks_rlm_agent.attempts.result import Result
from databricks_rlm_agent.ports import Planner, PlanningContext
from databricks_rlm_agent.runs.capsule.packing import CapsuleItem
from executor_harness.protocol import ProducedTable, Stream

Make = Callable[..., Planner]
PLAN = [[{"text": "unused"}]]


def a_result(size: int = 100_000) -> Result:
    return Result(
        run_id="r1",
        iter_n=1,
        attempt=1,
        status="SUCCESS",
        stdout=Stream(bytes=size, head="head", tail="tail"),
        produced_tables=[ProducedTable(name="main.rlm.t", rows=3)],
    )


def play(scripted: Make, *replies: Any) -> Planner:
    return scripted(script={"planner": PLAN, "summarizer": [list(replies)]})


SUMMARY = {
    "call": "remember",
    "args": {"digest": "3 rows", "decisions": ["use t", " "], "failed_approaches": []},
}


def test_a_long_result_is_summarized(scripted: Make, context: PlanningContext) -> None:
    summary = play(scripted, SUMMARY).summarize(context, a_result())
    assert summary.delta is not None
    assert summary.delta.digest == "3 rows"
    assert summary.delta.decisions == [CapsuleItem.of("use t", iter_n=1, by="summarizer")]
    assert [table.name for table in summary.delta.tables] == ["main.rlm.t"]
    assert [call.purpose for call in summary.calls] == ["summarizer"]


def test_a_short_result_asks_nobody(scripted: Make, context: PlanningContext) -> None:
    summary = play(scripted, SUMMARY).summarize(context, a_result(size=10))
    assert (summary.delta, summary.calls) == (None, ())


def test_a_script_without_summaries_is_no_error(scripted: Make, context: PlanningContext) -> None:
    summary = scripted({"text": "x"}).summarize(context, a_result())
    assert (summary.delta, summary.calls) == (None, ())


def test_a_bad_summary_may_be_corrected_once(scripted: Make, context: PlanningContext) -> None:
    bad = {"call": "remember", "args": {"digest": 5}}
    assert play(scripted, bad, SUMMARY).summarize(context, a_result()).delta is not None
    summary = play(scripted, bad, bad, SUMMARY).summarize(context, a_result())
    assert summary.delta is None
    assert len(summary.calls) == 2


def test_a_failing_summarizer_costs_nothing_but_itself(scripted: Make, context: PlanningContext) -> None:
    summary = play(scripted, {"text": "It went well."}).summarize(context, a_result())
    assert summary.delta is None
    assert summary.calls[-1].error is not None

"""The benchmarks' own parts: what is counted, and how it is compared."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from benchmarks.rlm.measures import MEASURES, Plan
from benchmarks.rlm.programs import DSPY, OURS, RLMS, Dialect, dspy_messages, our_messages, rlms_messages
from benchmarks.rlm.rows import Row, table
from benchmarks.rlm.run import Done
from benchmarks.rlm.stub import Asked, Scenario, Stub
from benchmarks.rlm.stubclient import Log


def asked(model: str, started: float, ended: float, **more: int) -> Asked:
    figures = {"chars": 0, "tools": 0, "input_tokens": 1, "output_tokens": 1} | more
    return Asked(model=model, started=started, ended=ended, **figures)


def send(stub: Stub, body: Mapping[str, Any]) -> dict[str, Any]:
    """One chat completion, without a server."""
    from starlette.requests import Request

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    request = Request({"type": "http", "method": "POST", "path_params": {}, "headers": []}, receive)
    reply: dict[str, Any] = json.loads(bytes(asyncio.run(stub.complete(request)).body))
    return reply


def test_the_stub_tells_turns_from_asides_and_counts_both() -> None:
    messages, aside = our_messages(["print(1)"], 0)
    stub = Stub(scenario=Scenario(root=messages, turn_tool="run_python", aside=aside))
    said = [{"role": "user", "content": "x" * 40}]
    turn = {"model": "root", "messages": said, "tools": [{"function": {"name": "run_python"}}]}
    other = {"model": "root", "messages": said, "tools": [{"function": {"name": "remember"}}]}
    calls = [send(stub, body)["choices"][0]["message"] for body in (other, turn, turn)]
    assert [call["tool_calls"][0]["function"]["name"] for call in calls] == [
        "remember",
        "run_python",
        "finish",
    ]
    assert send(stub, {"model": "sub", "messages": said})["choices"][0]["message"]["content"] == "yes"
    assert "error" in send(stub, turn)
    log = Log(calls=stub.log)
    assert [len(log.root), len(log.sub), log.usage()["calls"]] == [2, 1, 4]
    assert log.root[0].chars == 40


def test_gaps_and_calls_at_once_come_from_the_log() -> None:
    log = Log(
        calls=[
            asked("root", 0, 1),
            asked("sub", 1, 3),
            asked("sub", 2, 4),
            asked("root", 5, 6),
            asked("sub", 3, 5),
        ]
    )
    assert log.gaps() == [(1, 5)]
    assert log.most_at_once() == 2  # the third began when the first had ended


def test_a_row_knows_its_ratios_and_its_target() -> None:
    row = Row(bench="b", what="w", unit="s", values={"ours": 2.0, "rlms": 8.0, "dspy": None}, target=2.3)
    assert row.ratio("rlms") == 4
    assert row.ratio("dspy") is None
    assert row.met
    missed = Row(bench="b", what="w", unit="s", values={"ours": 3.0}, target=2.3)
    assert missed.met is False
    assert Row(bench="b", what="w", unit="s", values={"rlms": 3.0}, target=2.3).met is None
    text = table([row, missed])
    assert "4.00 x" in text
    assert "MISSED" in text


@pytest.mark.parametrize("dialect", [OURS, RLMS, DSPY])
def test_programs_are_python(dialect: Dialect) -> None:
    for program in (
        dialect.peek(),
        dialect.sub_calls(3, "/tmp/note", "it"),
        dialect.chatter(1),
        dialect.child,
    ):
        compile(program, "program", "exec")


def test_every_scenario_has_an_end_for_the_run_and_each_child() -> None:
    assert len(our_messages(["x"], 1)[0]) == 3
    assert len(rlms_messages(["x"], 1)) == 3
    assert len(dspy_messages(["x"], 1)) == 3


class Instant:
    """A contender that needs a tenth of a second between turns, and forgets one call."""

    name, dialect = "ours", OURS

    def run(self, programs: Any, *, context: int, sub_latency_s: float = 0.0, children: int = 0) -> Done:
        root = [asked("root", n, n + 0.9, chars=n + 1) for n in range(len(programs) + 1)]
        usage = {"calls": len(root) - 1, "input_tokens": None, "output_tokens": len(root)}
        return Done(answer="42", usage=usage, log=Log(calls=root), hops=[0.05] * len(programs))


def test_measures_make_rows_of_what_contenders_leave() -> None:
    plan = Plan(turns=21, contexts={"10 KB": 10_000, "50 MB": 50_000_000})
    found = {row.what: row.values["ours"] for row in MEASURES["gap"]([Instant()], plan)}
    assert found["10 KB of context, job hop apart"] == pytest.approx(50)
    assert found["10 KB of context, the job hop itself"] == pytest.approx(50)
    assert found["50 MB over 10 KB, job hop apart"] == pytest.approx(1)
    prompts = {row.what: row.values["ours"] for row in MEASURES["prompt"]([Instant()], plan)}
    assert [prompts["turn 1"], prompts["turn 21"], prompts["turn 21 over turn 10"]] == [1, 21, 2.1]
    usage = {row.what: row for row in MEASURES["usage"]([Instant()], plan)}
    assert usage["with a child, calls not reported"].met is False
    assert usage["with a child, input tokens not reported"].met is None
    assert usage["with a child, output tokens not reported"].met

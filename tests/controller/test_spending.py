"""What the programs of dead executors have asked of models counts, as far as anybody can know."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from fakes import LOST, Controller, World, program, settle

from databricks_rlm_agent.runs.actions import Finish
from databricks_rlm_agent.runs.budget import Budget, Usage
from executor_harness import protocol

SPENT = {"calls": 3, "input_tokens": 40, "output_tokens": 5, "cost_usd": 0.25, "cached": 2}
WHOLE = json.dumps({"schema_version": 1, "usage": SPENT}).encode()
FOLDER = "/Volumes/main/rlm/artifacts/scratchpad/run_r1/iter_1"


def spent_by(spend: bytes | None, twin: bytes | None = None) -> Usage:
    """What counts of an attempt that left nothing but these files."""
    world = World(endings={(1, 1): replace(LOST, spend=spend)})
    world.add("r1", budget=Budget(max_attempts=1, max_sub_calls=7, max_tokens=1_000))
    if twin is not None:
        world.files[f"{FOLDER}/{protocol.SPEND_TWIN}"] = twin
    settle(world, Controller(world=world, script=[program("ask()"), Finish(answer="42")]))
    return world.runs["r1"].budget.sub_usage


@pytest.mark.parametrize(
    ("spend", "twin", "calls"),
    [(WHOLE, None, 3), (WHOLE[:9], WHOLE, 3), (None, WHOLE, 0), (None, None, 0), (WHOLE[:9], None, 7)],
    ids=["on record", "cut off, with a twin", "never begun", "nothing asked", "cut off"],
)
def test_an_attempt_without_a_result(spend: bytes | None, twin: bytes | None, calls: int) -> None:
    assert spent_by(spend, twin).calls == calls


def test_all_of_it_counts() -> None:
    assert spent_by(WHOLE) == Usage(calls=3, input_tokens=40, output_tokens=5, cost_usd=0.25)

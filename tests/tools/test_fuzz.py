"""The fuzzer: what it starts from is valid, what it makes is reproducible, and each door withstands some."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from databricks_rlm_agent.planner.script import Script
from databricks_rlm_agent.sqlflow.plan.plan import SqlSource, plan_of
from tools.fuzz import mutate, targets
from tools.fuzz.__main__ import feed

PARSERS = {
    targets._manifest: targets._MANIFEST,
    targets._result: targets._RESULT,
    targets._capsule: targets._CAPSULE,
    targets._mapping: targets._MAPPING,
}


@pytest.mark.parametrize(("parse", "valid"), PARSERS.items())
def test_documents_are_valid_before_they_are_damaged(parse: Callable[[bytes], Any], valid: Any) -> None:
    parse(json.dumps(valid).encode())


def test_the_script_and_the_directory_are_valid_before_they_are_damaged(tmp_path: Path) -> None:
    file = tmp_path / "script.json"
    file.write_text(json.dumps(targets._SCRIPT))
    assert Script.read(str(file)).reply("planner", 1, 1).call == "run_python"
    source = SqlSource(
        texts=targets._FLOW, declared=targets._WORKFLOW, variables={"v": "1"}, catalog="a", schema="b"
    )
    assert [step.id for step in plan_of(source).steps] == ["01_a", "b", "03_c"]


def test_a_seed_makes_the_same_inputs_again() -> None:
    def inputs(seed: int) -> list[bytes]:
        rng = random.Random(seed)
        return [mutate.json_bytes(rng, targets._MANIFEST) for _ in range(20)]

    assert inputs(1) == inputs(1) != inputs(2)


@pytest.mark.parametrize("target", sorted(targets.TARGETS.keys() - targets.NEEDS_WORKSPACE))
def test_a_door_withstands_damaged_inputs(target: str, tmp_path: Path) -> None:
    assert feed(target, range(100), seed=7, where=targets.Place(folder=tmp_path)) == []


def test_what_was_not_declared_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_rng: random.Random, _place: targets.Place) -> None:
        raise KeyError("x")

    monkeypatch.setitem(targets.TARGETS, "manifest", broken)  # type: ignore[arg-type]  # a dict
    (finding,) = feed("manifest", [3], seed=1, where=targets.Place(folder=tmp_path))
    assert (finding["input"], "KeyError: 'x'" in str(finding["error"])) == (3, True)

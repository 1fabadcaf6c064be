from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_fakes import create_planner

from databricks_rlm_agent.errors import ScriptExhausted, UsageError
from databricks_rlm_agent.planner.script import Script
from databricks_rlm_agent.ports import PlanningContext
from databricks_rlm_agent.runs.actions import Finish

GOOD = '{"planner": [[{"call": "finish", "args": {"answer": "x"}}], [{"text": "t"}]], "latency_s": 0.5}'


def test_a_script_answers_by_role_iteration_and_call(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text(GOOD)
    script = Script.read(str(file))
    assert script.reply("planner", 2, 1).text == "t"
    assert script.reply("planner", 1, 1).args == {"answer": "x"}
    assert script.latency_s == 0.5
    assert script.has("planner", 2)
    assert not script.has("summarizer", 1)
    with pytest.raises(
        ScriptExhausted, match=r"planner, iteration 2, call 2.*s\.json.*\"planner\"\[1\]\[1\]"
    ):
        script.reply("planner", 2, 2)


def test_the_stub_sub_model_may_be_a_list_or_rules(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    rules = {
        "rules": [{"match": "a", "text": "b"}, {"match": "c", "json": None}],
        "otherwise": "d",
        "latency_s": 0.5,
        "failures": [{"match": "e", "status": 429, "retry_after": 1, "times": 2}],
        "usage": {"input_tokens": 1},
    }
    for sub in ([], [{"text": "one"}], {}, {"otherwise": "x"}, rules):
        file.write_text(json.dumps({"planner": [[{"text": "t"}]], "sub": sub}))
        assert Script.read(str(file)).sub is not None


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", r"\$\.planner"),
        ('{"planner": []}', r"\$\.planner"),
        ('{"planner": [], "file": "x"}', r"\$\.file"),
        ('{"planner": {}}', r"\$\.planner"),
        ('{"planner": [[{"call": "a", "text": "b"}]]}', r"\$\.planner\[0\]\[0\]"),
        ('{"planner": [[{"text": "b"}, {}]]}', r"\$\.planner\[0\]\[1\]"),
        ('{"planner": [[{"call": "a", "args": []}]]}', r"\$\.planner\[0\]\[0\]\.args"),
        ('{"planner": [[{"call": ""}]]}', r"\$\.planner\[0\]\[0\]\.call"),
        ('{"planner": [[{"call": "a", "arg": {}}]]}', r"\$\.planner\[0\]\[0\]\.arg"),
        ('{"planner": [[{"text": "b"}]], "latency": 1}', r"\$\.latency"),
        ('{"planner": [[{"text": "b"}]], "latency_s": -1}', r"\$\.latency_s"),
        ('{"planner": [[{"text": "b"}]], "latency_s": NaN}', r"\$\.latency_s"),
        ('{"planner": [[{"text": "b"}]], "sub": [[]]}', r"\$\.sub\[0\]"),
        ('{"planner": [[{"text": "b"}]], "children": [{"planner": [[]]}]}', r"\$\.children\[0\]\.match"),
        ('{"planner": [[{"text": "b"}]], "children": [{"match": "a"}]}', r"\$\.children\[0\]\.planner"),
        (
            '{"planner": [[{"text": "b"}]], "children": [{"match": "(", "planner": [[]]}]}',
            r"not a regular expression.*\$\.children\[0\]\.match",
        ),
        ('{"planner": [[{"text": "b"}]], "sub": "x"}', r"\$\.sub\)"),
        ('{"planner": [[{"text": "b"}]], "sub": {"rules": [{"match": "("}]}}', r"\$\.sub\.rules\[0\]\.match"),
        ('{"planner": [[{"text": "b"}]], "sub": {"rules": [{"match": "x"}]}}', r"\$\.sub\.rules\[0\]\)"),
        ('{"planner": [[{"text": "b"}]], "sub": {"rules": [], "latency": 1}}', r"\$\.sub\.latency"),
        (
            '{"planner": [[{"text": "b"}]], "sub": {"rules": [], "failures": [{"match": "x", "status": 1}]}}',
            r"\$\.sub\.failures\[0\]\.status",
        ),
    ],
)
def test_a_bad_script_is_refused_before_anything_starts(
    tmp_path: Path, world: dict[str, Any], text: str, place: str
) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=place) as caught:
        create_planner(f"scripted:{file}", **world)
    assert "bad.json" in str(caught.value)
    assert '{"planner": [[reply' in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_missing_script(tmp_path: Path, world: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        create_planner(f"scripted:{tmp_path / 'none.json'}", **world)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not JSON"):
        create_planner(f"scripted:{tmp_path / 'bytes'}", **world)


def test_a_childs_part_takes_the_place_of_the_scripts_own(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    child = {"match": "(?i)count .* rows", "planner": [[{"text": "c"}], []], "summarizer": [[{"text": "s"}]]}
    other = {"match": "", "planner": [[{"text": "o"}]]}
    file.write_text(json.dumps({"planner": [[{"text": "p"}]], "children": [child, other]}))
    script = Script.read(str(file))
    assert script.reply("planner", 1, 1, objective="Count all\nrows, count many rows").text == "c"
    assert script.reply("planner", 1, 1, objective="Something else").text == "o"
    assert script.has("summarizer", 1, objective="count the rows")
    assert not script.has("summarizer", 1, objective="")
    with pytest.raises(ScriptExhausted, match=r'Add it at "children"\[0\]\."planner"\[1\]\[0\]'):
        script.reply("planner", 2, 1, objective="count the rows")


def test_a_planner_plays_the_part_of_its_objective(
    tmp_path: Path, world: dict[str, Any], make_context: Callable[..., PlanningContext]
) -> None:
    def finish(answer: str) -> dict[str, Any]:
        return {"call": "finish", "args": {"answer": answer}}

    file = tmp_path / "s.json"
    child = {"match": "JFK", "planner": [[finish("child")]]}
    file.write_text(json.dumps({"planner": [[finish("parent")]], "children": [child]}))
    planner = create_planner(f"scripted:{file}", **world)
    assert planner.plan(make_context(objective="All airports")).action == Finish(answer="parent")
    assert planner.plan(make_context(objective="Only JFK")).action == Finish(answer="child")

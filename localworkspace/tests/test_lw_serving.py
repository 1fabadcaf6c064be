"""The scripted model: rules, failures, concurrency, and what the request log says of it."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from local_workspace import WorkspaceInfo
from local_workspace.errors import ApiError, WorkspaceError
from local_workspace.scripted_model import model_of, read_model
from lw_support import SUB


def test_replies_by_number_end_with_an_error() -> None:
    model = model_of({"sub": [{"text": "one"}, {"text": "two"}]}, "s.json")
    assert [model.answer("x").text, model.answer("x").text] == ["one", "two"]
    with pytest.raises(ApiError, match="has 2 replies"):
        model.answer("x")


def test_the_first_rule_wins_and_names_its_groups() -> None:
    model = model_of({"sub": SUB}, "s.json")
    assert model.answer("see\nrow 17 and label x").text == "it is 17"
    assert json.loads(model.answer("label red").text) == {"label": "red", "sure": True, "also": ["red!"]}
    assert model.answer("else").text == "hm"
    assert model.answer("else").input_tokens is None
    assert model.latency_s == 0.2


def test_failures_end_after_their_times() -> None:
    model = model_of({"sub": SUB}, "s.json")
    for _ in range(2):
        with pytest.raises(ApiError) as busy:
            model.answer("busy row 1")
        assert (busy.value.status, busy.value.code, busy.value.retry_after) == (
            429,
            "REQUEST_LIMIT_EXCEEDED",
            1,
        )
    assert model.answer("busy row 1").text == "it is 1"
    for _ in range(5):
        with pytest.raises(ApiError, match=r"Asked for by the script s\.json"):
            model.answer("broken")


def test_the_error_without_a_rule_names_the_prompt() -> None:
    with pytest.raises(ApiError, match=r"s\.json: no rule .* matches 'what'.*otherwise"):
        model_of({"sub": {"rules": []}}, "s.json").answer("what")


@given(st.text(max_size=60))
def test_answers_depend_on_the_prompt_alone(prompt: str) -> None:
    model = model_of({"sub": {"rules": [{"match": "(.*)", "text": r"<\1>"}]}}, "s.json")
    assert model.answer(prompt) == model.answer(prompt)
    assert model.answer(prompt).text == f"<{prompt}>"


@pytest.mark.parametrize(
    ("sub", "place"),
    [
        ("x", r"\$\.sub must be an object"),
        ({"rule": []}, r"\$\.sub\.rule is unknown"),
        ({"rules": {}}, r"\$\.sub\.rules must be a list"),
        ({"rules": [{"text": "x"}]}, r"\$\.sub\.rules\[0\]\.match must be"),
        ({"rules": [{"match": "x"}]}, r"\$\.sub\.rules\[0\] must have either"),
        ({"rules": [{"match": "x", "text": "a", "json": 1}]}, r"\$\.sub\.rules\[0\] must have either"),
        ({"rules": [{"match": "x", "text": 1}]}, r"\$\.sub\.rules\[0\]\.text"),
        ({"rules": [{"match": "(", "text": "x"}]}, r"\$\.sub\.rules\[0\]\.match is not a regular"),
        ({"rules": [{"match": "x", "text": r"\1"}]}, r"\$\.sub\.rules\[0\] .* does not fit its 'match'"),
        ({"rules": [{"match": "x", "json": [{"a": r"\g<no>"}]}]}, r"\$\.sub\.rules\[0\] .* does not fit"),
        ({"rules": [], "otherwise": 3}, r"\$\.sub\.otherwise"),
        ({"rules": [], "latency_s": -1}, r"\$\.sub\.latency_s"),
        ({"rules": [], "latency_s": True}, r"\$\.sub\.latency_s"),
        ({"rules": [], "failures": [{"match": "x", "status": 200}]}, r"\$\.sub\.failures\[0\]\.status"),
        ({"rules": [], "failures": [{"match": "x", "status": 429, "times": -1}]}, r"failures\[0\]\.times"),
        ({"rules": [], "usage": {"input_tokens": "1"}}, r"\$\.sub\.usage\.input_tokens"),
    ],
)
def test_a_malformed_script_is_refused_at_the_start(tmp_path: Path, sub: Any, place: str) -> None:
    file = tmp_path / "s.json"
    file.write_text(json.dumps({"sub": sub}))
    with pytest.raises(WorkspaceError, match=place) as caught:
        read_model(f"scripted:{file}")
    assert str(file) in str(caught.value)
    assert '"rules": [{"match": REGEX' in str(caught.value)


def ask(info: WorkspaceInfo, *texts: Any) -> requests.Response:
    messages = [{"role": "user", "content": text} for text in texts]
    return requests.post(
        f"{info.host}/serving-endpoints/any/invocations",
        json={"messages": messages},
        headers={"Authorization": f"Bearer {info.token}"},
        timeout=30,
    )


def test_the_endpoints_over_http(info: WorkspaceInfo) -> None:
    first, second = (ask(info, "You count.", "row 5").json() for _ in range(2))
    assert first["choices"][0]["message"]["content"] == "it is 5"
    assert (
        first["usage"] == second["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    )
    parts = [{"type": "text", "text": "row"}, {"type": "text", "text": " 6"}]
    assert ask(info, parts).json()["choices"][0]["message"]["content"] == "it is 6"
    busy = ask(info, "busy")
    assert (busy.status_code, busy.headers["retry-after"]) == (429, "1")
    assert busy.json()["error_code"] == "REQUEST_LIMIT_EXCEEDED"


def test_hundreds_at_once_take_as_long_as_one(info: WorkspaceInfo) -> None:
    """Their pauses overlap, by the server's own log."""
    board = f"{info.host}/_local/requests"
    headers = {"Authorization": f"Bearer {info.token}"}
    requests.delete(board, headers=headers, timeout=10)
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda n: ask(info, f"row {n % 50}").json(), range(200)))
    assert [a["choices"][0]["message"]["content"] for a in answers] == [f"it is {n % 50}" for n in range(200)]
    log = requests.get(board, headers=headers, timeout=10).json()["requests"]
    calls = [entry for entry in log if entry["path"].endswith("/any/invocations")]
    assert len(calls) == 200
    digests = {hashlib.sha256(f"row {n}".encode()).hexdigest() for n in range(50)}
    assert {entry["prompt_sha256"] for entry in calls} == digests
    assert all(entry["status"] == 200 for entry in calls)
    spans = [(entry["time"], entry["time"] + entry["duration_ms"]) for entry in calls]
    assert max(sum(begin <= at < end for begin, end in spans) for at, _ in spans) > 8

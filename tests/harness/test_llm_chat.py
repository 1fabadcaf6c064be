"""What is sent, what comes back, and where the credential is from: the pure parts of model calls."""

from __future__ import annotations

import contextlib
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from executor_harness.rlm import chat, client
from executor_harness.rlm.chat import NoModel, Options, Reply, Tokens
from executor_harness.rlm.client import Endpoint, Outcome

values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-5, 5) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
kinds = st.sampled_from(["object", "array", "string", "number", "integer", "boolean", "null"])
keywords = {
    "type": kinds | st.lists(kinds, min_size=1, max_size=3, unique=True),
    "enum": st.lists(values, min_size=1, max_size=3),
    "const": values,
    "required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
    "additionalProperties": st.just(False),
    "minItems": st.integers(0, 2),
    "maxItems": st.integers(0, 3),
    "minimum": st.integers(-3, 3),
    "maximum": st.integers(-3, 3),
}
schemas = st.recursive(
    st.fixed_dictionaries({}, optional={"type": keywords["type"]}),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            **keywords,
            "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            "items": inner,
            "anyOf": st.lists(inner, min_size=1, max_size=2),
        },
    ),
    max_leaves=4,
)


@given(value=values, schema=schemas)
def test_shapes_are_judged_as_the_standard_judges_them(value: Any, schema: dict[str, Any]) -> None:
    try:
        chat.check_shape(value, schema)
        fits = True
    except chat.SchemaMismatch:
        fits = False
    assert fits == Draft202012Validator(schema).is_valid(value)


@given(value=values)
def test_an_answer_is_read_with_and_without_a_fence(value: Any) -> None:
    text = json.dumps(value)
    for wrapped in (text, f"  {text}\n", f"```json\n{text}\n```", f"```\n{text}\n```\n"):
        assert chat.read_json(wrapped, {}) == value


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    with contextlib.suppress(chat.SchemaMismatch):
        chat.read_json(text, {"type": "object"})


def test_a_misshapen_answer_says_where() -> None:
    schema = {
        "properties": {"rows": {"items": {"required": ["id"], "properties": {"id": {"type": "integer"}}}}}
    }
    with pytest.raises(chat.SchemaMismatch, match=r"rows\[1\]\.id is \"x\", not of type integer"):
        chat.check_shape({"rows": [{"id": 1}, {"id": "x"}]}, schema)
    with pytest.raises(chat.SchemaMismatch, match=r"rows\[0\] lacks 'id'"):
        chat.check_shape({"rows": [{}]}, schema)


@given(st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()))
def test_no_reply_breaks_the_parser(data: bytes) -> None:
    found = chat.parse_reply(data)
    assert found is None or isinstance(found, Reply)
    assert len(chat.error_text(data)) <= 500
    assert client.outcome_of(200, {}, data, "m").kind == "reply"


def test_replies() -> None:
    def reply(content: Any, **more: Any) -> bytes:
        return json.dumps({"choices": [{"message": {"content": content}, **more}], "usage": None}).encode()

    assert chat.parse_reply(reply("hi")) == Reply(text="hi", tokens=None)
    parts = [
        {"type": "reasoning", "summary": []},
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
    ]
    assert chat.parse_reply(reply(parts)) == Reply(text="ab", tokens=None)
    assert chat.parse_reply(reply("cut", finish_reason="length")) == Reply(text="cut", tokens=None, cut=True)
    usage = b'{"usage": {"prompt_tokens": 3, "completion_tokens": 4}}'
    assert chat.parse_reply(usage) == Reply(text=None, tokens=Tokens(read=3, written=4))


def test_a_key_tells_questions_apart() -> None:
    base = {"model": "m", "max_tokens": 10}
    asked = [
        Options(**base),
        Options(**base, system="s"),
        Options(**base, schema={}),
        Options(**base, temperature=0.0),
    ]
    asked += [Options(model="n", max_tokens=10), Options(model="m", max_tokens=11)]
    keys = {chat.key_of(chat.messages_of("p", one), one) for one in asked}
    keys |= {chat.key_of(chat.messages_of("q", one), one) for one in asked}
    assert len(keys) == 12
    assert all(len(key) == 64 for key in keys)
    no_json = Options(model="m", max_tokens=1, schema={"a": {1, 2}})
    with pytest.raises(TypeError):
        chat.key_of([], no_json)


def test_retry_after() -> None:
    assert client.retry_after("7", 0) == 7
    assert client.retry_after("-3", 0) == 0
    assert client.retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 50) == 10
    assert client.retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 90) == 0
    assert [client.retry_after(text, 0) for text in (None, "", "soon", "inf", "nan")] == [None] * 5


@given(tries=st.integers(0, 40), chance=st.floats(0, 1), asked=st.none() | st.floats(0, 10_000))
def test_pauses_are_bounded(tries: int, chance: float, asked: float | None) -> None:
    pause = client.pause_before(tries, Outcome(retry_after=asked), chance)
    assert 0 <= pause <= 300
    if asked is not None:
        assert pause >= min(asked, 300)


def test_an_endpoint_travels_and_hides_its_token() -> None:
    endpoint = Endpoint(host="https://h", model="a b", timeout_s=1, headers={"Authorization": "Bearer x"})
    assert pickle.loads(pickle.dumps(endpoint)) == endpoint
    assert "Bearer" not in repr(endpoint)
    assert endpoint.path == "/serving-endpoints/a%20b/invocations"


@pytest.mark.parametrize(
    ("given_host", "host"),
    [
        ("adb-1.azuredatabricks.net", "https://adb-1.azuredatabricks.net"),
        ("https://x.cloud/?o=1", "https://x.cloud"),
        (" http://127.0.0.1:80/ ", "http://127.0.0.1:80"),
    ],
)
def test_hosts(given_host: str, host: str) -> None:
    found = client.find_credentials({"DATABRICKS_HOST": given_host, "DATABRICKS_TOKEN": "t"})
    assert found.host == host
    assert "Bearer" not in repr(found)


def test_a_token_that_cannot_be_had_any_more() -> None:
    def gone() -> dict[str, str]:
        raise RuntimeError("refresh of dapi-secret failed")

    with pytest.raises(NoModel, match="RuntimeError") as caught:
        client.Credentials(host="https://h", headers=gone).endpoint("m", 1)
    assert "dapi-secret" not in str(caught.value)

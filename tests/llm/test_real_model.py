"""The planner's way and the programs' way to a model, on a real inference server in place of our stub.

`make test-llm` runs this; without its environment everything here is skipped.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from model_server import PYTHON, ModelServer, door, running, start

from databricks_rlm_agent.errors import ModelUnavailable
from databricks_rlm_agent.planner.chain import Meter
from databricks_rlm_agent.planner.models import Models
from databricks_rlm_agent.planner.planner import shared_loop
from databricks_rlm_agent.planner.spending import Allowance
from databricks_rlm_agent.runs.budget import Usage
from databricks_rlm_agent.secrets import Secret
from executor_harness.rlm import chat
from executor_harness.rlm.client import Connection, Endpoint, Outcome

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="needs the model server: make setup-llm")
SCHEMA = {
    "type": "object",
    "properties": {"animal": {"type": "string", "enum": ["cat", "dog"]}, "legs": {"type": "integer"}},
    "required": ["animal", "legs"],
    "additionalProperties": False,
}


@pytest.fixture
def endpoint(server: ModelServer) -> Iterator[Endpoint]:
    with door(server.url) as host:
        yield Endpoint(host=host, model="tiny", timeout_s=240, headers={})


def ask(
    url: str, monkeypatch: pytest.MonkeyPatch, *, timeout_s: float = 240, reply: int = 16
) -> tuple[Any, Meter]:
    """Ask as the planner does, through LiteLLM; return the response and the meter."""
    from google.adk.models.llm_request import LlmRequest
    from google.genai import types

    monkeypatch.setenv("OPENAI_API_BASE", f"{url}/v1")
    models = Models("openai/tiny", secrets={"openai-api-key": Secret("sk-none-needed")}, retries=0)
    meter = Meter(
        purpose="test",
        max_calls=5,
        timeout_s=timeout_s,
        clock=time.monotonic,
        redact=models.redact,
        allowance=Allowance(calls=5, tokens=100_000),
        prices=models.prices,
    )
    model = models.open(role="planner", iter_n=1, meter=meter, objective="")
    content = types.Content(role="user", parts=[types.Part(text="Once upon a time")])
    config = types.GenerateContentConfig(max_output_tokens=reply)

    async def responses() -> list[Any]:
        request = LlmRequest(model=model.model, contents=[content], config=config)
        return [each async for each in model.generate_content_async(request)]

    return shared_loop().run(responses())[-1], meter


def test_the_planner_is_charged_what_the_server_counted(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    response, meter = ask(server.url, monkeypatch)
    (call,) = meter.calls
    reported = response.usage_metadata
    assert call.error in {None, "Maximum tokens reached"}
    assert call.usage == Usage(
        calls=1,
        input_tokens=reported.prompt_token_count,
        output_tokens=reported.candidates_token_count,
    )
    assert 0 < call.usage.output_tokens <= 16


def test_a_question_that_takes_too_long_is_cut_off(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelUnavailable, match="no answer within 2 s"):
        ask(server.url, monkeypatch, timeout_s=2, reply=8_000)


def test_a_server_that_is_not_there_yet_and_then_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as first:
        port = int(first.url.rpartition(":")[2])
    with pytest.raises(ModelUnavailable):
        ask(first.url, monkeypatch)
    second = start(port)
    try:
        response, _ = ask(second.url, monkeypatch)
        assert response.usage_metadata.prompt_token_count
    finally:
        second.stop()
        second.process.stdin.close()  # type: ignore[union-attr]  # a pipe
        second.process.stdout.close()  # type: ignore[union-attr]


def test_a_server_that_is_killed_in_the_middle_of_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as victim:
        threading.Timer(2.0, victim.stop).start()
        with pytest.raises(ModelUnavailable):
            ask(victim.url, monkeypatch, reply=8_000)


def outcome_of(endpoint: Endpoint, prompt: str, options: chat.Options) -> Outcome:
    with closing(Connection(endpoint.host, endpoint.timeout_s)) as connection:
        return connection.ask(endpoint, chat.body_of(chat.messages_of(prompt, options), options))


def test_a_programs_question(endpoint: Endpoint) -> None:
    options = chat.Options(model="tiny", max_tokens=16)
    outcome = outcome_of(endpoint, "The sky is", options)
    assert (outcome.status, outcome.kind) == (200, None), outcome.message
    assert outcome.text
    assert outcome.tokens is not None
    assert outcome.tokens.read > 0
    assert 0 < outcome.tokens.written <= 16


def test_a_programs_question_with_a_schema(endpoint: Endpoint) -> None:
    options = chat.Options(model="tiny", max_tokens=200, schema=SCHEMA)
    outcome = outcome_of(endpoint, "A cat in JSON:", options)
    assert outcome.status == 200, outcome.message
    found = json.loads(outcome.text or "")
    assert found["animal"] in {"cat", "dog"}
    assert isinstance(found["legs"], int)


def test_a_prompt_that_is_too_long_is_refused_for_good(endpoint: Endpoint) -> None:
    options = chat.Options(model="tiny", max_tokens=16)
    outcome = outcome_of(endpoint, "word " * 40_000, options)
    assert (outcome.status, outcome.kind, outcome.retry) == (400, "refused", False)
    assert "context" in outcome.message


def test_with_its_only_slot_taken_a_question_waits(endpoint: Endpoint, server: ModelServer) -> None:
    slow = threading.Thread(target=_occupy, args=(server.url,))
    slow.start()
    options = chat.Options(model="tiny", max_tokens=4)
    outcome = outcome_of(endpoint, "Two and two are", options)
    assert outcome.status == 200, outcome.message
    slow.join()


def _occupy(url: str) -> None:
    body = {"messages": [{"role": "user", "content": "Tell a long story."}], "max_tokens": 60}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as reply:
        reply.read()


def test_a_programs_question_to_a_server_that_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as victim, door(victim.url) as host:
        threading.Timer(2.0, victim.stop).start()
        options = chat.Options(model="tiny", max_tokens=8_000)
        asked = Endpoint(host=host, model="tiny", timeout_s=240, headers={})
        outcome = outcome_of(asked, "A long story:", options)
        assert (outcome.kind, outcome.retry, outcome.billed) == ("unavailable", True, True)

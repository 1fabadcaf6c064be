"""Models behind LiteLLM, against an OpenAI-compatible server on loopback. Nothing here leaves the machine."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from databricks_rlm_agent.errors import ConfigError
from databricks_rlm_agent.logs import masked
from databricks_rlm_agent.models import Price
from databricks_rlm_agent.planner.models import Models
from databricks_rlm_agent.planner.planner import AdkPlanner, create_planner
from databricks_rlm_agent.planner.tools import Toolbox
from databricks_rlm_agent.ports import PlanningContext
from databricks_rlm_agent.runs.actions import Finish, RunPython
from databricks_rlm_agent.runs.budget import Budget
from databricks_rlm_agent.secrets import Secret

CANARY = "sk-canary-0123456789abcdef"
RUN = {"name": "run_python", "arguments": json.dumps({"code": "x = 1", "purpose": "to see"})}
FINISH = {"name": "finish", "arguments": json.dumps({"answer": "JFK"})}


class ModelServer(ThreadingHTTPServer):
    """Answers each request with the next of ``answers``: a tool call, a text, or an HTTP status."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Any] = []
        self.requests: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: ModelServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append(
            {
                "path": self.path,
                "key": self.headers.get("x-api-key") or self.headers.get("authorization"),
                "body": body,
            }
        )
        answer = self.server.answers.pop(0) if self.server.answers else 500
        if isinstance(answer, dict) and "type" in answer:  # an Anthropic message
            return self._send(200, answer)
        if isinstance(answer, int):
            return self._send(
                answer, {"error": {"message": f"no, {self.headers.get('authorization')}", "code": "x"}}
            )
        message: dict[str, Any] = {
            "role": "assistant",
            "content": answer if isinstance(answer, str) else None,
        }
        if isinstance(answer, dict):
            message["tool_calls"] = [{"id": "call_1", "type": "function", "function": answer}]
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": "tool_calls" if isinstance(answer, dict) else "stop",
        }
        usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        document = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
        return self._send(200, {**document, "choices": [choice], "usage": usage})

    def _send(self, status: int, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        with contextlib.suppress(ConnectionError):  # a client that has given up is one of the tests
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    with ModelServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        yield server
        server.shutdown()
        thread.join()


def planner_for(setting: str, world: dict[str, Any], server: ModelServer, **options: Any) -> AdkPlanner:
    secrets = {
        "openai-api-key": Secret(CANARY),
        "databricks-host": Secret(server.url),
        "databricks-token": Secret(CANARY),
    }
    return AdkPlanner(
        models=Models(setting, secrets=secrets, retries=0),
        toolbox=Toolbox(**world),
        **options,
    )


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ("openai/gpt-x", "/chat/completions"),
        ("databricks/my-endpoint", "/serving-endpoints/chat/completions"),
    ],
)
def test_a_plan_with_tool_calls(
    server: ModelServer, world: dict[str, Any], context: PlanningContext, setting: str, path: str
) -> None:
    server.answers = [{"name": "search_catalog", "arguments": '{"text": ""}'}, RUN]
    planned = planner_for(setting, world, server).plan(context)
    assert planned.failure is None
    assert planned.action == RunPython(code="x = 1", purpose="to see")
    assert [(call.model, call.usage.input_tokens, call.usage.output_tokens) for call in planned.calls] == [
        (setting, 100, 20)
    ] * 2
    first, second = server.requests
    assert first["path"] == path
    assert first["key"] == f"Bearer {CANARY}"
    assert first["body"]["model"] == setting.partition("/")[2]
    names = [tool["function"]["name"] for tool in first["body"]["tools"]]
    assert names == [
        *("search_catalog", "describe_table", "sample_table", "list_files", "read_file"),
        *("run_python", "run_sql_workflow", "ask", "finish"),
    ]
    assert "Which airport" in first["body"]["messages"][0]["content"]
    assert "main.rlm.flights" in json.dumps(second["body"]["messages"])


@pytest.mark.parametrize("status", [500, 429, 401])
def test_the_next_model_is_asked_when_one_fails(
    server: ModelServer, world: dict[str, Any], context: PlanningContext, status: int
) -> None:
    server.answers = [status, FINISH]
    planned = planner_for("openai/first,databricks/second", world, server).plan(context)
    assert isinstance(planned.action, Finish)
    assert [call.model for call in planned.calls] == ["openai/first", "databricks/second"]
    assert planned.calls[0].error
    assert planned.calls[1].error is None
    assert planned.usage.calls == 2


def test_a_provider_may_be_retried(
    server: ModelServer, world: dict[str, Any], context: PlanningContext
) -> None:
    server.answers = [429, FINISH]
    secrets = {"openai-api-key": Secret(CANARY)}
    models = Models("openai/first", secrets=secrets, retries=1)
    planner = AdkPlanner(models=models, toolbox=Toolbox(**world))
    assert isinstance(planner.plan(context).action, Finish)
    assert len(server.requests) == 2


@pytest.mark.parametrize("arguments", ['{"answer": ', "[1, 2]", "not json at all"])
def test_malformed_arguments_go_back_to_the_model(
    server: ModelServer, world: dict[str, Any], context: PlanningContext, arguments: str
) -> None:
    server.answers = [{"name": "finish", "arguments": arguments}, FINISH]
    planned = planner_for("openai/gpt-x", world, server).plan(context)
    assert isinstance(planned.action, Finish)
    assert "finish" in next(note.payload["reason"] for note in planned.notes if note.kind == "refusal")
    server.answers = [{"name": "finish", "arguments": arguments}] * 3
    planned = planner_for("openai/gpt-x", world, server).plan(context)
    assert "refused 3 times" in (planned.failure or "")


def test_a_slow_model_is_given_up(
    server: ModelServer, world: dict[str, Any], context: PlanningContext
) -> None:
    released = threading.Event()

    class Slow(list[Any]):
        def pop(self, _index: Any = 0) -> Any:
            released.wait(20)
            return FINISH

    server.answers = Slow([1])
    planned = planner_for("openai/slow", world, server, timeout_s=0.2).plan(context)
    released.set()
    assert "no answer within 0.2 s" in (planned.failure or "")
    assert "openai/slow" in (planned.failure or "")


def test_no_key_shows_anywhere(
    server: ModelServer,
    world: dict[str, Any],
    context: PlanningContext,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with caplog.at_level(logging.DEBUG):
        # The server repeats the authorization header in its error, as careless gateways do.
        planned = planner_for("openai/a,databricks/b", world, server).plan(context)
    assert planned.action is None
    assert "No model answered" in (planned.failure or "")
    assert "openai/a" in (planned.failure or "")
    out, err = capfd.readouterr()
    shown = f"{planned!r} {planned.failure} {caplog.text} {out} {err}"
    assert CANARY not in shown
    assert out == ""


def test_the_reply_is_held_within_the_budget(
    server: ModelServer, world: dict[str, Any], context: PlanningContext
) -> None:
    server.answers = [FINISH]
    prices = {"openai/gpt-x": Price(input_usd=1, output_usd=10)}
    models = Models("openai/gpt-x", secrets={"openai-api-key": Secret(CANARY)}, retries=0, prices=prices)
    planner = AdkPlanner(models=models, toolbox=Toolbox(**world))
    limited = replace(context, budget=Budget(max_cost_usd=0.02))
    planned = planner.plan(limited)
    assert planned.failure is None
    assert planned.usage.cost_usd == pytest.approx(100e-6 + 200e-6)
    body = server.requests[0]["body"]
    asked = body.get("max_completion_tokens") or body.get("max_tokens")
    assert 256 <= asked < 2_000


def test_what_a_library_was_given_is_hidden_from_the_log(
    server: ModelServer, world: dict[str, Any], context: PlanningContext
) -> None:
    server.answers = [FINISH]
    planner_for("databricks/my-endpoint", world, server).plan(context)
    assert masked(f"Bearer {CANARY}") == "Bearer ***"
    assert masked(server.url) == server.url


def test_many_threads_share_the_connections(
    server: ModelServer, world: dict[str, Any], context: PlanningContext
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    server.answers = [FINISH] * 8
    planner = planner_for("openai/gpt-x", world, server)
    with ThreadPoolExecutor(4) as pool:
        assert all(
            isinstance(one.action, Finish) for one in pool.map(lambda _: planner.plan(context), range(8))
        )


def test_a_missing_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, world: dict[str, Any]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'databricks-rlm-agent\[litellm\]'"):
        create_planner("openai/gpt-x", **world)


def test_an_anthropic_model(
    server: ModelServer, world: dict[str, Any], context: PlanningContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_BASE", server.url)
    use = {"type": "tool_use", "id": "t1", "name": "finish", "input": {"answer": "JFK"}}
    message = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "stop_reason": "tool_use",
    }
    server.answers = [{**message, "content": [use], "usage": {"input_tokens": 9, "output_tokens": 2}}]
    models = Models("anthropic/claude-x", secrets={"anthropic-api-key": Secret(CANARY)}, retries=0)
    planned = AdkPlanner(models=models, toolbox=Toolbox(**world)).plan(context)
    assert planned.action == Finish(answer="JFK")
    assert (planned.usage.input_tokens, planned.usage.output_tokens) == (9, 2)
    assert server.requests[0]["path"] == "/v1/messages"
    assert server.requests[0]["key"] == CANARY

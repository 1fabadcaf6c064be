"""A Gemini model by google-adk's own class, against a server on loopback."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from model_fakes import create_planner

from databricks_rlm_agent.errors import ModelOutage, SecretsMissing
from databricks_rlm_agent.planner.models import Models
from databricks_rlm_agent.planner.planner import AdkPlanner
from databricks_rlm_agent.planner.tools import Toolbox
from databricks_rlm_agent.ports import PlanningContext
from databricks_rlm_agent.retry import MODELS
from databricks_rlm_agent.runs.actions import Ask
from databricks_rlm_agent.runs.budget import Budget, Usage
from databricks_rlm_agent.secrets import Secret

CANARY = "AIza-canary-0123456789abcdef"


class GeminiServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Any] = []
        self.requests: list[dict[str, Any]] = []
        self.usage = {"promptTokenCount": 70, "candidatesTokenCount": 7, "thoughtsTokenCount": 3}


class Handler(BaseHTTPRequestHandler):
    server: GeminiServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        key = self.headers.get("x-goog-api-key")
        self.server.requests.append({"path": self.path, "key": key, "body": body})
        parts = self.server.answers.pop(0) if self.server.answers else None
        document: dict[str, Any] = {"error": {"code": 500, "message": f"no, {key}", "status": "INTERNAL"}}
        if parts is not None:
            candidate = {"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}
            document = {"candidates": [candidate], "usageMetadata": self.server.usage}
        content = json.dumps(document).encode()
        self.send_response(500 if parts is None else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[GeminiServer]:
    with GeminiServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.delenv("GOOGLE_GENAI_USE_VERTEXAI", raising=False)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def planner(world: dict[str, Any]) -> AdkPlanner:
    models = Models("gemini-3.5-flash", secrets={"google-api-key": Secret(CANARY)})
    return AdkPlanner(models=models, toolbox=Toolbox(**world))


def test_a_plan_with_tool_calls(server: GeminiServer, planner: AdkPlanner, context: PlanningContext) -> None:
    look = {"functionCall": {"name": "list_files", "args": {"path": ""}}}
    ask = {"functionCall": {"name": "ask", "args": {"question": "Which year?"}}}
    server.answers = [[{"text": "Let me look."}, look], [ask]]
    planned = planner.plan(context)
    assert planned.failure is None
    assert planned.action == Ask(question="Which year?")
    assert (planned.usage.calls, planned.usage.input_tokens, planned.usage.output_tokens) == (2, 140, 20)
    assert server.requests[0]["path"].endswith("/models/gemini-3.5-flash:generateContent")
    assert server.requests[0]["key"] == CANARY
    declared = server.requests[0]["body"]["tools"][0]["functionDeclarations"]
    assert {"run_python", "ask", "finish", "read_file"} <= {one["name"] for one in declared}
    assert "notes.txt" in json.dumps(server.requests[1]["body"]["contents"])


def test_the_reply_is_held_within_the_budget(
    server: GeminiServer, planner: AdkPlanner, context: PlanningContext
) -> None:
    server.answers = [[{"functionCall": {"name": "ask", "args": {"question": "Which year?"}}}]]
    assert planner.plan(replace(context, budget=Budget(max_tokens=9_000))).failure is None
    assert 256 <= server.requests[0]["body"]["generationConfig"]["maxOutputTokens"] < 9_000


def test_an_empty_reply_is_no_action(
    server: GeminiServer, planner: AdkPlanner, context: PlanningContext
) -> None:
    server.answers = [[]] * 12
    planned = planner.plan(context)
    assert planned.action is None
    assert "MODEL_RETURNED_NO_CONTENT" in (planned.failure or "")


@pytest.mark.fault("A4")
def test_a_failing_model_is_waited_for(
    server: GeminiServer,
    planner: AdkPlanner,
    context: PlanningContext,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("databricks_rlm_agent.planner.chain.MODELS", replace(MODELS, first_wait_s=0.01))
    with caplog.at_level(logging.DEBUG):
        planned = planner.plan(context)
    assert isinstance(planned.fault, ModelOutage)
    assert "No model answered. gemini-3.5-flash: ServerError" in str(planned.fault)
    assert CANARY not in f"{planned!r} {planned.fault} {caplog.text}"
    assert "no, ***" in str(planned.fault)
    assert (len(server.requests), planned.usage) == (MODELS.attempts, Usage())


@pytest.mark.fault("A10")
def test_reasoning_is_counted_beside_the_answer(
    server: GeminiServer, planner: AdkPlanner, context: PlanningContext
) -> None:
    server.usage = {
        "promptTokenCount": 1_000,
        "candidatesTokenCount": 20,
        "thoughtsTokenCount": 30,
        "totalTokenCount": 1_050,
    }
    server.answers = [[{"functionCall": {"name": "ask", "args": {"question": "Which year?"}}}]]
    planned = planner.plan(context)
    assert (planned.usage.input_tokens, planned.usage.output_tokens) == (1_000, 50)


def test_a_missing_key_is_reported_at_once(world: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    with pytest.raises(SecretsMissing, match=r"google-api-key \(GOOGLE_API_KEY\)"):
        create_planner("gemini-3.5-flash", **world)
    monkeypatch.setenv("GOOGLE_API_KEY", CANARY)
    planner = create_planner("gemini-3.5-flash", **world)
    assert planner.model == "gemini-3.5-flash"


def test_a_key_of_the_environment_is_hidden_too(
    server: GeminiServer, world: dict[str, Any], context: PlanningContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", CANARY)
    models = Models("gemini-3.5-flash", secrets={})
    planned = AdkPlanner(models=models, toolbox=Toolbox(**world)).plan(context)
    assert server.requests[0]["key"] == CANARY
    assert "no, ***" in str(planned.fault)

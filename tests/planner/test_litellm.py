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
from model_fakes import create_planner

from databricks_rlm_agent.errors import ConfigError, ModelOutage
from databricks_rlm_agent.logs import masked
from databricks_rlm_agent.models import Price
from databricks_rlm_agent.planner.models import Models
from databricks_rlm_agent.planner.planner import AdkPlanner
from databricks_rlm_agent.planner.tools import Toolbox
from databricks_rlm_agent.ports import PlanningContext
from databricks_rlm_agent.retry import MODELS
from databricks_rlm_agent.runs.actions import Finish, RunPython
from databricks_rlm_agent.runs.budget import Budget, Usage
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
        self.usage: dict[str, Any] | None = {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "total_tokens": 120,
        }

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
        if isinstance(answer, bytes):
            return self._send(200, answer)
        if isinstance(answer, tuple):
            return self._send(answer[0], {"error": {"message": "wait"}}, {"retry-after": str(answer[1])})
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
        document = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
        if self.server.usage is not None:
            document["usage"] = self.server.usage
        return self._send(200, {**document, "choices": [choice]})

    def _send(
        self, status: int, document: dict[str, Any] | bytes, headers: dict[str, str] | None = None
    ) -> None:
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        with contextlib.suppress(ConnectionError):  # a client that has given up is one of the tests
            self.send_response(status)
            kind = "text/html" if isinstance(document, bytes) else "application/json"
            for name, value in {"content-type": kind, **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    with ModelServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_API_BASE", server.url)
        monkeypatch.setattr("databricks_rlm_agent.planner.chain.MODELS", replace(MODELS, first_wait_s=0.01))
        yield server
        server.shutdown()
        thread.join()


def planner_for(setting: str, world: dict[str, Any], server: ModelServer, **options: Any) -> AdkPlanner:
    secrets = {
        "openai-api-key": Secret(CANARY),
        "anthropic-api-key": Secret(CANARY),
        "databricks-host": Secret(server.url),
        "databricks-token": Secret(CANARY),
    }
    return AdkPlanner(
        models=Models(setting, secrets=secrets),
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
    assert planned.usage.calls == 1  # what was refused costs nothing


PROVIDERS = ["openai/a", "databricks/b", "anthropic/c"]
PAGE = b"<html><title>Sign in</title></html>"


@pytest.mark.parametrize("setting", PROVIDERS)
def test_a_retry_after_may_be_a_date(
    server: ModelServer, world: dict[str, Any], context: PlanningContext, setting: str
) -> None:
    server.answers = [(429, "Fri, 31 Dec 2100 23:59:59 GMT")]
    planned = planner_for(setting, world, server).plan(context)
    assert isinstance(planned.fault, ModelOutage)
    assert (planned.fault.retry_after or 0) > 1e9
    assert len(server.requests) == 1


@pytest.mark.fault("A4")
@pytest.mark.parametrize("setting", PROVIDERS)
@pytest.mark.parametrize("answer", [429, 500, 503, PAGE], ids=["429", "500", "503", "page"])
def test_a_short_outage_of_a_provider_is_waited_for(
    server: ModelServer, world: dict[str, Any], context: PlanningContext, setting: str, answer: Any
) -> None:
    server.answers = [answer, message(setting)]
    planned = planner_for(setting, world, server).plan(context)
    assert isinstance(planned.action, Finish)
    assert len(server.requests) == 2
    assert planned.usage.calls == 1


@pytest.mark.fault("A4")
@pytest.mark.parametrize("setting", PROVIDERS)
@pytest.mark.parametrize(
    ("answer", "retry_after"),
    [((429, 60), 60), ((503, 60), 60), (500, None), (502, None), (PAGE, None)],
    ids=["429", "503", "500", "502", "page"],
)
def test_a_long_outage_of_a_provider_is_no_failure(
    server: ModelServer,
    world: dict[str, Any],
    context: PlanningContext,
    setting: str,
    answer: Any,
    retry_after: int | None,
) -> None:
    server.answers = [answer] * 20
    planned = planner_for(setting, world, server).plan(context)
    assert isinstance(planned.fault, ModelOutage)
    assert (planned.action, planned.failure) == (None, None)
    assert planned.fault.retry_after == retry_after
    assert "name and key" not in str(planned.fault)
    assert setting in str(planned.fault)
    assert len(server.requests) == (1 if retry_after else MODELS.attempts)
    assert planned.usage == Usage()


@pytest.mark.fault("A4")
@pytest.mark.parametrize("setting", PROVIDERS)
def test_a_closed_port_is_no_failure(
    server: ModelServer, world: dict[str, Any], context: PlanningContext, setting: str
) -> None:
    server.server_close()
    planned = planner_for(setting, world, server).plan(context)
    assert isinstance(planned.fault, ModelOutage)
    assert planned.usage == Usage()


@pytest.mark.fault("A4")
def test_a_chain_is_tried_before_anything_is_waited_for(
    server: ModelServer, world: dict[str, Any], context: PlanningContext
) -> None:
    server.answers = [(429, 60), 401, FINISH]
    planned = planner_for("openai/a,databricks/b,openai/c", world, server).plan(context)
    assert isinstance(planned.action, Finish)
    server.answers = [401, (429, 60)]
    planned = planner_for("openai/a,databricks/b", world, server).plan(context)
    assert isinstance(planned.fault, ModelOutage)  # the second one may answer later


@pytest.mark.fault("A4")
@pytest.mark.fault("A5")
@pytest.mark.parametrize("setting", PROVIDERS)
@pytest.mark.parametrize(
    ("status", "hint"),
    [(401, "Check the key"), (403, "Ask for access"), (404, "Check the model's name"), (400, "refuses")],
)
def test_a_refusal_ends_the_run_at_once_with_its_reason_and_what_to_do(
    server: ModelServer, world: dict[str, Any], context: PlanningContext, setting: str, status: int, hint: str
) -> None:
    server.answers = [status] * 9
    planned = planner_for(setting, world, server).plan(context)
    assert planned.fault is None
    assert hint in (planned.failure or "")
    assert setting in (planned.failure or "")
    assert len(server.requests) == 1
    assert planned.usage == Usage()


@pytest.mark.fault("A7")
@pytest.mark.parametrize("setting", ["openai/a", "databricks/b"])
@pytest.mark.parametrize(
    "bad",
    [
        {"name": "finish", "arguments": '{"answer": "caf\\ud83d"}'},
        {"name": "run_python", "arguments": '{"code": "x = 1", "purpose": "\\ud83d"}'},
        {"name": "read_file", "arguments": '{"path": "/Volumes/main/rlm/files/\\udce9"}'},
        {"name": "no_such_\ud83d", "arguments": "{}"},
        "only text, \ud83d",
    ],
    ids=["finish", "run_python", "read_file", "name", "text"],
)
def test_half_a_character_from_a_model_goes_back_to_it(
    server: ModelServer, world: dict[str, Any], context: PlanningContext, setting: str, bad: Any
) -> None:
    server.answers = [bad, FINISH]
    planned = planner_for(setting, world, server).plan(context)
    assert planned.action == Finish(answer="JFK")
    assert len(server.requests) == 2
    if isinstance(bad, dict) and "no_such" not in bad["name"]:
        reasons = [str(note.payload.get("reason")) for note in planned.notes if note.kind == "refusal"]
        assert "lone surrogate" in reasons[0]
    json.dumps([note.payload for note in planned.notes], ensure_ascii=False).encode()


@pytest.mark.fault("A7")
def test_half_a_character_in_what_a_tool_reads_does_not_end_the_conversation(
    server: ModelServer, world: dict[str, Any], context: PlanningContext
) -> None:
    world["catalog"].tables["main.rlm.odd"] = [("caf\udce9", "string")]
    describe = {"name": "describe_table", "arguments": '{"table": "main.rlm.odd"}'}
    server.answers = [describe, FINISH]
    assert planner_for("openai/a", world, server).plan(context).action == Finish(answer="JFK")
    assert "caf?" in json.dumps(server.requests[1]["body"]["messages"])


def message(setting: str) -> Any:
    """The answer of a provider that finishes."""
    if not setting.startswith("anthropic/"):
        return FINISH
    use = {"type": "tool_use", "id": "t1", "name": "finish", "input": {"answer": "JFK"}}
    head = {"id": "m", "type": "message", "role": "assistant", "model": "c", "stop_reason": "tool_use"}
    return {**head, "content": [use], "usage": {"input_tokens": 9, "output_tokens": 2}}


@pytest.mark.fault("A10")
@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        (  # reasoning within the answer
            {
                "prompt_tokens": 1_000,
                "completion_tokens": 50,
                "total_tokens": 1_050,
                "completion_tokens_details": {"reasoning_tokens": 30},
            },
            (1_000, 50),
        ),
        (  # reasoning beside it
            {
                "prompt_tokens": 1_000,
                "completion_tokens": 20,
                "total_tokens": 1_050,
                "completion_tokens_details": {"reasoning_tokens": 30},
            },
            (1_000, 50),
        ),
        (  # cached tokens within the prompt
            {
                "prompt_tokens": 1_000,
                "completion_tokens": 50,
                "total_tokens": 1_050,
                "prompt_tokens_details": {"cached_tokens": 900},
            },
            (1_000, 50),
        ),
        (  # and beside it
            {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "total_tokens": 1_050,
                "prompt_tokens_details": {"cached_tokens": 900},
            },
            (1_000, 50),
        ),
    ],
    ids=["reasoning within", "reasoning beside", "cached within", "cached beside"],
)
def test_tokens_are_counted_once_whatever_a_provider_includes(
    server: ModelServer,
    world: dict[str, Any],
    context: PlanningContext,
    usage: dict[str, Any],
    counted: tuple[int, int],
) -> None:
    server.answers, server.usage = [FINISH], usage
    planned = planner_for("openai/gpt-x", world, server).plan(context)
    assert (planned.usage.input_tokens, planned.usage.output_tokens) == counted


@pytest.mark.fault("A10")
def test_tokens_that_a_provider_does_not_report_are_estimated(
    server: ModelServer, world: dict[str, Any], context: PlanningContext
) -> None:
    server.answers, server.usage = [FINISH], None
    planned = planner_for("openai/gpt-x", world, server).plan(context)
    assert planned.usage.input_tokens > 1_000
    assert planned.usage.output_tokens > 5


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


@pytest.mark.fault("A4")
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
    assert isinstance(planned.fault, ModelOutage)
    assert "openai/slow: no answer within 0.2 s" in str(planned.fault)
    # A question that was cut off has been read.
    assert planned.usage.calls == len(planned.calls) == MODELS.attempts
    assert planned.usage.input_tokens > 1_000 * MODELS.attempts


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
    assert "No model answered" in str(planned.fault)
    assert "openai/a" in str(planned.fault)
    out, err = capfd.readouterr()
    shown = f"{planned!r} {planned.fault} {caplog.text} {out} {err}"
    assert CANARY not in shown
    assert out == ""


def test_the_reply_is_held_within_the_budget(
    server: ModelServer, world: dict[str, Any], context: PlanningContext
) -> None:
    server.answers = [FINISH]
    prices = {"openai/gpt-x": Price(input_usd=1, output_usd=10)}
    models = Models("openai/gpt-x", secrets={"openai-api-key": Secret(CANARY)}, prices=prices)
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


def test_an_anthropic_model(server: ModelServer, world: dict[str, Any], context: PlanningContext) -> None:
    server.answers = [message("anthropic/claude-x")]
    models = Models("anthropic/claude-x", secrets={"anthropic-api-key": Secret(CANARY)})
    planned = AdkPlanner(models=models, toolbox=Toolbox(**world)).plan(context)
    assert planned.action == Finish(answer="JFK")
    assert (planned.usage.input_tokens, planned.usage.output_tokens) == (9, 2)
    assert server.requests[0]["path"] == "/v1/messages"
    assert server.requests[0]["key"] == CANARY

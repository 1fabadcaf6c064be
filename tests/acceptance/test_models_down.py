"""A provider of models that is down, or refuses, through the command line."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

FINISH = {"name": "finish", "arguments": json.dumps({"answer": "JFK"})}


class Provider(ThreadingHTTPServer):
    """Answers as OpenAI does: with ``status``, or with an answer where that is 200."""

    daemon_threads = True
    status = 200
    asked = 0

    @property
    def environment(self) -> dict[str, str]:
        return {"OPENAI_BASE_URL": f"http://127.0.0.1:{self.server_port}", "OPENAI_API_KEY": "sk-of-a-test"}


class Handler(BaseHTTPRequestHandler):
    server: Provider

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.asked += 1
        call = {"id": "call_1", "type": "function", "function": FINISH}
        choice = {"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": [call]}}
        good = {"id": "1", "object": "chat.completion", "created": 1, "model": "x", "choices": [choice]}
        bad = {"error": {"message": "not now", "code": "x"}}
        content = json.dumps(good if self.server.status == 200 else bad).encode()
        self.send_response(self.server.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.fault("A5")
@pytest.mark.parametrize(("status", "hint"), [(401, "Check the key"), (404, "Check the model's name")])
def test_a_refusal_ends_the_run_with_its_reason(here, serving, provider: Provider, status, hint) -> None:
    provider.status = status
    env = serving.environment | provider.environment
    done = here("run", "Ask it", "--model", "openai/gpt-x", "--json", env=env)
    assert (done.code, done.document["state"]) == (1, "FAILED"), done.err
    assert hint in done.document["reason"]
    assert provider.asked == 1


@pytest.mark.fault("A4")
def test_an_outage_is_shown_and_waited_for(here, serving, provider: Provider) -> None:
    provider.status = 503
    env = serving.environment | provider.environment
    assert here("submit", "Ask it", "--run-id", "down", "--model", "openai/gpt-x", env=env).code == 0
    assert here("orchestrate", "--once", env=env).code == 0
    waiting = here("status", "down", "--json", env=env).document
    assert waiting["state"] in {"PENDING", "PLANNING"}
    assert waiting["waits_for"] == "model"
    assert "No model answered" in waiting["reason"]
    assert waiting["usage"]["calls"] == 0
    text = here("status", env=env).out
    assert "waiting for the model since " in text
    assert "name and key" not in text
    provider.status = 200
    assert here("orchestrate", "--until-idle", env=env).code == 0
    done = here("status", "down", "--json", env=env).document
    assert (done["state"], done["answer"], done["waits_for"]) == ("SUCCEEDED", "JFK", None)
    assert done["usage"]["calls"] == 1

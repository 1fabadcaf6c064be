"""A provider of models on loopback, which has outages: it speaks OpenAI's protocol, as LiteLLM asks it.

It keeps no state: the run and what it has done are read in the prompt, so a question that is asked again
gets the same answer.
"""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OUTAGES = ("429", "500", "page", "closed")
_TAG = re.compile(r"storm-(\d+)-of-(\d+)")
_DONE = re.compile(r'finished\\*"?: *(\d+)')
# The program of a step. Its effects are its own attempt's, so that one which is lost can be run again.
_PROGRAM = """import pathlib, time, uuid
pathlib.Path(rlm.path("ran-" + uuid.uuid4().hex)).touch()
rows = spark.sql("SELECT {step} AS step").collect()
time.sleep({seconds})
rlm.finish({{"finished": rows[0]["step"]}})
"""


@dataclass(kw_only=True)
class Provider:
    """Answers at ``url``; ``outage`` names what is wrong with it now, None if nothing is."""

    url: str
    rng: random.Random
    outage: str | None = None
    asked: int = 0
    refused: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the tool call that a planner would make next."""
        prompt = json.dumps(body["messages"])
        tag = _TAG.search(prompt)
        if tag is None:
            return _call("finish", answer="There was no task.", evidence="none")
        done = max((int(number) for number in _DONE.findall(prompt)), default=0)
        steps = int(tag[2])
        if done >= steps:
            return _call("finish", answer=f"{tag[0]} is done.", evidence="the last result")
        code = _PROGRAM.format(step=done + 1, seconds=round(self.rng.uniform(0, 2), 1))
        return _call("run_python", code=code, purpose=f"step {done + 1}", timeout_s=120)

    def count(self, *, refused: bool) -> None:
        """Count a request."""
        with self._lock:
            self.asked += 1
            self.refused += refused


def _call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": json.dumps(arguments)}


@contextmanager
def serve(rng: random.Random) -> Iterator[Provider]:
    """Serve on a port of loopback until the end of the context."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    provider = Provider(url=f"http://127.0.0.1:{server.server_port}", rng=rng)
    server.provider = provider  # type: ignore[attr-defined]  # where its handlers find it
    thread = threading.Thread(target=server.serve_forever, name="provider", daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        provider: Provider = self.server.provider  # type: ignore[attr-defined]  # set by serve
        outage = provider.outage
        provider.count(refused=outage is not None)
        if outage == "closed":
            self.close_connection = True
        elif outage == "page":
            self._answer(200, b"<html>Back soon.</html>", "text/html")
        elif outage is not None:
            self._answer(int(outage), b'{"error": {"message": "busy"}}', "application/json", retry="2")
        else:
            call = {"id": "c1", "type": "function", "function": provider.reply(body)}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
            document = {
                "id": "r", "object": "chat.completion", "created": 1, "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
            }  # fmt: skip
            self._answer(200, json.dumps(document).encode(), "application/json")

    def _answer(self, status: int, content: bytes, kind: str, *, retry: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if retry:
            self.send_header("Retry-After", retry)
        self.end_headers()
        self.wfile.write(content)

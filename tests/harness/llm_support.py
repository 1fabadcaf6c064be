"""A serving endpoint in this process, with a log of all that it was asked, and model calls that ask it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from harness_support import request_of

from executor_harness.protocol import Usage
from executor_harness.redaction import Redactor
from executor_harness.rlm.model_calls import ModelCalls
from executor_harness.volumes import Volumes

VOLUME = "/Volumes/main/rlm/work"
TABLE = "main.rlm.model_calls"
CREATE = (
    f"CREATE TABLE {TABLE} (call_key STRING, run_id STRING, iter_n BIGINT, attempt BIGINT, model STRING, "
    "answer STRING, error STRING, input_tokens BIGINT, output_tokens BIGINT, cost_usd DOUBLE, "
    "seconds DOUBLE, at TIMESTAMP) USING delta"
)


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the stub says. `drop` closes the connection in place of a reply; `body` replaces the whole one."""

    text: Any = "ok"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    tokens: tuple[int, int] | None = (10, 2)
    finish: str = "stop"
    body: bytes | None = None
    drop: bool = False

    def encoded(self) -> bytes:
        if self.body is not None:
            return self.body
        usage = (
            {"prompt_tokens": self.tokens[0], "completion_tokens": self.tokens[1]} if self.tokens else None
        )
        if self.status != 200:
            return json.dumps({"error_code": "X", "message": self.text, "usage": usage}).encode()
        message = {"role": "assistant", "content": self.text}
        choices = [{"index": 0, "message": message, "finish_reason": self.finish}]
        return json.dumps({"choices": choices, "usage": usage}).encode()


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request, and what was said to it (its status; None: dropped)."""

    path: str
    token: str
    body: dict[str, Any]
    said: Said
    at: float

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][-1]["content"])


class Stub:
    """Answers by `rule`, which gets the prompt and how often it was asked before, after `latency_s`."""

    def __init__(self, rule: Callable[[str, int], Said], latency_s: float = 0.0) -> None:
        self.rule = rule
        self.latency_s = latency_s
        self.asked: list[Asked] = []
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                said = stub.take(self.path, self.headers.get("Authorization", ""), body)
                if said.drop:
                    self.close_connection = True
                    return
                data = said.encoded()
                self.send_response(said.status)
                for name, value in said.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that was killed

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def take(self, path: str, token: str, body: dict[str, Any]) -> Said:
        prompt = str(body["messages"][-1]["content"])
        with self.lock:
            said = self.rule(prompt, sum(one.prompt == prompt for one in self.asked))
            asked = Asked(path=path, token=token, body=body, said=said, at=time.monotonic())
            self.asked.append(asked)
            self.busy += 1
            self.most_busy = max(self.busy, self.most_busy)
        time.sleep(self.latency_s)
        with self.lock:
            self.busy -= 1
        return said

    @property
    def prompts(self) -> list[str]:
        with self.lock:
            return [one.prompt for one in self.asked]

    @property
    def billed(self) -> tuple[int, int, int]:
        """Calls, tokens read and tokens written, by what the stub said itself."""
        tokens = [one.said.tokens for one in self.asked if one.said.tokens and not one.said.drop]
        return len(tokens), sum(read for read, _ in tokens), sum(written for _, written in tokens)


def echo(prompt: str, before: int) -> Said:
    return Said(text=f"re: {prompt}")


@contextmanager
def serving(rule: Callable[[str, int], Said] = echo, latency_s: float = 0.0) -> Iterator[Stub]:
    stub = Stub(rule, latency_s)
    thread = threading.Thread(target=stub.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        stub.server.shutdown()
        stub.server.server_close()
        thread.join()


def access(**changes: Any) -> dict[str, Any]:
    return {
        "endpoint": "small",
        "concurrency": 64,
        "per_minute": None,
        "timeout_s": 20.0,
        "max_reply_tokens": 100,
        "prices": {},
        "allowance": {"calls": 10_000, "tokens": 10_000_000, "cost_usd": None},
        "calls_table": TABLE,
        **changes,
    }


def no_engine() -> Any:
    raise RuntimeError("no engine here")


def calls_of(
    root: Path,
    stub: Stub | None,
    *,
    run_id: str = "r1",
    iter_n: int = 1,
    attempt: int = 1,
    session: Callable[[], Any] = no_engine,
    secrets: tuple[str, ...] = (),
    environ: dict[str, str] | None = None,
    **changes: Any,
) -> ModelCalls:
    """The model calls of a program whose Volumes are under `root`."""
    last = "" if attempt == 1 else f"/attempt_{attempt}"
    request = request_of(
        run_id=run_id,
        iter_n=iter_n,
        attempt=attempt,
        output_dir=f"{VOLUME}/scratchpad/run_{run_id}/iter_{iter_n}{last}",
        models=access(**changes),
    )
    if environ is None:
        environ = {"DATABRICKS_HOST": stub.url if stub else "", "DATABRICKS_TOKEN": "dapi-very-secret"}
    return ModelCalls(request, Volumes(root=str(root)), session, Redactor(secrets), environ=environ)


def run_folder(root: Path, run_id: str = "r1") -> Path:
    return root / "main/rlm/work/scratchpad" / f"run_{run_id}"


def spent(root: Path, run_id: str = "r1", attempt: str = "iter_1") -> Usage:
    found: dict[str, Any] = json.loads((run_folder(root, run_id) / attempt / "spend.json").read_bytes())
    return Usage(**found["usage"])

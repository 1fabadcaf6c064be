"""A real inference server in an environment of its own, and a door to it as serving endpoints have it."""

from __future__ import annotations

import http.client
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-llm/bin/python"


@dataclass(frozen=True, kw_only=True)
class ModelServer:
    """llama.cpp's server, and its process."""

    url: str
    process: subprocess.Popen[str]

    def stop(self) -> None:
        """End it, if it has not ended."""
        self.process.kill()
        self.process.wait()


def start(port: int = 0) -> ModelServer:
    """Start one and wait until the model is loaded."""
    model = ROOT / ".cache/gemma-3-270m-q4_k_m.gguf"
    model.parent.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [str(PYTHON), str(Path(__file__).parent / "serve.py"), str(port), str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert url, "the model server did not start"
    return ModelServer(url=url, process=process)


@contextmanager
def running() -> Iterator[ModelServer]:
    """One for the time of the context."""
    server = start()
    try:
        yield server
    finally:
        server.stop()
        for pipe in (server.process.stdin, server.process.stdout):
            assert pipe is not None
            pipe.close()


class _Door(BaseHTTPRequestHandler):
    """Passes what is asked of a serving endpoint on to the server's own path, and its answer back."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        connection = http.client.HTTPConnection(self.server.to, timeout=300)  # type: ignore[attr-defined]
        try:
            connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            content = reply.read()
        except OSError:  # it has gone: so has our answer
            self.close_connection = True
            return
        finally:
            connection.close()
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def door(url: str) -> Iterator[str]:
    """The address under which ``/serving-endpoints/…/invocations`` asks the server at ``url``."""
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _Door)
    proxy.daemon_threads = True
    proxy.to = urlsplit(url).netloc  # type: ignore[attr-defined]  # where its handlers find it
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}"
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()

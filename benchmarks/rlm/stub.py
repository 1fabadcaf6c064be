"""A model server that knows no language: OpenAI chat completions, replies by script, and a log of every call.

Whoever asks is told apart by the model's name: ``root`` gets the scenario's messages in turn, any other model
the scenario's one sub-reply. The same application answers the way of the OpenAI API and the way of a
workspace's serving endpoints.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

ROOT, SUB = "root", "sub"
PREFIXES = ("/v1/", "/serving-endpoints/", "/_stub/")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is answered: assistant messages (OpenAI format) to ``root``, a text to all others. Seconds.

    With a ``turn_tool``, only requests that offer this tool are turns; others to ``root`` get the ``aside``
    if they offer a tool, else the text.
    """

    root: Sequence[Mapping[str, Any]] = ()
    turn_tool: str = ""
    aside: Mapping[str, Any] = field(default_factory=dict)
    sub: str = "yes"
    root_latency_s: float = 0.0
    sub_latency_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One call as the server saw it. Times are Unix time; ``chars`` are those of the messages, ``tools``
    those of the tools' declarations; tokens are what the reply told.
    """

    model: str
    started: float
    ended: float
    chars: int
    tools: int
    input_tokens: int
    output_tokens: int
    status: int = 200


@dataclass(kw_only=True)
class Stub:
    """The server's state: one scenario at a time, and the log since it was set."""

    scenario: Scenario = field(default_factory=Scenario)
    log: list[Asked] = field(default_factory=list)
    _turns: int = 0

    def application(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self.complete, methods=["POST"]),
                Route("/serving-endpoints/{name}/invocations", self.complete, methods=["POST"]),
                Route("/_stub/scenario", self._set, methods=["PUT"]),
                Route("/_stub/log", self._show, methods=["GET"]),
            ]
        )

    async def _set(self, request: Request) -> Response:
        self.scenario, self.log, self._turns = Scenario(**await request.json()), [], 0
        return JSONResponse({})

    async def _show(self, _: Request) -> Response:
        return JSONResponse([asdict(asked) for asked in self.log])

    async def complete(self, request: Request) -> Response:
        """One chat completion."""
        started = time.time()
        body = json.loads(await request.body())
        model = str(request.path_params.get("name") or body["model"])
        model = f"{model}, aside" if model == ROOT and not self._is_turn(body) else model
        message = self._reply(model, tools=bool(body.get("tools")))
        if message is None:
            return JSONResponse({"error": {"message": f"no reply is left for {model}"}}, status_code=400)
        is_root = model.startswith(ROOT)
        await asyncio.sleep(self.scenario.root_latency_s if is_root else self.scenario.sub_latency_s)
        document = _completion(model, body, message)
        self.log.append(_asked(model, body, document, started))
        return JSONResponse(document)

    def _is_turn(self, body: Mapping[str, Any]) -> bool:
        wanted, offered = self.scenario.turn_tool, body.get("tools") or []
        return not wanted or wanted in [tool["function"]["name"] for tool in offered]

    def _reply(self, model: str, *, tools: bool) -> Mapping[str, Any] | None:
        if model == f"{ROOT}, aside" and tools:
            return self.scenario.aside
        if model != ROOT:
            return {"role": "assistant", "content": self.scenario.sub}
        self._turns += 1
        left = self.scenario.root[self._turns - 1 : self._turns]
        return left[0] if left else None


def size(messages: Sequence[Mapping[str, Any]]) -> int:
    """Characters that a model reads: contents, and the calls of tools in earlier messages."""
    return sum(
        _length(message.get("content")) + _length(message.get("tool_calls") or "") for message in messages
    )


def _length(content: Any) -> int:
    if isinstance(content, str):
        return len(content)
    if isinstance(content, list) and all(isinstance(part, dict) and "text" in part for part in content):
        return sum(len(part["text"]) for part in content)
    return 0 if content is None else len(json.dumps(content, ensure_ascii=False))


def _completion(model: str, body: Mapping[str, Any], message: Mapping[str, Any]) -> dict[str, Any]:
    read = size(body["messages"]) // 4 + _length(body.get("tools") or "") // 4 + 1
    written = size([message]) // 4 + 1
    return {
        "id": f"chatcmpl-{time.time_ns()}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", **message},
                "finish_reason": "tool_calls" if message.get("tool_calls") else "stop",
            }
        ],
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }


def _asked(model: str, body: Mapping[str, Any], document: Mapping[str, Any], started: float) -> Asked:
    usage = document["usage"]
    return Asked(
        model=model,
        started=started,
        ended=time.time(),
        chars=size(body["messages"]),
        tools=_length(body.get("tools") or ""),
        input_tokens=usage["prompt_tokens"],
        output_tokens=usage["completion_tokens"],
    )

"""Model serving: chat completions in the OpenAI format, answered from a script."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from databricks_rlm_agent.localworkspace.problem import ApiError, WorkspaceError, invalid, missing
from databricks_rlm_agent.localworkspace.web import Call, Json, parse, refusal, reply, route


class Script:
    """Replies for model calls from jobs, by call number: `{"sub": [{"text": …}, …], "latency_s": 0}`.

    The count begins again when the workspace is started again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            self._replies: list[Any] = list(document.get("sub") or [])
            self.latency_s = float(document.get("latency_s") or 0)
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise WorkspaceError(f"--model scripted:{path} cannot be read: {error}") from error
        self._calls = itertools.count(1)

    def next(self) -> str:
        """The text of the next reply. Raises ApiError (400) past the end, or for a malformed reply."""
        number = next(self._calls)
        if number > len(self._replies):
            raise invalid(
                f'The script {self._path} has {len(self._replies)} replies under "sub", '
                f"and this is call number {number}: add replies"
            )
        found = self._replies[number - 1]
        if not isinstance(found, dict) or not isinstance(found.get("text"), str):
            raise invalid(f'The script {self._path}: reply {number} under "sub" must be {{"text": "…"}}')
        text: str = found["text"]
        return text


def script_of(model: str | None) -> Script | None:
    """The script of a `--model` argument. Raises WorkspaceError when it cannot be read."""
    return Script(Path(model.removeprefix("scripted:"))) if model else None


def _completion(endpoint: str, messages: list[Any], text: str) -> Json:
    # About four characters a token: enough for budgets to have something to count.
    prompt = sum(len(str(item.get("content", ""))) for item in messages if isinstance(item, dict)) // 4 + 1
    answer = len(text) // 4 + 1
    return {
        "id": f"chatcmpl-{time.time_ns()}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": endpoint,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
        },
    }


def routes(script: Script | None) -> list[Route]:
    """The routes of `/serving-endpoints`. With a script, every endpoint name answers."""

    async def invoke(request: Request) -> Response:
        try:
            call = await parse(request)
            name = str(call.path.get("name") or call.body.get("model") or "")
            if script is None:
                raise _no_model(name)
            messages = call.body.get("messages")
            if not isinstance(messages, list) or not messages:
                raise invalid("messages must be a list that is not empty (OpenAI chat format)")
            text = script.next()
            await asyncio.sleep(script.latency_s)
            return reply(_completion(name, messages, text))
        except ApiError as problem:
            return refusal(problem)

    def describe(call: Call) -> Json:
        if script is None:
            raise _no_model(call.text("name"))
        state = {"ready": "READY", "config_update": "NOT_UPDATING"}
        return {"name": call.text("name"), "task": "llm/v1/chat", "state": state}

    return [
        Route("/serving-endpoints/{name}/invocations", invoke, methods=["POST"]),
        # The OpenAI client's way to the same endpoints: the name is the "model" of the body.
        Route("/serving-endpoints/chat/completions", invoke, methods=["POST"]),
        route("GET", "/api/2.0/serving-endpoints/{name}", describe),
    ]


def _no_model(name: str) -> ApiError:
    return missing(
        f"Serving endpoint {name!r} does not exist: this local workspace was started without a model; "
        "start it with --model scripted:FILE"
    )

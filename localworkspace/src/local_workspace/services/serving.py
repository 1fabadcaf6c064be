"""Model serving: chat completions in the OpenAI format, answered by the stub sub-model."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local_workspace.errors import ApiError, invalid, missing
from local_workspace.gate import PROMPT_DIGEST
from local_workspace.services.stub import Answer, ScriptedError, Stub
from local_workspace.web import Call, Json, parse, refusal, reply, route


def routes(stub: Stub | None) -> list[Route]:
    """The routes of `/serving-endpoints`. With a stub, every endpoint name answers."""
    numbers = itertools.count(1)

    async def invoke(request: Request) -> Response:
        try:
            call = await parse(request)
            name = str(call.path.get("name") or call.body.get("model") or "")
            if stub is None:
                raise _no_model(name)
            prompt = _text_of(call.body.get("messages"))
            request.scope[PROMPT_DIGEST] = hashlib.sha256(prompt.encode("utf-8", "replace")).hexdigest()
            answer = stub.answer(prompt)
            # Each call sleeps for itself: hundreds at once take as long as one.
            await asyncio.sleep(stub.latency_s)
            return reply(_completion(f"chatcmpl-{next(numbers)}", name, prompt, answer))
        except ApiError as problem:
            response = refusal(problem)
            if isinstance(problem, ScriptedError) and problem.retry_after is not None:
                response.headers["retry-after"] = str(problem.retry_after)
            return response

    def describe(call: Call) -> Json:
        if stub is None:
            raise _no_model(call.text("name"))
        state = {"ready": "READY", "config_update": "NOT_UPDATING"}
        return {"name": call.text("name"), "task": "llm/v1/chat", "state": state}

    return [
        Route("/serving-endpoints/{name}/invocations", invoke, methods=["POST"]),
        # The OpenAI client's way to the same endpoints: the name is the "model" of the body.
        Route("/serving-endpoints/chat/completions", invoke, methods=["POST"]),
        route("GET", "/api/2.0/serving-endpoints/{name}", describe),
    ]


def _text_of(messages: Any) -> str:
    """The text of all messages, one after the other. Raises ApiError (400) when there is none."""
    if not isinstance(messages, list) or not messages:
        raise invalid("messages must be a list that is not empty (OpenAI chat format)")
    return "\n".join(_content(item) for item in messages)


def _content(message: Any) -> str:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(str(part.get("text") or "") for part in parts if isinstance(part, dict))


def _completion(identity: str, endpoint: str, prompt: str, answer: Answer) -> Json:
    # About four characters a token: enough for budgets to have something to count.
    read = len(prompt) // 4 + 1 if answer.input_tokens is None else answer.input_tokens
    written = len(answer.text) // 4 + 1 if answer.output_tokens is None else answer.output_tokens
    message = {"role": "assistant", "content": answer.text}
    return {
        "id": identity,
        "object": "chat.completion",
        "created": 0,
        "model": endpoint,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        },
    }


def _no_model(name: str) -> ApiError:
    return missing(
        f"Serving endpoint {name!r} does not exist: this local workspace was started without a model; "
        "start it with --model scripted:FILE"
    )

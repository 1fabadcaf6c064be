"""Model serving: chat completions in the OpenAI format."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from typing import Any

from databricks.sdk.service import serving as shapes
from starlette.requests import Request
from starlette.routing import Route

from local_workspace.errors import ApiError, invalid, missing
from local_workspace.http import PROMPT_DIGEST, Call, async_route, parse, route
from local_workspace.options import USER
from local_workspace.scripted_model import ModelAnswer
from local_workspace.workspace import Workspace


def routes(workspace: Workspace) -> list[Route]:
    """The routes of `/serving-endpoints`. With a model, every endpoint name answers."""
    model, numbers = workspace.model, itertools.count(1)
    state = shapes.EndpointState(
        ready=shapes.EndpointStateReady.READY, config_update=shapes.EndpointStateConfigUpdate.NOT_UPDATING
    )

    async def invoke(request: Request) -> shapes.QueryEndpointResponse:
        call = await parse(request)
        name = str(call.path.get("name") or call.body.get("model") or "")
        if model is None:
            raise _no_model(name)
        prompt = _text_of(call.body.get("messages"))
        request.scope[PROMPT_DIGEST] = hashlib.sha256(prompt.encode("utf-8", "replace")).hexdigest()
        answer = model.answer(prompt)
        # Each call sleeps for itself: hundreds at once take as long as one.
        await asyncio.sleep(model.latency_s)
        return _completion(f"chatcmpl-{next(numbers)}", name, prompt, answer)

    def describe(call: Call) -> shapes.ServingEndpointDetailed:
        if model is None:
            raise _no_model(call.text("name"))
        return shapes.ServingEndpointDetailed(name=call.text("name"), task="llm/v1/chat", state=state)

    def endpoints(_call: Call) -> shapes.ListEndpointsResponse:
        if model is None:
            return shapes.ListEndpointsResponse(endpoints=[])
        one = shapes.ServingEndpoint(
            id="scripted", name="scripted", creator=USER, task="llm/v1/chat", state=state
        )
        return shapes.ListEndpointsResponse(endpoints=[one])

    return [
        route("GET", "/api/2.0/serving-endpoints", endpoints),
        async_route("POST", "/serving-endpoints/{name}/invocations", invoke),
        # The OpenAI client's way to the same endpoints: the name is the "model" of the body.
        async_route("POST", "/serving-endpoints/chat/completions", invoke),
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


def _completion(
    identity: str, endpoint: str, prompt: str, answer: ModelAnswer
) -> shapes.QueryEndpointResponse:
    # About four characters a token: enough for budgets to have something to count.
    read = len(prompt) // 4 + 1 if answer.input_tokens is None else answer.input_tokens
    written = len(answer.text) // 4 + 1 if answer.output_tokens is None else answer.output_tokens
    message = shapes.ChatMessage(role=shapes.ChatMessageRole.ASSISTANT, content=answer.text)
    return shapes.QueryEndpointResponse(
        id=identity,
        object=shapes.QueryEndpointResponseObject.CHAT_COMPLETION,
        created=0,
        model=endpoint,
        choices=[shapes.V1ResponseChoiceElement(index=0, message=message, finish_reason="stop")],
        usage=shapes.ExternalModelUsageElement(
            prompt_tokens=read, completion_tokens=written, total_tokens=read + written
        ),
    )


def _no_model(name: str) -> ApiError:
    return missing(
        f"Serving endpoint {name!r} does not exist: this local workspace was started without a model; "
        "start it with --model scripted:FILE"
    )

"""The chat format of serving endpoints (OpenAI's): what is sent, under which key, what comes back. Pure.

Source: Databricks' "Query foundation models" and the OpenAI chat completions reference. A reply's content is
a text, or with reasoning models a list of parts of which those of type `text` are the answer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from executor_harness import protocol

Message = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How prompts are asked: the endpoint's name, the longest reply in tokens, and what may be left out."""

    model: str
    max_tokens: int
    system: str | None = None
    schema: dict[str, Any] | None = None
    temperature: float | None = None


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What a server says that it read and wrote."""

    read: int
    written: int


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A reply that could be read. `text` None: there was no answer in it; `tokens` None: it does not tell.
    `cut` says that it ended at the longest reply allowed.
    """

    text: str | None
    tokens: Tokens | None
    cut: bool = False


def messages_of(prompt: str, options: Options) -> list[Message]:
    """The conversation that asks one prompt."""
    system = [{"role": "system", "content": options.system}] if options.system else []
    return [*system, {"role": "user", "content": prompt}]


def key_of(messages: list[Message], options: Options) -> str:
    """What an answer is kept under: the same question to the same model has the same key (64 hex characters).

    Raises ValueError or TypeError when the schema is not JSON.
    """
    return protocol.digest([options.model, messages, options.schema, options.temperature, options.max_tokens])


def body_of(messages: list[Message], options: Options) -> bytes:
    """The body of the request."""
    body: dict[str, Any] = {"messages": messages, "max_tokens": options.max_tokens}
    if options.temperature is not None:
        body["temperature"] = options.temperature
    if options.schema is not None:
        shape = {"name": "answer", "schema": options.schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": shape}
    return json.dumps(body, ensure_ascii=True).encode("ascii")


def parse_reply(data: bytes) -> Reply | None:
    """What a reply says; None when it is not JSON. That of an error may tell its usage, too."""
    try:
        found = json.loads(data)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    choices = found.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    text = _text(message.get("content")) if isinstance(message, dict) else None
    return Reply(text=text, tokens=_tokens(found.get("usage")), cut=choice.get("finish_reason") == "length")


def error_text(data: bytes) -> str:
    """What a server says is wrong, in at most 500 characters (Databricks' and OpenAI's shapes)."""
    text = data[:4_000].decode("utf-8", "replace").strip()
    try:
        found = json.loads(data)
    except ValueError:
        return text[:500]
    inner = found.get("error", found) if isinstance(found, dict) else found
    if isinstance(inner, dict) and isinstance(inner.get("message"), str):
        text = inner["message"]
    return text[:500]


def _text(content: Any) -> str | None:
    if isinstance(content, list):
        parts = [
            part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"
        ]
        content = "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) and content else None


def _tokens(usage: Any) -> Tokens | None:
    if not isinstance(usage, dict):
        return None
    read, written = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    if not isinstance(read, int) or not isinstance(written, int) or min(read, written) < 0:
        return None
    return Tokens(read=read, written=written)

"""The chat format of serving endpoints (OpenAI's): what is sent, under which key, what comes back, and what
can go wrong. Pure.

    ModelError                something about model calls; catches all of the below
    ├── NoModel               the run has no model to ask, or no way to reach it
    ├── BudgetExhausted       nothing could be asked: what is left of the budget is too small
    └── CallFailed            `rlm.llm_query` got no answer; `.error` is the CallError

In a batch a failed prompt is no exception: its place holds a `CallError`.

Source: Databricks' "Query foundation models" and the OpenAI chat completions reference. A reply's content is
a text, or with reasoning models a list of parts of which those of type `text` are the answer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from executor_harness import protocol

Message = dict[str, str]
Kind = Literal["refused", "throttled", "unavailable", "timeout", "reply", "schema", "budget", "stopped"]


class ModelError(Exception):
    """Something about model calls."""


class NoModel(ModelError):  # noqa: N818 -- an error tree reads better by what happened
    """The run has no model to ask, or no way to reach it."""


class BudgetExhausted(ModelError):  # noqa: N818 -- as above
    """The rest of the budget is too small for this call. The message says how much is left."""


@dataclass(frozen=True, kw_only=True)
class CallError:
    """A prompt that got no answer, in the place where the answer would be. It is falsy.

    `kind` is one of `refused` (the request itself is at fault, or may not be made), `throttled`,
    `unavailable` and `timeout` (tried again in vain), `reply` (nothing that can be read), `schema` (not of
    the shape asked for), `budget` (not asked: too little is left) and `stopped` (not asked: at the end).
    """

    prompt_index: int
    kind: Kind
    message: str

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return f"prompt {self.prompt_index}: {self.kind}: {self.message}"


class CallFailed(ModelError):  # noqa: N818 -- as above
    """A single call without an answer."""

    def __init__(self, error: CallError) -> None:
        super().__init__(f"{error.kind}: {error.message}")
        self.error = error


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
    """How many tokens a server reports to have read and written."""

    read: int
    written: int


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A reply that could be read. `text` None: there was no answer in it; `tokens` None: no usage in it.
    `cut` says that it ended at the longest reply allowed.
    """

    text: str | None
    tokens: Tokens | None
    cut: bool = False


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question, and the key that its answer is kept under."""

    key: str
    messages: list[Message]
    options: Options

    @classmethod
    def of(cls, prompt: str, options: Options) -> Question:
        """The question that asks one prompt."""
        messages = messages_of(prompt, options)
        return cls(key=key_of(messages, options), messages=messages, options=options)


def messages_of(prompt: str, options: Options) -> list[Message]:
    """The conversation that asks one prompt."""
    system = [{"role": "system", "content": options.system}] if options.system else []
    return [*system, {"role": "user", "content": prompt}]


def key_of(messages: list[Message], options: Options) -> str:
    """The same question to the same model has the same key (64 hex characters).

    Raises ValueError or TypeError when the schema is not JSON.
    """
    return protocol.digest([options.model, messages, options.schema, options.temperature, options.max_tokens])


def response_format(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that ask a model for JSON of a schema."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def body_of(messages: list[Message], options: Options) -> bytes:
    """The body of the request."""
    body: dict[str, Any] = {"messages": messages, "max_tokens": options.max_tokens}
    if options.temperature is not None:
        body["temperature"] = options.temperature
    if options.schema is not None:
        body["response_format"] = response_format(options.schema)
    return json.dumps(body, ensure_ascii=True).encode("ascii")


def parse_reply(data: bytes) -> Reply | None:
    """The content of a reply; None when it is not JSON. The reply of an error may have its usage, too."""
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
    """A server's own words on what is wrong, cut at 4,000 characters (Databricks' and OpenAI's shapes)."""
    text = data[:4_000].decode("utf-8", "replace").strip()
    try:
        found = json.loads(data)
    except ValueError:
        return text
    inner = found.get("error", found) if isinstance(found, dict) else found
    if isinstance(inner, dict) and isinstance(inner.get("message"), str):
        text = inner["message"][:4_000]
    return text


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

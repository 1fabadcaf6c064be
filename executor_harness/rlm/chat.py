"""The chat format of serving endpoints (OpenAI's): what is sent, under which key, what comes back, and what
can go wrong; and answers that are JSON. Pure.

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
import re
from dataclasses import dataclass
from typing import Any, Literal

from executor_harness import protocol

Message = dict[str, str]
Kind = Literal["refused", "throttled", "unavailable", "timeout", "reply", "schema", "budget", "stopped"]

_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL | re.IGNORECASE)
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


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


# Answers that are JSON, and the schemas they are checked against. Checked are `type`, `enum`, `const`,
# `required`, `properties`, `additionalProperties: false`, `items`, `minItems`, `maxItems`, `minimum`,
# `maximum` and `anyOf`; other keywords go to the model.


class SchemaMismatch(ValueError):  # noqa: N818 -- reads better by what happened
    """An answer that is not JSON, or not of the shape asked for. The message says where and what."""


def read_json(text: str, schema: dict[str, Any]) -> Any:
    """The JSON value in a reply, of that shape. Takes a fence (```json) off. Raises SchemaMismatch."""
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced.group(1) if fenced else text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise SchemaMismatch(f"it is not JSON: {error}") from None
    check_shape(value, schema)
    return value


def value_of(text: str, options: Options) -> Any:
    """Return the value of an answer's text for the program. Raises SchemaMismatch, for answers of others."""
    return text if options.schema is None else read_json(text, options.schema)


def canonical(text: str, schema: dict[str, Any]) -> str:
    """Return the JSON of a reply as it is kept, of that shape. Raises SchemaMismatch."""
    return json.dumps(read_json(text, schema), ensure_ascii=False)


def check_shape(value: Any, schema: Any, place: str = "the answer") -> None:
    """Raise SchemaMismatch unless the value has the shape that the schema asks for."""
    if not isinstance(schema, dict):
        return
    _check_type(value, schema.get("type"), place)
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        raise SchemaMismatch(f"{place} is {_short(value)}, not one of {_short(schema['enum'])}")
    if "const" in schema and not _same(value, schema["const"]):
        raise SchemaMismatch(f"{place} is {_short(value)}, not {_short(schema['const'])}")
    if "anyOf" in schema:
        _check_any(value, schema["anyOf"], place)
    if isinstance(value, dict):
        _check_object(value, schema, place)
    elif isinstance(value, list):
        _check_array(value, schema, place)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_bounds(value, schema.get("minimum"), schema.get("maximum"), place)


def _check_type(value: Any, kind: Any, place: str) -> None:
    kinds = kind if isinstance(kind, list) else [kind] if isinstance(kind, str) else []
    if kinds and not any(_is(value, one) for one in kinds):
        raise SchemaMismatch(f"{place} is {_short(value)}, not of type {' or '.join(map(str, kinds))}")


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()  # 1.0 is an integer in JSON schema
    return isinstance(value, _TYPES.get(kind, (object,)))


def _check_any(value: Any, choices: Any, place: str) -> None:
    for one in choices:
        try:
            check_shape(value, one, place)
            return
        except SchemaMismatch:
            continue
    raise SchemaMismatch(f"{place} is {_short(value)}, which fits none of the shapes in anyOf")


def _check_object(value: dict[str, Any], schema: dict[str, Any], place: str) -> None:
    missing = [name for name in schema.get("required", ()) if name not in value]
    if missing:
        raise SchemaMismatch(f"{place} lacks {', '.join(map(repr, missing))}")
    known = schema.get("properties") or {}
    if schema.get("additionalProperties") is False and (more := sorted(set(value) - set(known))):
        raise SchemaMismatch(f"{place} has {', '.join(map(repr, more))}, which nobody asked for")
    for name, shape in known.items():
        if name in value:
            check_shape(value[name], shape, f"{place}.{name}" if place != "the answer" else name)


def _check_array(value: list[Any], schema: dict[str, Any], place: str) -> None:
    _check_bounds(len(value), schema.get("minItems"), schema.get("maxItems"), f"the length of {place}")
    for at, item in enumerate(value):
        check_shape(item, schema.get("items"), f"{place}[{at}]")


def _check_bounds(number: float, least: Any, most: Any, place: str) -> None:
    if isinstance(least, (int, float)) and number < least:
        raise SchemaMismatch(f"{place} is {number:g}, less than {least:g}")
    if isinstance(most, (int, float)) and number > most:
        raise SchemaMismatch(f"{place} is {number:g}, more than {most:g}")


def _same(value: Any, other: Any) -> bool:
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")

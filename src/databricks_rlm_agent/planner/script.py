"""Scripts of the scripted model: read and checked before any run starts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from databricks_rlm_agent.errors import ScriptExhausted, UsageError

_FORMAT = (
    'Write {"planner": [[reply, …], …], "summarizer": [[reply, …], …], "sub": [reply, …], "latency_s": 0, '
    '"children": [{"match": REGEX, "planner": […], "summarizer": […]}, …]}, '
    'where a reply is {"call": NAME, "args": {…}} or {"text": "…"}, and may have "usage": '
    '{"input_tokens": N, "output_tokens": N, "cost_usd": N}. "sub" may also be {"rules": [{"match": REGEX, '
    '"text": TEMPLATE or "json": VALUE}, …], "otherwise": TEXT, "latency_s": 0, "failures": '
    '[{"match": REGEX, "status": 429, "retry_after": 1, "times": 2}, …], '
    '"usage": {"input_tokens": N, "output_tokens": N}}.'
)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ReplyUsage(_Strict):
    """The usage that a reply reports; missing tokens are estimated, a missing cost is computed."""

    input_tokens: int | None = Field(default=None, ge=0)
    output_tokens: int | None = Field(default=None, ge=0)
    cost_usd: float | None = Field(default=None, ge=0, strict=False, allow_inf_nan=False)


class Reply(BaseModel):
    """One reply of the model: a tool call with its arguments, or a text; and its usage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    call: str | None = Field(default=None, min_length=1)
    args: dict[str, Any] = Field(default_factory=dict)
    text: str | None = None
    usage: ReplyUsage = ReplyUsage()

    @model_validator(mode="after")
    def _one_of_both(self) -> Reply:
        if (self.call is None) == (self.text is None):
            raise ValueError("a reply has either 'call' or 'text'")
        return self


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return text


_Pattern = Annotated[str, AfterValidator(_pattern)]


class SubRule(_Strict):
    """The stub sub-model's answer where `match` is found: a template, or a JSON value with templates."""

    match: _Pattern
    text: str | None = None
    json_value: Any = Field(default=None, alias="json")

    @model_validator(mode="after")
    def _one_of_both(self) -> SubRule:
        if (self.text is None) == ("json_value" not in self.model_fields_set):
            raise ValueError("a rule has either 'text' or 'json'")
        return self


class SubFailure(_Strict):
    """A failure of the stub sub-model where `match` is found; ``times`` None means always."""

    match: _Pattern
    status: int = Field(ge=400, le=599)
    retry_after: int | None = Field(default=None, ge=0)
    times: int | None = Field(default=None, ge=0)


class ScriptedUsage(_Strict):
    """The usage that every answer of the stub sub-model reports."""

    input_tokens: int | None = Field(default=None, ge=0)
    output_tokens: int | None = Field(default=None, ge=0)


class SubRules(_Strict):
    """The stub sub-model by rules. Only its shape is checked here: the local workspace answers from it."""

    rules: list[SubRule] = Field(default_factory=list)
    otherwise: str | None = None
    latency_s: float = Field(default=0, ge=0, strict=False, allow_inf_nan=False)
    failures: list[SubFailure] = Field(default_factory=list)
    usage: ScriptedUsage = ScriptedUsage()


_Sub = Annotated[
    Annotated[list[Reply], Tag("replies")] | Annotated[SubRules, Tag("rules")],
    Discriminator(lambda value: "rules" if isinstance(value, dict | SubRules) else "replies"),
]


class RunReplies(_Strict):
    """The replies of one run's planner and summarizer, by iteration and call."""

    planner: list[list[Reply]] = Field(min_length=1)
    summarizer: list[list[Reply]] = Field(default_factory=list)

    def of(self, role: str) -> list[list[Reply]]:
        """One role's replies."""
        return self.planner if role == "planner" else self.summarizer


class ChildReplies(RunReplies):
    """Replies that replace the script's own where ``match`` is found in a run's objective."""

    match: _Pattern


class Script(RunReplies):
    """Replies by role, iteration and call number; ``latency_s`` is waited before each of them.

    ``children`` are for the runs that a scripted run spawns: the first that matches an objective counts.
    """

    children: list[ChildReplies] = Field(default_factory=list)
    sub: _Sub = Field(default_factory=list)
    latency_s: float = Field(default=0, ge=0, strict=False, allow_inf_nan=False)
    file: str = Field(default="script", exclude=True)

    @classmethod
    def read(cls, file: str) -> Script:
        """Read a script; raise UsageError that names the file, the place in it, and the format."""
        try:
            data = json.loads(Path(file).read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(
                f"The script cannot be read: {error.strerror}.", where=file, fix=_FORMAT
            ) from None
        except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested without end
            raise UsageError(f"The script is not JSON: {error}.", where=file, fix=_FORMAT) from None
        if not isinstance(data, dict):
            raise UsageError("The script is not a JSON object.", where=file, fix=_FORMAT)
        if "file" in data:  # ours, not part of the format
            raise UsageError("The script has an unknown key.", where=f"{file}: $.file", fix=_FORMAT)
        try:
            return cls.model_validate({**data, "file": file})
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            place = f"{file}: {_path(problem['loc'])}"
            raise UsageError(
                f"The script is malformed: {problem['msg']}.", where=place, fix=_FORMAT
            ) from None

    def reply(self, role: str, iter_n: int, call_n: int, *, objective: str = "") -> Reply:
        """The reply for a role, iteration and call (both from 1); raise ScriptExhausted past the end."""
        place, part = self._part(objective)
        iterations = part.of(role)
        if iter_n <= len(iterations) and call_n <= len(iterations[iter_n - 1]):
            return iterations[iter_n - 1][call_n - 1]
        raise ScriptExhausted(
            f"The script has no reply for {role}, iteration {iter_n}, call {call_n}.",
            where=self.file,
            fix=f'Add it at {place}"{role}"[{iter_n - 1}][{call_n - 1}].',
        )

    def has(self, role: str, iter_n: int, *, objective: str = "") -> bool:
        """Return whether there is any reply for a role in an iteration."""
        iterations = self._part(objective)[1].of(role)
        return 1 <= iter_n <= len(iterations) and bool(iterations[iter_n - 1])

    def _part(self, objective: str) -> tuple[str, RunReplies]:
        """The part for a run of that objective, and its place in the script."""
        for number, child in enumerate(self.children):
            if re.search(child.match, objective):
                return f'"children"[{number}].', child
        return "", self


def _path(location: tuple[int | str, ...]) -> str:
    if location[:1] == ("sub",):
        location = (location[0], *location[2:])  # without the tag of the union
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)

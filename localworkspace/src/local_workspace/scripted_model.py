"""The model behind the serving endpoints: answers from a script, under its "sub".

"sub" is a list of replies, given by call number, or an object with rules, which answers by what is asked:

    {"rules": [{"match": REGEX, "text": TEMPLATE} | {"match": REGEX, "json": VALUE}, …],
     "otherwise": TEXT, "latency_s": 0.5,
     "failures": [{"match": REGEX, "status": 429, "retry_after": 1, "times": 2}, …],
     "usage": {"input_tokens": N, "output_tokens": N}}

A REGEX is searched for in the whole text of the messages; the first rule that matches wins, and its TEMPLATE
(or every text within its VALUE) may name groups: \\1. The first failure that matches and has `times` left
(absent: for ever) goes before all rules. The model is called on the event loop only, and never waits.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from local_workspace.errors import WorkspaceError, injected, invalid

FORMAT = (
    'write a list of replies [{"text": "…"}, …], or {"rules": [{"match": REGEX, "text": TEMPLATE or "json": '
    'VALUE}, …], "otherwise": TEXT, "latency_s": 0, "failures": [{"match": REGEX, "status": 429, '
    '"retry_after": 1, "times": 2}, …], "usage": {"input_tokens": N, "output_tokens": N}}'
)


@dataclass(frozen=True, kw_only=True)
class ModelAnswer:
    """A reply's text and the tokens that it reports; None: estimated from the text."""

    text: str
    input_tokens: int | None = None
    output_tokens: int | None = None


class ScriptedModel(Protocol):
    """Answers model calls. `latency_s`: seconds that every answer takes."""

    latency_s: float

    def answer(self, prompt: str) -> ModelAnswer:
        """The answer to the text of all messages. Raises ApiError."""


class ScriptedReplies:
    """Answers by call number. The count begins again when the workspace is started again."""

    def __init__(self, replies: list[Any], *, latency_s: float, where: str) -> None:
        self._replies = replies
        self._where = where
        self._calls = itertools.count(1)
        self.latency_s = latency_s

    def answer(self, prompt: str) -> ModelAnswer:  # noqa: ARG002 - the count alone decides
        """The next reply. Raises ApiError (400) past the end, or for a malformed reply."""
        number = next(self._calls)
        if number > len(self._replies):
            raise invalid(
                f'The script {self._where} has {len(self._replies)} replies under "sub", '
                f"and this is call number {number}: add replies"
            )
        found = self._replies[number - 1]
        if not isinstance(found, dict) or not isinstance(found.get("text"), str):
            raise invalid(f'The script {self._where}: reply {number} under "sub" must be {{"text": "…"}}')
        return ModelAnswer(text=found["text"])


@dataclass(frozen=True, kw_only=True)
class _Rule:
    match: re.Pattern[str]
    reply: Any  # a template, or a JSON value of which every text is a template
    is_json: bool


@dataclass(kw_only=True)
class _Fault:
    match: re.Pattern[str]
    status: int
    retry_after: int | None
    left: float  # infinity: for ever


@dataclass(kw_only=True)
class ScriptedRules:
    """Answers by the text of the question."""

    where: str
    rules: list[_Rule] = field(default_factory=list)
    faults: list[_Fault] = field(default_factory=list)
    otherwise: str | None = None
    latency_s: float = 0.0
    usage: tuple[int | None, int | None] = (None, None)

    def answer(self, prompt: str) -> ModelAnswer:
        """The answer of the first rule that matches. Raises ApiError: a failure is due, or none matches."""
        for fault in self.faults:
            if fault.left > 0 and fault.match.search(prompt):
                fault.left -= 1
                message = f"Asked for by the script {self.where}"
                raise injected(fault.status, message, fault.retry_after)
        return ModelAnswer(text=self._text(prompt), input_tokens=self.usage[0], output_tokens=self.usage[1])

    def _text(self, prompt: str) -> str:
        for rule in self.rules:
            if found := rule.match.search(prompt):
                filled = _mapped(rule.reply, found.expand)
                return json.dumps(filled, ensure_ascii=False) if rule.is_json else str(filled)
        if self.otherwise is None:
            raise invalid(
                f'The script {self.where}: no rule under "sub" matches {prompt[:200]!r}: '
                'add a rule, or "otherwise"'
            )
        return self.otherwise


def model_of(document: Mapping[str, Any], where: str) -> ScriptedModel:
    """The model of a script. Raises WorkspaceError naming the place in it and the format."""
    sub, latency = document.get("sub"), document.get("latency_s")
    default = _number(0 if latency is None else latency, f"{where}: $.latency_s")
    if sub is None or isinstance(sub, list):
        return ScriptedReplies(sub or [], latency_s=default, where=where)
    place = f"{where}: $.sub"
    known = {"rules", "otherwise", "latency_s", "failures", "usage"}
    fields = _object(sub, place, known)
    otherwise = fields.get("otherwise")
    if otherwise is not None and not isinstance(otherwise, str):
        raise _malformed(f"{place}.otherwise", "must be a string")
    return ScriptedRules(
        where=where,
        rules=[_rule(item, at) for item, at in _items(fields, "rules", place)],
        faults=[_fault(item, at) for item, at in _items(fields, "failures", place)],
        otherwise=otherwise,
        latency_s=_number(fields.get("latency_s", default), f"{place}.latency_s"),
        usage=_usage(fields.get("usage", {}), f"{place}.usage"),
    )


def read_model(argument: str | None) -> ScriptedModel | None:
    """The model of a `--model` argument (`scripted:FILE`). Raises WorkspaceError when it cannot be read."""
    if not argument:
        return None
    path = Path(argument.removeprefix("scripted:"))
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WorkspaceError(f"--model scripted:{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise WorkspaceError(f"--model scripted:{path} is not a JSON object")
    return model_of(document, str(path))


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """The JSON value with every text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    return value


def _rule(value: Any, place: str) -> _Rule:
    fields = _object(value, place, {"match", "text", "json"})
    if ("text" in fields) == ("json" in fields):
        raise _malformed(place, "must have either 'text' or 'json'")
    is_json = "json" in fields
    reply = fields["json"] if is_json else fields["text"]
    if not is_json and not isinstance(reply, str):
        raise _malformed(f"{place}.text", "must be a string")
    match = _pattern(fields.get("match"), f"{place}.match")

    def check(template: str) -> str:
        try:
            return match.sub(template, "")  # compiles the template, whether or not anything matches
        except (re.error, IndexError) as error:
            raise _malformed(place, f"{template!r} does not fit its 'match': {error}") from None

    _mapped(reply, check)
    return _Rule(match=match, reply=reply, is_json=is_json)


def _fault(value: Any, place: str) -> _Fault:
    fields = _object(value, place, {"match", "status", "retry_after", "times"})
    status, times = _whole(fields, "status", place) or 0, _whole(fields, "times", place)
    if not 400 <= status <= 599:
        raise _malformed(f"{place}.status", "must be an HTTP status from 400 to 599")
    return _Fault(
        match=_pattern(fields.get("match"), f"{place}.match"),
        status=status,
        retry_after=_whole(fields, "retry_after", place),
        left=math.inf if times is None else times,
    )


def _usage(value: Any, place: str) -> tuple[int | None, int | None]:
    fields = _object(value, place, {"input_tokens", "output_tokens"})
    return _whole(fields, "input_tokens", place), _whole(fields, "output_tokens", place)


def _items(fields: Mapping[str, Any], name: str, place: str) -> list[tuple[Any, str]]:
    found = fields.get(name, [])
    if not isinstance(found, list):
        raise _malformed(f"{place}.{name}", "must be a list")
    return [(item, f"{place}.{name}[{at}]") for at, item in enumerate(found)]


def _object(value: Any, place: str, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _malformed(place, "must be an object")
    if unknown := sorted(set(value) - known):
        raise _malformed(f"{place}.{unknown[0]}", f"is unknown; known: {', '.join(sorted(known))}")
    return value


def _pattern(value: Any, place: str) -> re.Pattern[str]:
    if not isinstance(value, str):
        raise _malformed(place, "must be a regular expression")
    try:
        return re.compile(value, re.DOTALL)
    except re.error as error:
        raise _malformed(place, f"is not a regular expression: {error}") from None


def _number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise _malformed(place, "must be seconds, 0 or more")
    return float(value)


def _whole(fields: Mapping[str, Any], name: str, place: str) -> int | None:
    number = fields.get(name)
    if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 0):
        raise _malformed(f"{place}.{name}", "must be a whole number, 0 or more")
    return number


def _malformed(place: str, what: str) -> WorkspaceError:
    return WorkspaceError(f"{place} {what}; {FORMAT}")

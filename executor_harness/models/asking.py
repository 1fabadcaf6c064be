"""One question, from admission to answer: tries, pauses, a repair, and what it all used."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from executor_harness.models import chat, client, meter, shapes
from executor_harness.models.chat import Message, Options
from executor_harness.models.client import Endpoint, Line, Outcome
from executor_harness.models.errors import BudgetExhausted, Kind, NoModel
from executor_harness.models.meter import NOTHING, Amount, Meter
from executor_harness.models.pace import Pace
from executor_harness.protocol import Price
from executor_harness.redaction import Redactor

_TRIES = 7  # with their pauses about half a minute, more where the endpoint says when to come back
_LATE_TRIES = 2  # of those that ended in a time-out: each may have been billed
_STOPPED = "the program was at its end"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked, and its key."""

    key: str
    messages: list[Message]
    options: Options


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of a question. `text` is None where there is no answer; then `kind` and `message` say why."""

    text: str | None = None
    used: Amount = NOTHING
    kind: Kind = "stopped"
    message: str = _STOPPED


class _Given(Exception):  # noqa: N818 -- never leaves this module
    """No answer, for good."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Asker:
    """Asks questions, on any thread. `endpoint` gives a serving endpoint with a credential that is fresh."""

    def __init__(
        self,
        *,
        endpoint: Callable[[str], Endpoint],
        account: Meter,
        pace: Pace,
        prices: Mapping[str, Price],
        redactor: Redactor,
        note: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        self._endpoint = endpoint
        self._meter = account
        self._pace = pace
        self._prices = prices
        self._redactor = redactor
        self._note = note
        self._stop = stop

    def bound(self, question: Question) -> Amount:
        """The most that asking once may use."""
        return meter.most(question.messages, question.options, self._price(question.options))

    def ask(self, question: Question, line: Line) -> Answer:
        """The answer, or why there is none."""
        used: list[Amount] = []
        try:
            text = self._answer(question, line, used)
        except _Given as given:
            message = self._redactor.text(str(given))
            return Answer(used=sum(used, NOTHING), kind=given.kind, message=message)
        except BudgetExhausted as error:
            return Answer(used=sum(used, NOTHING), kind="budget", message=str(error))
        except NoModel as error:
            return Answer(used=sum(used, NOTHING), kind="refused", message=str(error))
        return Answer(text=text, used=sum(used, NOTHING))

    def _answer(self, question: Question, line: Line, used: list[Amount]) -> str:
        schema = question.options.schema
        text = self._text(question.messages, question.options, line, used)
        if schema is None:
            return text
        try:
            return _plain(text, schema)
        except shapes.Misshapen as error:
            messages = [*question.messages, *_repair(text, error)]
        text = self._text(messages, question.options, line, used)
        try:
            return _plain(text, schema)
        except shapes.Misshapen as error:
            raise _Given("schema", f"the answer is not of the shape asked for, twice: {error}") from None

    def _text(self, messages: list[Message], options: Options, line: Line, used: list[Amount]) -> str:
        """A reply's text, with secrets masked; tries again where that may help."""
        body = chat.body_of(messages, options)
        late = renewed = 0
        for tries in range(_TRIES):
            outcome = self._once(messages, options, body, line, used)
            if outcome.text is not None:
                if outcome.cut:
                    self._note(f"replies of {options.model} were cut off at max_tokens={options.max_tokens}")
                return self._redactor.text(outcome.text)
            late += outcome.kind == "timeout"
            again = outcome.again and late < _LATE_TRIES
            if outcome.status == 401 and not renewed:
                renewed = again = True  # the token may have been renewed since it was asked for
            if not again or tries == _TRIES - 1:
                raise _Given(outcome.kind or "reply", _tried(outcome, tries + 1))
            self._rest(client.pause_before(tries, outcome, random.random()), outcome)  # noqa: S311 -- jitter
        raise AssertionError

    def _once(
        self, messages: list[Message], options: Options, body: bytes, line: Line, used: list[Amount]
    ) -> Outcome:
        price = self._price(options)
        bound = meter.most(messages, options, price)
        number = self._meter.admit(bound)
        if number is None:
            raise _Given("stopped", _STOPPED)
        amount = NOTHING
        try:
            self._await_turn()
            endpoint = self._endpoint(options.model)
            amount = bound  # whatever happens from here on, it may have been billed
            outcome = line.ask(endpoint, body)
            amount = self._used(outcome, bound, price)
            return outcome
        finally:
            self._meter.settle(number, amount)
            used.append(amount)

    def _used(self, outcome: Outcome, bound: Amount, price: Price | None) -> Amount:
        if outcome.tokens is not None:
            return meter.used(outcome.tokens, price)
        if outcome.status == 200:
            self._note("a serving endpoint does not tell its usage: its calls count as the most they may use")
        return bound if outcome.billed else NOTHING

    def _await_turn(self) -> None:
        while wait := self._pace.wait_s():
            if self._stop.wait(min(wait, 60.0)):
                break
        if self._stop.is_set():
            raise _Given("stopped", _STOPPED)

    def _rest(self, seconds: float, outcome: Outcome) -> None:
        if outcome.status == 429 and outcome.retry_after:
            self._pace.quiet(outcome.retry_after)  # it is the endpoint that is busy, not this question
        if self._stop.wait(seconds):
            raise _Given("stopped", _STOPPED)

    def _price(self, options: Options) -> Price | None:
        return self._prices.get(options.model)


def _plain(text: str, schema: dict[str, Any]) -> str:
    return json.dumps(shapes.read(text, schema), ensure_ascii=False)


def _repair(text: str, error: shapes.Misshapen) -> list[Message]:
    wish = f"That cannot be used: {error}. Reply with the corrected JSON only, without any other word."
    return [{"role": "assistant", "content": text}, {"role": "user", "content": wish}]


def _tried(outcome: Outcome, tries: int) -> str:
    return outcome.message if tries == 1 else f"{outcome.message} (tried {tries} times)"

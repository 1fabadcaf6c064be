"""One question, from admission to answer: its turn, retries, pauses, a repair, and what it all used."""

from __future__ import annotations

import json
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from executor_harness.protocol import Price
from executor_harness.redaction import Redactor
from executor_harness.rlm import amounts, chat, client, schema_check
from executor_harness.rlm.amounts import NOTHING, Amount
from executor_harness.rlm.chat import BudgetExhausted, Kind, Message, NoModel, Options, Question
from executor_harness.rlm.client import Connection, Endpoint, Outcome
from executor_harness.rlm.meter import Meter

_TRIES = 7  # with their pauses about half a minute, more where the endpoint says when to come back
_TIMEOUT_TRIES = 2  # of those that ended in a time-out: each may have been billed
_MESSAGE_CHARS = 700
_STOPPED = "the program was at its end"
_MINUTE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class CallResult:
    """The outcome of a question. `text` is None without an answer; then `kind` and `message` say why."""

    text: str | None = None
    used: Amount = NOTHING
    kind: Kind = "stopped"
    message: str = _STOPPED


class _NoAnswer(Exception):  # noqa: N818 -- never leaves this module
    """No answer, for good."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class RateLimit:
    """When the next call may go: at most so many in any minute (None: no limit), and none while the endpoint
    asks for a pause. Shared by all threads. `clock` is monotonic, in seconds; `sent_ago` are earlier calls.

    The last minute's calls are kept one by one: a token bucket would let twice as many through in the minute
    after an idle one.
    """

    def __init__(
        self, per_minute: int | None, clock: Callable[[], float], sent_ago: Iterable[float] = ()
    ) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._lock = threading.Lock()
        self._sent: deque[float] = deque(sorted(clock() - age for age in sent_ago))
        self._paused_until = 0.0
        self._lent = 0

    def wait_s(self) -> float:
        """0 when a call may go now, and then it counts; else seconds after which to ask again."""
        with self._lock:
            now = self._clock()
            if now < self._paused_until:
                return self._paused_until - now
            if self._per_minute is None:
                return 0.0
            self._forget(now)
            limit = self._per_minute - self._lent
            if limit <= 0:
                return 1.0
            if len(self._sent) >= limit:
                return self._sent[len(self._sent) - limit] + _MINUTE_S - now
            self._sent.append(now)
            return 0.0

    def lend(self) -> int | None:
        """Most of the limit, for calls that are made elsewhere until `give_back`; None: no limit."""
        with self._lock:
            if self._per_minute is None:
                return None
            self._lent = max(1, self._per_minute - max(1, self._per_minute // 8))
            return self._lent

    def give_back(self, ages: Iterable[float]) -> None:
        """End the loan. Calls elsewhere began so many seconds ago."""
        with self._lock:
            self._lent = 0
            now = self._clock()
            if self._per_minute is not None:
                self._sent = deque(sorted([*self._sent, *(now - age for age in ages)]))

    def ages(self) -> list[float]:
        """How many seconds ago the calls of the last minute began; none where there is no limit."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            return [now - sent for sent in self._sent]

    def pause(self, seconds: float) -> None:
        """Let nobody send for so long (429 with Retry-After)."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock() + seconds)

    def _forget(self, now: float) -> None:
        while self._sent and now - self._sent[0] >= _MINUTE_S:
            self._sent.popleft()


class Asker:
    """Asks questions, on any thread. `endpoint` gives a serving endpoint with a fresh credential."""

    def __init__(
        self,
        *,
        endpoint: Callable[[str], Endpoint],
        meter: Meter,
        rate: RateLimit,
        prices: Mapping[str, Price],
        redactor: Redactor,
        note: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        self._endpoint = endpoint
        self._meter = meter
        self._rate = rate
        self._prices = prices
        self._redactor = redactor
        self._note = note
        self._stop = stop

    def bound(self, question: Question) -> Amount:
        """The most that asking once may use."""
        return amounts.most(question.messages, question.options, self._price(question.options))

    def ask(self, question: Question, connection: Connection) -> CallResult:
        """The answer, or why there is none."""
        used: list[Amount] = []
        try:
            text = self._answer(question, connection, used)
            return CallResult(text=text, used=sum(used, NOTHING))
        except _NoAnswer as error:
            kind, message = error.kind, self._redactor.text(str(error))
        except BudgetExhausted as error:
            kind, message = "budget", str(error)
        except NoModel as error:
            kind, message = "refused", str(error)
        return CallResult(used=sum(used, NOTHING), kind=kind, message=message)

    def _answer(self, question: Question, connection: Connection, used: list[Amount]) -> str:
        schema = question.options.schema
        text = self._text(question.messages, question.options, connection, used)
        if schema is None:
            return text
        try:
            return _canonical(text, schema)
        except schema_check.SchemaMismatch as error:
            messages = [*question.messages, *_repair(text, error)]
        text = self._text(messages, question.options, connection, used)
        try:
            return _canonical(text, schema)
        except schema_check.SchemaMismatch as error:
            raise _NoAnswer("schema", f"the answer is not of the shape asked for, twice: {error}") from None

    def _text(
        self, messages: list[Message], options: Options, connection: Connection, used: list[Amount]
    ) -> str:
        """A reply's text, with secrets masked; retries where that may help."""
        body = chat.body_of(messages, options)
        timeouts = renewed = 0
        for tries in range(_TRIES):
            outcome = self._once(messages, options, body, connection, used)
            if outcome.text is not None:
                if outcome.cut:
                    self._note(f"replies of {options.model} were cut off at max_tokens={options.max_tokens}")
                return self._redactor.text(outcome.text)
            timeouts += outcome.kind == "timeout"
            retry = outcome.retry and timeouts < _TIMEOUT_TRIES
            if outcome.status == 401 and not renewed:
                renewed = retry = True  # the token may have been renewed since it was asked for
            if not retry or tries == _TRIES - 1:
                tried = f" (tried {tries + 1} times)" if tries else ""
                message = self._redactor.text(outcome.message)[:_MESSAGE_CHARS]  # cut only when it is masked
                raise _NoAnswer(outcome.kind or "reply", message + tried)
            self._pause(client.pause_before(tries, outcome, random.random()), outcome)  # noqa: S311 -- jitter
        raise AssertionError

    def _once(
        self,
        messages: list[Message],
        options: Options,
        body: bytes,
        connection: Connection,
        used: list[Amount],
    ) -> Outcome:
        price = self._price(options)
        bound = amounts.most(messages, options, price)
        number = self._meter.admit(bound)
        if number is None:
            raise _NoAnswer("stopped", _STOPPED)
        amount = NOTHING
        try:
            self._await_rate()
            endpoint = self._endpoint(options.model)
            amount = bound  # whatever happens from here on, it may have been billed
            outcome = connection.ask(endpoint, body)
            amount = self._used(outcome, bound, price)
            return outcome
        finally:
            self._meter.settle(number, amount)
            used.append(amount)

    def _used(self, outcome: Outcome, bound: Amount, price: Price | None) -> Amount:
        if outcome.tokens is not None:
            return amounts.used(outcome.tokens, price)
        if outcome.status == 200:
            self._note("a serving endpoint reports no usage: its calls count as the most they may use")
        return bound if outcome.billed else NOTHING

    def _await_rate(self) -> None:
        while wait := self._rate.wait_s():
            if self._stop.wait(min(wait, 60.0)):
                break
        if self._stop.is_set():
            raise _NoAnswer("stopped", _STOPPED)

    def _pause(self, seconds: float, outcome: Outcome) -> None:
        if outcome.status == 429 and outcome.retry_after:
            self._rate.pause(outcome.retry_after)  # it is the endpoint that is busy, not this question
        if self._stop.wait(seconds):
            raise _NoAnswer("stopped", _STOPPED)

    def _price(self, options: Options) -> Price | None:
        return self._prices.get(options.model)


def _canonical(text: str, schema: dict[str, Any]) -> str:
    return json.dumps(schema_check.read(text, schema), ensure_ascii=False)


def _repair(text: str, error: schema_check.SchemaMismatch) -> list[Message]:
    wish = f"That cannot be used: {error}. Reply with the corrected JSON only, without any other word."
    return [{"role": "assistant", "content": text}, {"role": "user", "content": wish}]

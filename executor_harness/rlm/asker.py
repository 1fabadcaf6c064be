"""Ask questions: each from admission to answer, with its turn, retries, pauses and a repair; and the threads
that do it, as many as calls may be made at once, shared by all threads of the program.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace

from executor_harness.protocol import Price
from executor_harness.redaction import Redactor
from executor_harness.rlm import chat, client, meter
from executor_harness.rlm.chat import BudgetExhausted, Kind, Message, NoModel, Question
from executor_harness.rlm.client import Connection, Endpoint, Outcome
from executor_harness.rlm.meter import NOTHING, Amount, Meter, RateLimit

_TRIES = 7  # with their pauses about half a minute, more where the endpoint says when to come back
_TIMEOUT_TRIES = 2  # of those that ended in a time-out: each may have been billed
_MESSAGE_CHARS = 700
_JOIN_S = 2.0
_MANY = 16  # places, of which one is always kept for single questions
_POLL_S = 0.2  # an interruption of the thread that waits must come through
_STOPPED = "the program was at its end"


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


@dataclass(frozen=True, kw_only=True)
class Asker:
    """Asks questions, on any thread. `endpoint` gives a serving endpoint with a fresh credential."""

    endpoint: Callable[[str], Endpoint]
    meter: Meter
    rate: RateLimit
    prices: Mapping[str, Price]
    redactor: Redactor
    note: Callable[[str], None]
    stop: threading.Event

    def bound(self, question: Question) -> Amount:
        """The most that asking once may use."""
        return meter.most(question.messages, question.options, self._price(question))

    def ask(self, question: Question, connection: Connection) -> CallResult:
        """The answer, or why there is none."""
        used: list[Amount] = []
        try:
            text = self._answer(question, connection, used)
            return CallResult(text=text, used=sum(used, NOTHING))
        except _NoAnswer as error:
            kind, message = error.kind, self.redactor.text(str(error))
        except BudgetExhausted as error:
            kind, message = "budget", str(error)
        except NoModel as error:
            kind, message = "refused", str(error)
        return CallResult(used=sum(used, NOTHING), kind=kind, message=message)

    def _answer(self, question: Question, connection: Connection, used: list[Amount]) -> str:
        schema = question.options.schema
        text = self._text(question, connection, used)
        if schema is None:
            return text
        try:
            return chat.canonical(text, schema)
        except chat.SchemaMismatch as error:
            question = replace(question, messages=[*question.messages, *_repair(text, error)])
        try:
            return chat.canonical(self._text(question, connection, used), schema)
        except chat.SchemaMismatch as error:
            raise _NoAnswer("schema", f"the answer is not of the shape asked for, twice: {error}") from None

    def _text(self, question: Question, connection: Connection, used: list[Amount]) -> str:
        """A reply's text, with secrets masked; retries where that may help."""
        options, timeouts, renewed = question.options, 0, False
        for tries in range(_TRIES):
            outcome = self._once(question, connection, used)
            if outcome.text is not None:
                if outcome.cut:
                    self.note(f"replies of {options.model} were cut off at max_tokens={options.max_tokens}")
                return self.redactor.text(outcome.text)
            timeouts += outcome.kind == "timeout"
            retry = outcome.retry and timeouts < _TIMEOUT_TRIES
            if outcome.status == 401 and not renewed:
                renewed = retry = True  # the token may have been renewed since it was asked for
            if not retry or tries == _TRIES - 1:
                tried = f" (tried {tries + 1} times)" if tries else ""
                message = self.redactor.text(outcome.message)[:_MESSAGE_CHARS]  # cut only when it is masked
                raise _NoAnswer(outcome.kind or "reply", message + tried)
            self._pause(client.pause_before(tries, outcome, random.random()), outcome)  # noqa: S311 -- jitter
        raise AssertionError

    def _once(self, question: Question, connection: Connection, used: list[Amount]) -> Outcome:
        bound = self.bound(question)
        number = self.meter.admit(bound)
        if number is None:
            raise _NoAnswer("stopped", _STOPPED)
        amount = NOTHING
        try:
            self._await_rate()
            endpoint = self.endpoint(question.options.model)
            amount = bound  # whatever happens from here on, it may have been billed
            outcome = connection.ask(endpoint, chat.body_of(question.messages, question.options))
            amount = self._used(outcome, bound, self._price(question))
            return outcome
        finally:
            self.meter.settle(number, amount)
            used.append(amount)

    def _used(self, outcome: Outcome, bound: Amount, price: Price | None) -> Amount:
        if outcome.tokens is not None:
            return meter.used(outcome.tokens, price)
        if outcome.status == 200:
            self.note("a serving endpoint reports no usage: its calls count as the most they may use")
        return bound if outcome.billed else NOTHING

    def _await_rate(self) -> None:
        while wait := self.rate.wait_s():
            if self.stop.wait(min(wait, 60.0)):
                break
        if self.stop.is_set():
            raise _NoAnswer("stopped", _STOPPED)

    def _pause(self, seconds: float, outcome: Outcome) -> None:
        if outcome.status == 429 and outcome.retry_after:
            self.rate.pause(outcome.retry_after)  # it is the endpoint that is busy, not this question
        if self.stop.wait(seconds):
            raise _NoAnswer("stopped", _STOPPED)

    def _price(self, question: Question) -> Price | None:
        return self.prices.get(question.options.model)


def _repair(text: str, error: chat.SchemaMismatch) -> list[Message]:
    wish = f"That cannot be used: {error}. Reply with the corrected JSON only, without any other word."
    return [{"role": "assistant", "content": text}, {"role": "user", "content": wish}]


@dataclass(eq=False)
class _Task:
    """A question, how many callers wait for it, and the answer once it is over."""

    question: Question
    waiting: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    answer: CallResult = CallResult()


class Pool:
    """`work` answers a question on a connection that `connect` makes, one to a thread."""

    def __init__(
        self, size: int, connect: Callable[[], Connection], work: Callable[[Question, Connection], CallResult]
    ) -> None:
        self._size = size
        self._connect = connect
        self._work = work
        self._changed = threading.Condition()
        self._queue: deque[_Task] = deque()
        self._tasks: dict[str, _Task] = {}  # queued, or being asked
        self._threads: list[threading.Thread] = []
        self._connections: set[Connection] = set()
        self._busy = self._lent = 0
        self._lending: object = None
        self._closed = False

    def ask(self, questions: Iterable[Question]) -> dict[str, CallResult]:
        """The answers by key. A question that another thread is asking already is not asked twice."""
        tasks: list[_Task] = []
        try:
            self._submit({question.key: question for question in questions}.values(), tasks)
            for task in tasks:
                while not task.over.wait(_POLL_S):
                    pass
        finally:
            self._abandon(tasks)
        return {task.question.key: task.answer for task in tasks}

    def prepare(self, questions: int) -> None:
        """So many may come: start threads and open connections for them."""
        with self._changed:
            if not self._closed:
                self._start(questions)

    @contextmanager
    def lend(self) -> Iterator[int]:
        """How many calls may be made elsewhere meanwhile; for one borrower at a time.

        Half of all while questions are being asked here; else all, or all but one where there are many: a
        single question should not wait for thousands.
        """
        turn = object()
        try:
            yield self._lend(turn)
        finally:
            with self._changed:
                if self._lending is turn:
                    self._lent, self._lending = 0, None
                self._changed.notify_all()

    def close(self) -> None:
        """Drop what was not asked, cut what is being asked, and end the threads."""
        with self._changed:
            self._closed = True
            for task in self._queue:
                self._finish(task, CallResult())
            self._queue.clear()
            for connection in self._connections:
                connection.cut()
            self._changed.notify_all()
            threads = list(self._threads)
        deadline = _JOIN_S
        for thread in threads:
            thread.join(deadline)
            deadline = 0.05 if thread.is_alive() else deadline

    def _submit(self, questions: Iterable[Question], tasks: list[_Task]) -> None:
        """Queue what nobody asks yet; `tasks` gets one for each question."""
        with self._changed:
            for question in questions:
                task = self._tasks.get(question.key)
                if task is None:
                    task = _Task(question)
                    if self._closed:
                        task.over.set()
                    else:
                        self._tasks[question.key] = task
                        self._queue.append(task)
                task.waiting += 1
                tasks.append(task)
            self._start(len(self._queue))
            self._changed.notify_all()

    def _start(self, wanted: int) -> None:
        """Have so many threads without a task, as far as there may be. Called under the lock."""
        free = len(self._threads) - self._busy
        for _ in range(min(wanted - free, self._size - len(self._threads))):
            thread = threading.Thread(target=self._run, name="rlm-call", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _lend(self, turn: object) -> int:
        with self._changed:
            while self._lending and not self._closed:
                self._changed.wait(_POLL_S)
            self._lending = turn
            all_ = self._size if self._size < _MANY else self._size - 1
            lent = max(1, self._size // 2) if self._tasks else all_
            while lent == self._size and self._tasks and not self._closed:
                self._changed.wait(_POLL_S)  # a single place: those who wait for it already go first
            self._lent = lent
            while self._busy > self._size - lent and not self._closed:
                self._changed.wait(_POLL_S)
            return lent

    def _abandon(self, tasks: list[_Task]) -> None:
        """A caller waits no more: what it alone wanted, and was not asked yet, is not asked."""
        if all(task.over.is_set() for task in tasks):
            return
        with self._changed:
            for task in tasks:
                task.waiting -= 1
            for task in self._queue:
                if not task.waiting:
                    del self._tasks[task.question.key]
            self._queue = deque(task for task in self._queue if task.waiting)

    def _run(self) -> None:
        with closing(self._connect()) as connection:
            with self._changed:
                self._connections.add(connection)
            connection.open()
            while (task := self._next()) is not None:
                answer = self._answer(task.question, connection)
                with self._changed:
                    self._busy -= 1
                    self._finish(task, answer)

    def _answer(self, question: Question, connection: Connection) -> CallResult:
        try:
            return self._work(question, connection)
        except Exception as error:  # noqa: BLE001 -- into the slot: else somebody waits for ever
            return CallResult(kind="refused", message=f"{type(error).__name__}: {error}")

    def _next(self) -> _Task | None:
        with self._changed:
            while not (self._queue and self._busy < self._size - self._lent) and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            self._busy += 1
            return self._queue.popleft()

    def _finish(self, task: _Task, answer: CallResult) -> None:
        self._tasks.pop(task.question.key, None)
        task.answer = answer
        task.over.set()

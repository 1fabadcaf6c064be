"""Threads that ask: as many as calls may be made at once, shared by all threads of the program."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from executor_harness.rlm.asker import CallResult
from executor_harness.rlm.chat import Question
from executor_harness.rlm.client import Connection

_JOIN_S = 2.0
_MANY = 16  # places, of which one is always kept for single questions
_POLL_S = 0.2  # an interruption of the thread that waits must come through


class _Batch:
    """Questions that one caller waits for."""

    def __init__(self, questions: int) -> None:
        self.left = questions
        self._over = threading.Event()
        self.answers: dict[str, CallResult] = {}

    def wait(self) -> None:
        """Until all are answered, or were given up."""
        while self.left and not self._over.wait(_POLL_S):
            pass

    def take(self, key: str, answer: CallResult) -> None:
        """An answer is there. Called under the pool's lock."""
        self.answers[key] = answer
        self.left -= 1
        if not self.left:
            self._over.set()


@dataclass(eq=False)
class _Task:
    question: Question
    batches: list[_Batch]


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
        todo = {question.key: question for question in questions}
        batch = _Batch(len(todo))
        try:
            self._submit(todo.values(), batch)
            batch.wait()
        finally:
            self._abandon(batch)
        return batch.answers

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

    def _submit(self, questions: Iterable[Question], batch: _Batch) -> None:
        with self._changed:
            for question in questions:
                known = self._tasks.get(question.key)
                if self._closed:
                    batch.take(question.key, CallResult())
                elif known is not None:
                    known.batches.append(batch)
                else:
                    self._tasks[question.key] = task = _Task(question, [batch])
                    self._queue.append(task)
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

    def _abandon(self, batch: _Batch) -> None:
        """Nobody waits for it any more: what it alone wanted, and was not asked yet, is not asked."""
        if not batch.left:
            return
        with self._changed:
            for task in self._queue:
                task.batches = [other for other in task.batches if other is not batch]
                if not task.batches:
                    del self._tasks[task.question.key]
            self._queue = deque(task for task in self._queue if task.batches)

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
        for batch in task.batches:
            batch.take(task.question.key, answer)

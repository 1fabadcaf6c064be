"""The sessions of a run: opened before they are needed, and cancelled when the run is interrupted."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from databricks_rlm_agent.errors import Unreachable
from databricks_rlm_agent.values import Row, SqlEngine, SqlSession

S = TypeVar("S", bound=SqlSession)

# Older sessions are not used: warehouses end idle ones, and only the first statement would find that out.
MAX_AGE_S = 60.0
_CONCURRENT_OPENS = 4  # the first session is needed at once, the others a little later
_CLOSE_TIMEOUT_S = 5.0  # of the pool, for sessions being opened or closed; a warehouse ends the rest itself


class InterruptedRunError(Exception):
    """The run is being interrupted; raised in the thread of a step."""


class TakenOverError(InterruptedRunError):
    """Another process has taken the run over; ``owner`` names it."""

    def __init__(self, owner: str) -> None:
        super().__init__(f"The run was taken over by {owner}.")
        self.owner = owner


class Interruption:
    """Interrupts a run: cancels its sessions and wakes its waits.

    Safe to use from any thread, and from a signal handler.
    """

    def __init__(self) -> None:
        self._requested = threading.Event()
        self.taken_over: TakenOverError | None = None
        self._sessions: list[SqlSession] = []  # its operations are atomic: no lock in a signal handler

    @property
    def requested(self) -> bool:
        """Return whether the run is to end."""
        return self._requested.is_set()

    def request(self, taken_over: TakenOverError | None = None) -> None:
        """End the run, because another process has taken it over if that is given.

        ``cancel`` ends the statements that run now.
        """
        self.taken_over = taken_over or self.taken_over
        self._requested.set()

    def cancel(self) -> None:
        """Cancel all running statements. Repeat it until all steps have ended: one may just be starting."""
        for session in list(self._sessions):
            session.cancel()

    def check(self) -> None:
        """Raise InterruptedRunError if the run is to end."""
        if self.requested:
            raise InterruptedRunError

    def wait(self, seconds: float) -> None:
        """Wait; raise InterruptedRunError as soon as the run is to end."""
        self._requested.wait(seconds)
        self.check()

    @contextmanager
    def cancelling(self, session: S) -> Iterator[S]:
        """Cancel the session when the run is interrupted; close it at the end."""
        self._sessions.append(session)
        try:
            yield session
        finally:
            self._sessions.remove(session)
            session.close()


class SessionPool:
    """An engine over another one that keeps ``spare`` sessions open in advance. A context manager.

    A session costs a connection, a sign-in and a round trip, and a workflow opens one for every file: each
    would delay the critical path. ``expected`` is how many sessions will be asked for in all; when as many
    have been opened, one spare is enough. Sessions are closed in the background.

    Safe to use from several threads. An error while opening a session is raised to whoever asks for one.
    """

    def __init__(
        self, engine: SqlEngine, *, spare: int, expected: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine, self._spare, self._monotonic = engine, spare, monotonic
        self._still_expected = expected
        self._lock = threading.Lock()
        self._ready: deque[tuple[float, Future[SqlSession]]] = deque()
        self._slots = threading.BoundedSemaphore(_CONCURRENT_OPENS)
        self._threads: set[threading.Thread] = set()
        self._closed = False

    def __enter__(self) -> SessionPool:
        self._fill()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
            unused = [opening for _since, opening in self._ready]
            self._ready.clear()
        for opening in unused:
            opening.add_done_callback(self._discard)
        deadline = self._monotonic() + _CLOSE_TIMEOUT_S
        while (thread := self._any_thread()) and (seconds := deadline - self._monotonic()) > 0:
            thread.join(seconds)

    def _any_thread(self) -> threading.Thread | None:
        with self._lock:  # one that is being started cannot be joined yet
            return next(iter(self._threads), None)

    def session(self) -> SqlSession:
        """Return the session that has been open, or being opened, for longest; else open one."""
        while (opening := self._next()) is not None:
            self._fill()
            try:
                return _PooledSession(opening.result(), self._in_background)
            except Exception:  # noqa: BLE001 - whatever it was: if it lasts, the attempt below meets it
                break
        self._fill()
        return _PooledSession(self._engine.session(), self._in_background)

    def _next(self) -> Future[SqlSession] | None:
        while True:
            with self._lock:
                if not self._ready:
                    return None
                since, opening = self._ready.popleft()
            if self._monotonic() - since <= MAX_AGE_S:
                return opening
            opening.add_done_callback(self._discard)

    def _fill(self) -> None:
        with self._lock:
            while not self._closed and len(self._ready) < (self._spare if self._still_expected > 0 else 1):
                self._still_expected -= 1
                opening: Future[SqlSession] = Future()
                self._ready.append((self._monotonic(), opening))
                self._start(partial(self._open, opening))

    def _open(self, opening: Future[SqlSession]) -> None:
        try:
            with self._slots:
                if self._closed:
                    raise Unreachable("The session is not needed any more.")
                session = self._engine.session()
        except BaseException as error:  # noqa: BLE001 - raised to whoever takes the session
            opening.set_exception(error)
        else:
            opening.set_result(session)

    def _discard(self, opening: Future[SqlSession]) -> None:
        if opening.exception() is None:
            self._in_background(opening.result().close)

    def _in_background(self, call: Callable[[], None]) -> None:
        with self._lock:
            self._start(call)

    def _start(self, call: Callable[[], None]) -> None:
        """Run ``call`` in a daemon thread, which does not keep the process alive. Needs the lock."""

        def run() -> None:
            try:
                call()
            finally:
                with self._lock:
                    self._threads.discard(thread)

        thread = threading.Thread(target=run, name="sql-session", daemon=True)
        self._threads.add(thread)
        thread.start()


class _PooledSession:
    """A session that is closed in the background."""

    def __init__(self, session: SqlSession, in_background: Callable[[Callable[[], None]], None]) -> None:
        self._session, self._in_background, self._closed = session, in_background, False

    @property
    def alive(self) -> bool:
        return not self._closed and self._session.alive

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int | None:
        return self._session.execute(sql, parameters)

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Row]:
        return self._session.fetch(sql, parameters)

    def cancel(self) -> None:
        self._session.cancel()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._in_background(self._session.close)

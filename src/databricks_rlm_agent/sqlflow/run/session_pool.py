"""Sessions that are open before they are asked for, and closed behind whoever is done with them.

A session costs a connection, a sign-in and a round trip, and a workflow opens one for every file: each on the
critical path would wait for it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any

from databricks_rlm_agent.errors import Unreachable
from databricks_rlm_agent.values import Row, SqlEngine, SqlSession

# Older ones are not used: warehouses end sessions that lie idle, and only the first statement would tell.
MAX_AGE_S = 60.0
# So many are opened at the same time: the first is needed at once, the others a little later.
_LANES = 4
# How long the end waits for what is still being opened or closed; a warehouse ends it later by itself.
_PATIENCE_S = 5.0


class SessionPool:
    """An Engine over another one, which keeps ``spare`` sessions ready. To be used as a context manager.

    When as many have been opened as are ``expected`` to be asked for in all, one is enough.

    Safe to use from several threads. What stands against opening a session is told to who asks for one.
    """

    def __init__(
        self, engine: SqlEngine, *, spare: int, expected: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine, self._spare, self._monotonic = engine, spare, monotonic
        self._left = expected
        self._lock = threading.Lock()
        self._ready: deque[tuple[float, Future[SqlSession]]] = deque()
        self._lanes = threading.BoundedSemaphore(_LANES)
        self._threads: set[threading.Thread] = set()
        self._ended = False

    def __enter__(self) -> SessionPool:
        self._fill()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._ended = True
            left = [opening for _since, opening in self._ready]
            self._ready.clear()
        for opening in left:
            opening.add_done_callback(self._discard)
        deadline = self._monotonic() + _PATIENCE_S
        while (thread := self._working()) and (wait := deadline - self._monotonic()) > 0:
            thread.join(wait)

    def _working(self) -> threading.Thread | None:
        with self._lock:  # one that is being started cannot be joined yet
            return next(iter(self._threads), None)

    def session(self) -> SqlSession:
        """The session that has been open, or is being opened, for longest; else a new one."""
        while (opening := self._next()) is not None:
            self._fill()
            try:
                return _Lent(opening.result(), self._behind)
            except Exception:  # noqa: BLE001 - whatever it was: if it lasts, the attempt below meets it
                break
        self._fill()
        return _Lent(self._engine.session(), self._behind)

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
            while not self._ended and len(self._ready) < (self._spare if self._left > 0 else 1):
                self._left -= 1
                opening: Future[SqlSession] = Future()
                self._ready.append((self._monotonic(), opening))
                self._start(partial(self._open, opening))

    def _open(self, opening: Future[SqlSession]) -> None:
        try:
            with self._lanes:
                if self._ended:
                    raise Unreachable("It is not needed any more.")
                session = self._engine.session()
        except BaseException as error:  # noqa: BLE001 - handed to who takes the session
            opening.set_exception(error)
        else:
            opening.set_result(session)

    def _discard(self, opening: Future[SqlSession]) -> None:
        if opening.exception() is None:
            self._behind(opening.result().close)

    def _behind(self, work: Callable[[], None]) -> None:
        with self._lock:
            self._start(work)

    def _start(self, work: Callable[[], None]) -> None:
        """Work in the background. The lock is held. A daemon: a warehouse that hangs keeps no process."""

        def run() -> None:
            try:
                work()
            finally:
                with self._lock:
                    self._threads.discard(thread)

        thread = threading.Thread(target=run, name="sql-session", daemon=True)
        self._threads.add(thread)
        thread.start()


class _Lent:
    """A session whose user does not wait for its end."""

    def __init__(self, session: SqlSession, behind: Callable[[Callable[[], None]], None]) -> None:
        self._session, self._behind, self._closed = session, behind, False

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
            self._behind(self._session.close)

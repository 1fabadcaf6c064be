"""A session for statements that are safe to send again. It is opened late, and again when it is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from databricks_rlm_agent.errors import RlmError
from databricks_rlm_agent.retry import STATEMENTS
from databricks_rlm_agent.values import Row, Sleep


class Session(Protocol):
    """One session of a warehouse, with its own USE, SET and temporary views. Errors are RemoteErrors.

    One statement at a time; ``cancel`` from any thread.
    """

    @property
    def alive(self) -> bool:
        """False once it is lost, and with it what belonged to it. It is never opened again in silence."""

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int | None:
        """Run a statement; how many rows it changed, None where the warehouse does not say."""

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Row]:
        """Run a query and return its rows."""

    def cancel(self) -> None:
        """Ask for the end of the statement that runs now, if one does. Never raises."""

    def close(self) -> None:
        """End it. Never raises."""


class Engine(Protocol):
    """Opens sessions. Safe to use from several threads."""

    def session(self) -> Session:
        """A new session, in the workflow's catalog and schema."""


T = TypeVar("T")


class RetryingSession:
    """Repeats every statement on passing faults, as ``retries`` has it. Safe to use from several threads."""

    def __init__(self, engine: Engine, sleep: Sleep) -> None:
        self._engine, self._sleep = engine, sleep
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._cancelled = False

    @property
    def alive(self) -> bool:
        """Until it is closed for good."""
        return not self._cancelled

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Row]:
        """Run a query and return its rows."""
        return self._steadily(lambda session: session.fetch(sql, parameters))

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int | None:
        """Run a statement; how many rows it changed."""
        return self._steadily(lambda session: session.execute(sql, parameters))

    def cancel(self) -> None:
        """Cancel the statement that runs now; it is not sent again."""
        self._cancelled = True
        session = self._session
        if session is not None:
            session.cancel()

    def close(self) -> None:
        """End the session."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _steadily(self, call: Callable[[Session], T]) -> T:
        def once() -> T:
            if self._session is None or not self._session.alive:
                self._session = self._engine.session()
            return call(self._session)

        with self._lock:
            answer: T = STATEMENTS.retrying(self._pause)(once)
            return answer

    def _pause(self, seconds: float) -> None:
        if self._cancelled:
            raise RlmError("It was cancelled.")
        self._sleep(seconds)

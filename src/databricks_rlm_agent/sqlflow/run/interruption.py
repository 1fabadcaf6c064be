"""The way to stop a workflow from outside: what runs is cancelled, what waits wakes up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from databricks_rlm_agent.values import SqlSession

S = TypeVar("S", bound=SqlSession)


class InterruptedRunError(Exception):
    """The workflow is being interrupted; raised in the thread of a step."""


class TakenOverError(InterruptedRunError):
    """Another process goes on with the run; ``owner`` says which."""

    def __init__(self, owner: str) -> None:
        super().__init__(f"The run was taken over by {owner}.")
        self.owner = owner


class Interruption:
    """Knows the sessions at work. Safe to use from any thread, and from a signal handler."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self.taken_over: TakenOverError | None = None
        self._sessions: list[SqlSession] = []  # list operations below are atomic: no lock in a signal handler

    @property
    def asked(self) -> bool:
        """Whether the workflow is to end."""
        return self._asked.is_set()

    def ask(self) -> None:
        """End the workflow; what runs is cancelled by ``cancel``."""
        self._asked.set()

    def lost(self, error: TakenOverError) -> None:
        """End the workflow, since another process has taken it over."""
        self.taken_over = error
        self._asked.set()

    def cancel(self) -> None:
        """Cancel what runs. To be repeated until all steps have ended: a statement may just be starting."""
        for session in list(self._sessions):
            session.cancel()

    def check(self) -> None:
        """Raise InterruptedRunError if the workflow is to end."""
        if self.asked:
            raise InterruptedRunError

    def wait(self, seconds: float) -> None:
        """Wait, and raise InterruptedRunError as soon as the workflow is to end."""
        self._asked.wait(seconds)
        self.check()

    @contextmanager
    def watching(self, session: S) -> Iterator[S]:
        """A session that is cancelled with the workflow, and closed at the end."""
        self._sessions.append(session)
        try:
            yield session
        finally:
            self._sessions.remove(session)
            session.close()

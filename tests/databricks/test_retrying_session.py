"""RetryingSession over scripted sessions: what is sent again, in which session, and what is not."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from databricks_rlm_agent.errors import Forbidden, Rejected, RlmError, Unauthorized, Unreachable
from databricks_rlm_agent.retry import STATEMENTS, RetryingSession


class Engine:
    """Opens sessions whose statements end as scripted: an error, or "lost" for one that ends the session."""

    def __init__(self, *script: Exception | str) -> None:
        self.script = list(script)
        self.sessions: list[Session] = []
        self.sent: list[int] = []

    def session(self) -> Session:
        self.sessions.append(Session(self, len(self.sessions)))
        return self.sessions[-1]


class Session:
    def __init__(self, engine: Engine, number: int) -> None:
        self.engine, self.number, self.alive, self.cancelled = engine, number, True, False

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int | None:
        self.engine.sent.append(self.number)
        step = self.engine.script.pop(0) if self.engine.script else ""
        if step == "lost":
            self.alive = False
            raise Unreachable("The session is gone.")
        if isinstance(step, Exception):
            raise step
        return 1

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Mapping[str, Any]]:
        return [{"n": self.execute(sql, parameters)}]

    def cancel(self) -> None:
        self.cancelled = True

    def close(self) -> None:
        self.alive = False


def session_of(engine: Engine) -> tuple[RetryingSession, list[float]]:
    waits: list[float] = []
    return RetryingSession(engine.session, waits.append), waits


def test_it_is_opened_when_it_is_first_used_and_again_when_it_was_lost_or_closed() -> None:
    engine = Engine("", "lost")
    session, waits = session_of(engine)
    assert engine.sessions == []
    assert session.execute("x") == 1
    assert session.fetch("x") == [{"n": 1}]
    assert (engine.sent, len(waits)) == ([0, 0, 1], 1)
    session.close()
    assert session.execute("x") == 1
    assert engine.sent == [0, 0, 1, 2]


def test_transient_errors_are_repeated_in_the_same_session_as_long_as_the_table_allows() -> None:
    engine = Engine(*[Unreachable("x")] * 100)
    session, waits = session_of(engine)
    with pytest.raises(Unreachable):
        session.execute("x")
    assert engine.sent == [0] * STATEMENTS.attempts
    assert len(waits) == STATEMENTS.attempts - 1


@pytest.mark.parametrize("error", [Rejected("x"), Forbidden("x")])
def test_other_errors_are_raised_at_once(error: RlmError) -> None:
    engine = Engine(error)
    session, waits = session_of(engine)
    with pytest.raises(type(error)):
        session.execute("x")
    assert (engine.sent, waits) == ([0], [])


def test_refused_credentials_are_tried_once_more_in_a_new_session() -> None:
    engine = Engine(Unauthorized("x"))
    session, waits = session_of(engine)
    assert session.execute("x") == 1
    assert (engine.sent, waits) == ([0, 1], [])
    engine.script = [Unauthorized("x"), Unauthorized("x")]
    with pytest.raises(Unauthorized):
        session.execute("x")
    assert engine.sent == [0, 1, 1, 2]


def test_once_is_once() -> None:
    engine = Engine(Unreachable("x"))
    session, waits = session_of(engine)
    with pytest.raises(Unreachable):
        session.execute_once("x")
    assert (engine.sent, waits) == ([0], [])


def test_what_is_cancelled_is_not_sent_again() -> None:
    engine = Engine(Unreachable("x"))
    session = RetryingSession(engine.session, lambda _seconds: None)
    session.cancel()
    assert not session.alive
    with pytest.raises(RlmError, match="cancelled"):
        session.execute("x")
    assert len(engine.sent) == 1


def test_others_are_not_kept_waiting_by_a_pause() -> None:
    engine = Engine(Unreachable("x"))
    paused, go_on = threading.Event(), threading.Event()

    def wait(_seconds: float) -> None:
        paused.set()
        assert go_on.wait(30)

    session = RetryingSession(engine.session, wait)
    first = threading.Thread(target=session.execute, args=("slow",))
    first.start()
    assert paused.wait(30)
    assert session.execute("quick") == 1
    go_on.set()
    first.join(30)
    assert engine.sent == [0, 0, 0]

"""Sessions that are opened in advance, and closed in the background."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from sqlflow_rig import WAIT_S, FakeEngine, FakeSession

from databricks_rlm_agent.errors import Unauthorized
from databricks_rlm_agent.sqlflow.run.sessions import MAX_AGE_S, SessionPool


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_sessions_are_open_before_they_are_asked_for_and_all_are_closed_in_the_end() -> None:
    engine = FakeEngine()
    with SessionPool(engine, spare=3, expected=100) as pool:
        until(lambda: len(engine.sessions) == 3)
        used = pool.session()
        assert used.execute("SELECT 1") == 1
        assert engine.sessions[0].ran == ["SELECT 1"]
        until(lambda: len(engine.sessions) == 4)  # in place of the one that was taken
        used.close()
        assert not used.alive
        used.close()
    assert all(session.closed for session in engine.sessions)


def test_who_asks_for_more_than_are_ready_gets_them_too_and_each_only_once() -> None:
    engine = FakeEngine()
    with SessionPool(engine, spare=2, expected=100) as pool:
        taken = [pool.session() for _ in range(7)]
        for number, session in enumerate(taken):
            session.execute(str(number))
    assert sorted(session.ran for session in engine.sessions if session.ran) == [[str(n)] for n in range(7)]


class Refusing(FakeEngine):
    """Opens no session."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_for = 0

    def session(self) -> FakeSession:
        self.asked_for += 1
        raise Unauthorized("Invalid access token.")


def test_an_error_of_opening_is_raised_by_the_next_session() -> None:
    engine = Refusing()
    with (
        SessionPool(engine, spare=2, expected=100) as pool,
        pytest.raises(Unauthorized, match="Invalid access token"),
    ):
        pool.session()
    assert engine.asked_for >= 2


def test_a_session_that_has_lain_idle_for_long_is_not_used() -> None:
    engine, now = FakeEngine(), [0.0]
    with SessionPool(engine, spare=1, expected=100, monotonic=lambda: now[0]) as pool:
        until(lambda: len(engine.sessions) == 1)
        now[0] += MAX_AGE_S + 1
        pool.session().execute("SELECT 1")
        assert engine.sessions[0].ran == []
        until(lambda: engine.sessions[0].closed)


class Held(FakeEngine):
    """Opens no session before it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may, self.begun = threading.Event(), threading.Semaphore(0)

    def session(self) -> FakeSession:
        self.begun.release()
        assert self.may.wait(WAIT_S)
        return super().session()


def test_one_that_is_still_being_opened_at_the_end_is_closed() -> None:
    engine = Held()
    with SessionPool(engine, spare=1, expected=100):
        assert engine.begun.acquire(timeout=WAIT_S)
        threading.Timer(0.02, engine.may.set).start()
    assert [session.closed for session in engine.sessions] == [True]


def test_no_more_are_opened_than_will_be_needed_but_one() -> None:
    engine = FakeEngine()
    with SessionPool(engine, spare=2, expected=3) as pool:
        for _ in range(3):
            pool.session()
            until(lambda: len(engine.sessions) >= 2)
    assert len(engine.sessions) in {3, 4}


def test_it_ends_while_sessions_are_being_opened_and_closed() -> None:
    for _ in range(50):
        engine = FakeEngine()
        with SessionPool(engine, spare=4, expected=100) as pool:
            for _ in range(4):
                pool.session().close()
        assert all(session.closed for session in engine.sessions)

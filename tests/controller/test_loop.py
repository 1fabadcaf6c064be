from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from fakes import World

from databricks_rlm_agent.controller.journal import Journal
from databricks_rlm_agent.controller.tick import FIRST_WAIT_S, ControlLoop, TickReport
from databricks_rlm_agent.errors import (
    Conflict,
    Forbidden,
    NeverReached,
    Rejected,
    RemoteError,
    Throttled,
    Unauthorized,
    Unreachable,
)

IDLE, BUSY = TickReport(), TickReport(due=1, advanced=1)


@dataclass(kw_only=True)
class Scripted:
    """Ticks as told, and records how long the loop waited."""

    ticks: list[TickReport | BaseException]
    slept: list[float] = field(default_factory=list)
    seen: list[TickReport] = field(default_factory=list)

    abandoned: int = 0
    collected: int = 0

    def __call__(self, *, wait_s: float | None = None) -> TickReport:
        assert wait_s is not None  # a slow plan must not hold up the others
        step = self.ticks.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step

    def done(self, report: TickReport) -> bool:
        self.seen.append(report)
        return not self.ticks

    def collect(self, *, wait_s: float | None = None) -> TickReport:
        assert wait_s is None
        self.collected += 1
        return IDLE

    def abandon(self) -> None:
        self.abandoned += 1

    def run(self, max_ticks: int | None = None, *, done: Callable[[TickReport], bool] | None = None) -> int:
        loop = ControlLoop(
            tick=self, sleep=self.slept.append, abandon=self.abandon, max_wait_s=2.0, jitter=lambda: 1.0
        )
        return loop.run(done=done or self.done, max_ticks=max_ticks)


def test_it_waits_longer_while_nothing_happens_and_at_once_less_when_something_does() -> None:
    script = Scripted(ticks=[BUSY, *[IDLE] * 20, BUSY, IDLE, IDLE])
    assert script.run() == 24
    assert script.slept[0] == FIRST_WAIT_S
    assert script.slept[1:21] == sorted(script.slept[1:21])
    assert max(script.slept) == 2.0
    assert script.slept[21] == FIRST_WAIT_S


@pytest.mark.parametrize("error", [Unreachable("x"), Conflict("x"), Throttled("x")])
def test_a_passing_fault_is_waited_out_and_nobody_is_asked_meanwhile(error: RemoteError) -> None:
    script = Scripted(ticks=[BUSY, error, error, BUSY])
    assert script.run() == 4
    assert script.slept == [FIRST_WAIT_S, 2.0, 2.0]
    assert script.seen == [BUSY, BUSY]


def test_the_server_says_how_long_to_wait() -> None:
    script = Scripted(ticks=[Throttled("x", retry_after=30), BUSY])
    script.run()
    assert script.slept == [30]


def test_a_fault_while_asking_whether_all_is_done_is_waited_out_too() -> None:
    answers: list[bool | RemoteError] = [Unreachable("x"), Unreachable("y"), True]

    def done(_report: TickReport) -> bool:
        answer = answers.pop(0)
        if isinstance(answer, RemoteError):
            raise answer
        return answer

    script = Scripted(ticks=[BUSY] * 9)
    assert script.run(done=lambda report: len(script.slept) > 0 and done(report)) == 4
    assert len(script.slept) == 3


def test_a_workspace_that_was_never_reached_is_a_wrong_address() -> None:
    with pytest.raises(NeverReached):
        Scripted(ticks=[NeverReached("x"), BUSY]).run()


@pytest.mark.parametrize("error", [Rejected("x"), Forbidden("x")])
def test_what_is_refused_ends_the_loop(error: RemoteError) -> None:
    with pytest.raises(type(error)):
        Scripted(ticks=[BUSY, error, BUSY]).run()


def test_credentials_that_were_good_once_are_waited_for_but_not_for_ever() -> None:
    script = Scripted(ticks=[BUSY, Unauthorized("x"), Unauthorized("x"), BUSY])
    assert script.run() == 4
    with pytest.raises(Unauthorized):
        Scripted(ticks=[Unauthorized("x"), BUSY]).run()
    forever: list[TickReport | BaseException] = [BUSY, *[Unauthorized("x")] * 1000]
    with pytest.raises(Unauthorized):
        Scripted(ticks=forever).run()


def test_runs_that_are_held_up_because_the_workspace_asked_to_wait_are_not_hurried() -> None:
    script = Scripted(ticks=[TickReport(due=1, retry_after_s=7.0), BUSY])
    script.run()
    assert script.slept == [7.0]


def test_nothing_new_is_begun_once_it_is_asked_to_stop() -> None:
    script = Scripted(ticks=[BUSY] * 9)
    loop = ControlLoop(
        tick=script,
        sleep=script.slept.append,
        abandon=script.abandon,
        stopped=lambda: len(script.slept) == 2,
    )
    assert loop.run(done=lambda _: False) == 2
    assert (script.collected, script.abandoned) == (1, 0)


def test_what_is_begun_is_recorded_before_the_loop_ends() -> None:
    script = Scripted(ticks=[TickReport(due=1, working=1), BUSY])
    script.run()
    assert (script.collected, script.abandoned) == (1, 0)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit()])
def test_an_interruption_gives_up_what_is_held(stop: BaseException) -> None:
    script = Scripted(ticks=[BUSY, stop])
    with pytest.raises(type(stop)):
        script.run()
    assert script.abandoned == 1


def test_the_number_of_ticks_can_be_bounded() -> None:
    script = Scripted(ticks=[IDLE] * 9)
    assert script.run(max_ticks=3) == 3


def test_a_journal_numbers_its_events_within_its_epoch() -> None:
    journal = Journal(run_id="r1", epoch=3, actor="c", clock=World().now)
    for _ in range(3):
        journal.event("x", when=World().now())
    assert [row.seq for row in journal.events] == [30_000, 30_001, 30_002]

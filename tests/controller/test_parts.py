"""The parts of a tick, each by itself: who is asked, who waits, who works, and who holds what."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from fakes import (
    LEASE_S,
    LOST,
    Controller,
    FakeJobs,
    Gate,
    World,
    program,
    settle,
)
from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent import threads
from databricks_rlm_agent.controller.claims import (
    OVERLAP_S,
    RENEWALS_PER_LEASE,
    AdvancedRun,
    JobPoller,
    Leases,
    WorkerPool,
    controller_of,
)
from databricks_rlm_agent.controller.journal import Journal
from databricks_rlm_agent.controller.tick import SingleRunTick
from databricks_rlm_agent.errors import NotFound, RemoteError, RlmError, Throttled, Unreachable
from databricks_rlm_agent.retry import (
    FIRST_PAUSE_S,
    LONGEST_CRASH_PAUSE_S,
    LONGEST_PAUSE_S,
    crash_pause_s,
    pause_s,
)
from databricks_rlm_agent.runs.actions import Finish
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.run import Due, Run, new_run

START = datetime(2026, 1, 1, tzinfo=UTC)
DEADLINE_S = 120.0


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> datetime:
        return START + timedelta(seconds=self.now_s)


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# Pauses


def test_a_run_that_is_held_up_again_and_again_is_left_alone_for_longer_and_longer() -> None:
    clock = Clock()
    run, pauses = new_run("count", run_id="r1", clock=clock), []
    for _ in range(12):
        run = run.waiting(
            run.outcome,
            waits_for="workspace",
            reason="x",
            now=clock(),
            pause=lambda waited_s: pause_s(waited_s, retry_after_s=None, jitter=1.0),
        )
        assert run.pause_s is not None
        pauses.append(run.pause_s)
        clock.now_s += run.pause_s
    assert pauses[0] == FIRST_PAUSE_S
    assert all(long >= short for short, long in pairwise(pauses))
    assert pauses[-1] == LONGEST_PAUSE_S
    assert run.outcome.since == START.isoformat()
    again = run.waiting(
        run.outcome, waits_for="model", reason="y", now=clock(), pause=lambda waited_s: waited_s
    )
    assert (again.outcome.since, again.pause_s) == (clock().isoformat(), 0.0)  # it begins anew


@given(st.floats(0, 1), st.none() | st.floats(0, 600), st.floats(-(10**6), 10**6))
def test_a_pause_has_bounds_whatever_the_clock_does(
    jitter: float, retry_after_s: float | None, waited_s: float
) -> None:
    pause = pause_s(waited_s, retry_after_s=retry_after_s, jitter=jitter)
    assert max(retry_after_s or 0.0, FIRST_PAUSE_S / 2) <= pause <= max(retry_after_s or 0.0, LONGEST_PAUSE_S)


@pytest.mark.fault("A3")
def test_deaths_in_succession_are_waited_for_ever_longer() -> None:
    pauses = [crash_pause_s(lapses) for lapses in (0, 1, 2, 3, 10_000)]
    assert pauses == [0, 1, 2, 4, LONGEST_CRASH_PAUSE_S]


# JobPoller


def executing(world: World, run_id: str = "r1") -> Due:
    if run_id not in world.runs:
        world.add(run_id)
        Controller(world=world, script=[program()])()
    return Due(run=world.runs[run_id], reported=False)


def poller_of(world: World, fault: Any = None) -> JobPoller:
    gate = Gate(fault=fault) if fault else Gate()
    return JobPoller(jobs=FakeJobs(world=world, gate=gate), clock=world.now, at_once=2)


def test_the_first_look_is_at_all_and_the_next_at_what_came_since_with_some_overlap() -> None:
    world = World()
    due = executing(world)
    job_poller = poller_of(world)
    assert job_poller.gap_s() > 1e9
    assert job_poller.ready([due], complete=True) == []
    world.now_s += 7
    assert job_poller.gap_s() == pytest.approx(7 + OVERLAP_S)
    world.now_s += 2  # what is answered counts from the question, not from the answer
    job_poller.ready([], complete=True)
    world.now_s += 1
    assert job_poller.gap_s() == pytest.approx(3 + OVERLAP_S)


@pytest.mark.parametrize("error", [Unreachable("x"), Throttled("x"), RemoteError("x")])
def test_a_poll_that_fails_keeps_the_gap_open(error: RemoteError) -> None:
    world = World()
    due = executing(world)
    left = [error]

    def fault(name: str, after: bool) -> None:
        if name == "verdict" and not after and left:
            raise left.pop()

    job_poller = poller_of(world, fault)
    job_poller.gap_s()
    job_poller.ready([], complete=True)
    world.now_s += 5
    job_poller.gap_s()
    assert job_poller.ready([due], complete=True) == []
    world.now_s += 1
    assert job_poller.gap_s() == pytest.approx(6 + OVERLAP_S)
    job_poller.ready([due], complete=True)
    assert job_poller.gap_s() == pytest.approx(OVERLAP_S)


def test_a_clock_that_is_set_back_hides_no_look() -> None:
    world = World(now_s=3_600)
    job_poller = poller_of(world)
    job_poller.gap_s()
    job_poller.ready([], complete=True)
    world.now_s = 0
    assert job_poller.gap_s() > 1e9


def test_only_silent_job_runs_are_asked_about_so_many_at_once() -> None:
    world, busy, most = World(), [0], [0]
    lock = threading.Lock()
    silent = [executing(world, f"r{number}") for number in range(6)]
    both = threading.Barrier(2, timeout=DEADLINE_S)

    def fault(name: str, after: bool) -> None:
        assert name == "verdict"
        with lock:
            busy[0] += -1 if after else 1
            most[0] = max(most[0], busy[0])
        if not after:
            both.wait()  # they are asked in pairs

    job_poller = poller_of(world, fault)
    reported = replace(executing(world, "done"), reported=True)
    fresh = Due(run=new_run("x", run_id="new", clock=world.now), reported=False)
    assert job_poller.ready([reported, fresh, *silent], complete=True) == [reported, fresh]
    assert most == [2]


def test_a_job_run_that_is_over_or_gone_is_something_to_do() -> None:
    world = World(endings={(1, 1): LOST})
    due = executing(world)
    assert poller_of(world).ready([due], complete=True) == []
    world.run_jobs()
    assert poller_of(world).ready([due], complete=True) == [due]
    world.jobs.clear()
    assert poller_of(world).ready([due], complete=True) == [due]


def test_a_cancellation_that_fails_is_asked_for_again() -> None:
    world = World()
    executing(world)
    world.request_cancel("r1")
    left = [Unreachable("x"), NotFound("gone")]

    def fault(name: str, after: bool) -> None:
        if name == "cancel" and not after and left:
            raise left.pop(0)

    job_poller = poller_of(world, fault)
    due = executing(world)
    assert job_poller.ready([due], complete=True) == []
    assert job_poller.ready([due], complete=True) == [due]  # it is gone: ingesting says so
    assert job_poller.ready([due], complete=True) == []
    assert len(world.cancels) == 1


def test_more_silent_runs_than_a_batch_holds_are_all_asked_about_soon() -> None:
    """A controller that starts looks at all; what does not fit into its first query must not be forgotten."""
    world = World(endings={(1, 1): LOST})
    for number in range(6):
        world.add(f"r{number}")
    Controller(world=world, script=[program()])()
    world.run_jobs()
    world.now_s += 500
    late = Controller(world=world, script=[program()], name="late")
    late.tick = replace(late.tick, batch=2)
    for _ in range(10):
        late()
        world.now_s += 1
    assert {run.attempt for run in world.runs.values()} == {2}


# WorkerPool


def step(name: str) -> AdvancedRun:
    run = new_run("x", run_id=name, clock=Clock())
    return AdvancedRun(
        holder="c/1",
        before=run,
        after=replace(run, fsm_state=State.PLANNING),
        journal=Journal(run_id=name, epoch=1, actor="c", clock=Clock()),
    )


def names(steps: list[AdvancedRun]) -> set[str]:
    return {item.after.run_id for item in steps}


def test_steps_that_are_done_are_collected_and_the_others_go_on() -> None:
    worker_pool, go_on = WorkerPool(size=2), threading.Event()

    def slow() -> AdvancedRun:
        assert go_on.wait(DEADLINE_S)
        return step("slow")

    worker_pool.start("c/1", {"slow": slow})
    worker_pool.start("c/2", {"quick": lambda: step("quick")})
    found: list[AdvancedRun] = []
    eventually(lambda: bool(found.extend(worker_pool.finished(wait_s=0.001)) or found))
    assert names(found) == {"quick"}
    assert (worker_pool.busy, worker_pool.holders()) == (1, {"c/1"})
    assert worker_pool.is_advancing("slow")
    assert not worker_pool.is_advancing("quick")
    go_on.set()
    assert names(worker_pool.finished(wait_s=None)) == {"slow"}
    assert (worker_pool.busy, worker_pool.holders(), worker_pool.finished(wait_s=None)) == (0, set(), [])


def test_no_more_than_so_many_work_at_once() -> None:
    worker_pool, go_on, lock = WorkerPool(size=3), threading.Event(), threading.Lock()
    at_work, most = [0], [0]

    def work(name: str) -> AdvancedRun:
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
        assert go_on.wait(DEADLINE_S)
        with lock:
            at_work[0] -= 1
        return step(name)

    worker_pool.start("c/1", {f"r{n}": (lambda n=n: work(f"r{n}")) for n in range(10)})  # type: ignore[misc]
    eventually(lambda: at_work[0] == 3)
    assert worker_pool.busy == 10
    go_on.set()
    assert len(worker_pool.finished(wait_s=None)) == 10
    assert most == [3]


def test_what_a_step_raises_is_raised_where_it_is_collected() -> None:
    worker_pool = WorkerPool(size=1)

    def interrupted() -> AdvancedRun:
        raise KeyboardInterrupt

    worker_pool.start("c/1", {"r1": interrupted})
    with pytest.raises(KeyboardInterrupt):
        worker_pool.finished(wait_s=None)
    assert worker_pool.busy == 0


@pytest.mark.fault("A23")
def test_a_step_that_raises_costs_no_sibling_its_result() -> None:
    worker_pool = WorkerPool(size=3)

    def defect() -> AdvancedRun:
        raise KeyError("a fault of ours")

    worker_pool.start("c/1", {"bad": defect, "r1": lambda: step("r1"), "r2": lambda: step("r2")})
    assert names(worker_pool.finished(wait_s=None)) == {"r1", "r2"}
    assert worker_pool.busy == 0

    def interrupted() -> AdvancedRun:
        raise KeyboardInterrupt

    worker_pool.start("c/1", {"bad": interrupted, "r1": lambda: step("r1")})
    with pytest.raises(KeyboardInterrupt):
        worker_pool.finished(wait_s=None)
    assert names(worker_pool.finished(wait_s=None)) == {"r1"}


@pytest.mark.fault("A23")
def test_the_keeper_of_leases_survives_any_error() -> None:
    store = Renewals(errors=[Unreachable("x"), ValueError("a fault of ours")])
    leases = leases_of(store)
    holder = leases.take()
    eventually(lambda: store.renewed.count([holder]) > 3)
    leases.keep(set())
    eventually(lambda: not keepers())


@pytest.mark.fault("A23")
def test_a_thread_that_dies_is_heard_of_where_the_process_goes_on() -> None:
    def defect() -> None:
        raise ValueError("a fault of ours")

    threads.start("some-thread", defect).join()
    with pytest.raises(RlmError, match="some-thread has died: ValueError: a fault of ours"):
        threads.check()
    threads.check()  # once


# Leases


@dataclass
class Renewals:
    """A store that counts renewals and releases; ``errors`` happen first."""

    renewed: list[list[str]] = field(default_factory=list)
    released: list[list[str]] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def renew(self, *, owners: Any, lease_s: float) -> None:
        self.renewed.append(list(owners))
        if self.errors:
            raise self.errors.pop()

    def release(self, *, owners: Any) -> None:
        if self.errors:
            raise self.errors.pop()
        self.released.append(list(owners))


def keepers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "lease-keeper"]


def leases_of(store: Renewals, *, lease_s: float = 0.03) -> Leases:
    return Leases(store=store, owner="c1", lease_s=lease_s)  # type: ignore[arg-type]


def test_one_renewal_serves_all_that_is_held_and_ends_with_it() -> None:
    store = Renewals(errors=[Unreachable("x")])
    leases = leases_of(store)
    first, second = leases.take(), leases.take()
    assert (controller_of(first), controller_of(second), first != second) == ("c1", "c1", True)
    assert len(keepers()) == 1
    eventually(lambda: store.renewed.count(sorted([first, second])) > 2)  # the failed one was not the last
    leases.keep({second})
    eventually(lambda: store.renewed[-1] == [second])
    leases.keep(set())
    eventually(lambda: not keepers())
    count = len(store.renewed)
    third = leases.take()
    eventually(lambda: len(store.renewed) > count)
    assert store.renewed[-1] == [third]
    leases.keep(set())
    eventually(lambda: not keepers())


def test_what_is_held_is_released_at_once_and_what_is_not_is_nobodys() -> None:
    store = Renewals()
    leases = leases_of(store, lease_s=600)
    leases.release()
    assert store.released == []
    holder = leases.take()
    leases.release()
    assert store.released == [[holder]]
    store.errors.append(Unreachable("x"))
    leases.release()  # it lapses
    leases.keep(set())
    eventually(lambda: not keepers())
    assert RENEWALS_PER_LEASE >= 3


# OneRun


def test_one_run_is_touched_and_no_other() -> None:
    world = World()
    for name in ("a", "b", "c"):
        world.add(name)
    before = dict(world.runs)
    controller = Controller(world=world, script=[program(), Finish(answer="42")])
    tick = SingleRunTick(tick=controller.tick, run_id="b")
    for _ in range(20):
        tick(wait_s=None)
        world.run_jobs()
        world.now_s += 1
    assert tick.collect() == replace(tick.collect(), due=0)
    assert world.runs["b"].fsm_state is State.SUCCEEDED
    assert {name: world.runs[name] for name in ("a", "c")} == {name: before[name] for name in ("a", "c")}
    settle(world, controller)


# Clocks


def test_a_clock_that_runs_late_takes_no_time_from_a_budget() -> None:
    world = World(endings={(1, 1): LOST, (1, 2): LOST, (1, 3): LOST})
    world.add()
    ahead = Controller(world=world, script=[program(), Finish(answer="42")], skew_s=300)
    late = Controller(world=world, script=[program(), Finish(answer="42")], name="late", skew_s=-300)
    settle(world, ahead, late)
    run: Run = world.runs["r1"]
    assert run.fsm_state is State.SUCCEEDED
    assert 0 <= run.budget.executor_s <= 3 * 60


def test_a_lease_is_shorter_than_a_slow_plan() -> None:
    """What a plan takes is no matter of the lease: it is renewed for as long as the step is in flight."""
    world = World()
    world.add()
    other = Controller(world=world, script=[Finish(answer="other")], name="c2")
    slow = Controller(world=world, script=[Finish(answer="slow")])

    def wait(name: str, after: bool) -> None:
        if name == "plan" and not after:
            for _ in range(5):
                world.now_s += LEASE_S / RENEWALS_PER_LEASE
                slow.tick.leases.renew()  # type: ignore[attr-defined]
                assert other().due == 0

    slow.gate.fault = wait
    assert slow().advanced == 1
    assert world.runs["r1"].outcome.answer == "slow"

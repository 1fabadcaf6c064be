"""Some controllers over one workspace, under any order of ticks, slow models, faults, deaths and clock steps.

``RLM_HYPOTHESIS_EXAMPLES`` sets the number of examples, which are then drawn at random (nightly: 100,000).
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from fakes import (
    BAD_FILE,
    BAD_FILE_NO_ROW,
    GOOD,
    LEASE_S,
    LOST,
    NO_FILE,
    NO_ROW,
    RAISED,
    Controller,
    Ending,
    Gate,
    Killed,
    World,
    check_invariants,
    program,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pools import ManualLeases, SteppedPool

from databricks_rlm_agent.attempts.records import EventRow, RequestRow, ResultRow
from databricks_rlm_agent.errors import Conflict, RemoteError, Throttled, Unreachable
from databricks_rlm_agent.runs.actions import Ask, Finish
from databricks_rlm_agent.runs.budget import Budget
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.run import AttemptKey, Run

SCRIPT = [program("one()"), Ask(question="Which year?"), program("two()"), Finish(answer="42")]
PROGRAMS = (1, 3)  # the iterations that run one
LONG = Ending(stdout_bytes=10_000)
ENDINGS = st.sampled_from([LOST, GOOD, RAISED, NO_ROW, NO_FILE, LOST, BAD_FILE, BAD_FILE_NO_ROW, LONG])
BUDGETS = st.sampled_from([300, 300, 300, 40, 17, 2])
FAULTS = st.sampled_from(["kill", "unreachable", "throttled", "conflict", "overtaken"])
WRITES = ("append", "save", "claim")
THINKING = ("plan", "summarize")
# The number of calls of one tick of one run, and some.
CALLS = st.integers(0, 17)
MAX_TICKS = 200
WHICH = st.integers(0, 2)
WANTED = os.environ.get("RLM_HYPOTHESIS_EXAMPLES")


class Fleet(RuleBasedStateMachine):
    """Invariants of the design, section 4, after every step; and at the end the runs end as they should."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.all: list[Controller] = []
        self.fault: tuple[str, int, bool] | None = None
        self.epochs: dict[str, int] = {}
        self.results: dict[tuple[Any, ...], Any] = {}
        self.ended: dict[str, Run] = {}
        self.asked: dict[str, Run] = {}
        self.cancelled: dict[str, int] = {}

    @initialize(
        endings=st.fixed_dictionaries({(n, k): ENDINGS for n in PROGRAMS for k in (1, 2)}),
        many=st.integers(2, 3),
    )
    def begin(self, endings: dict[tuple[int, int], Any], many: int) -> None:
        self.world.endings = endings
        self.world.add("r0")
        self.controllers = [self.fresh() for _ in range(many)]

    def fresh(self) -> Controller:
        name, worker_pool = self.world.new_id("c"), SteppedPool()
        gate = Gate(fault=self.happen)
        self.all.append(
            Controller(world=self.world, script=SCRIPT, name=name, worker_pool=worker_pool, gate=gate)
        )
        return self.all[-1]

    def one(self, which: int) -> Controller:
        return self.controllers[which % len(self.controllers)]

    def happen(self, name: str, after: bool) -> None:
        if self.fault is None:
            return
        kind, left, when = self.fault
        if after is not when:
            return
        if left > 0:
            self.fault = (kind, left - 1, when)
            return
        self.fault = None
        match kind:
            case "kill":
                raise Killed
            case "overtaken":
                self.world.now_s += LEASE_S + 1
                heir = self.fresh()
                heir()
                self.world.run_jobs()
                heir()
            case _ if name in THINKING:
                return  # planners turn the faults of models into words
            case "unreachable":
                raise Unreachable("No answer.")
            case "throttled":
                raise Throttled("Slow down.", retry_after=1)
            case "conflict" if name.startswith(WRITES) and not after:
                raise Conflict("Somebody else won.")

    # What people do

    @precondition(lambda self: len(self.world.runs) < 3)
    @rule(calls=BUDGETS)
    def submit(self, calls: int) -> None:
        self.world.add(f"r{len(self.world.runs)}", budget=Budget(max_model_calls=calls))

    @rule(which=WHICH)
    def cancel(self, which: int) -> None:
        run = list(self.world.runs.values())[which % len(self.world.runs)]
        self.world.request_cancel(run.run_id)
        if not run.fsm_state.terminal:
            self.cancelled.setdefault(run.run_id, run.lease_epoch)

    @rule()
    def read_questions(self) -> None:
        """Somebody looks, and answers what was seen then, which may have changed meanwhile."""
        waiting = [run for run in self.world.runs.values() if run.fsm_state is State.WAITING_FOR_INPUT]
        self.asked |= {run.run_id: run for run in waiting}

    @precondition(lambda self: self.asked)
    @rule(which=WHICH)
    def answer(self, which: int) -> None:
        run = self.asked.pop(list(self.asked)[which % len(self.asked)])
        self.world.answer(run, "2013")

    # What controllers do

    @rule(which=WHICH)
    def tick(self, which: int) -> None:
        self.attempt(which, lambda controller: controller(wait_s=0))

    @rule(which=WHICH)
    def collect(self, which: int) -> None:
        self.attempt(which, lambda controller: controller.tick.collect(wait_s=0))

    @rule(which=WHICH, kind=FAULTS, calls=CALLS, after=st.booleans())
    def tick_with_a_fault(self, which: int, kind: str, calls: int, after: bool) -> None:
        self.world.run_jobs()
        self.world.now_s += 3
        self.fault = (kind, calls, after)
        self.tick(which)
        self.fault = None

    @rule(which=WHICH, slow=st.booleans())
    def models_are_slow(self, which: int, slow: bool) -> None:
        worker_pool(self.one(which)).slow = slow

    @precondition(lambda self: any(worker_pool(controller).parked for controller in self.all))
    @rule(which=st.integers(0, 5))
    def a_model_answers(self, which: int) -> None:
        """Its controller may be at work still, or hang, or be dead."""
        waiting = [controller for controller in self.all if worker_pool(controller).parked]
        worker_pool(waiting[which % len(waiting)]).resume()

    @rule(which=WHICH)
    def renew(self, which: int) -> None:
        leases(self.one(which)).renew()

    # What happens to them

    @rule(kind=FAULTS, calls=CALLS, after=st.booleans())
    def arm(self, kind: str, calls: int, after: bool) -> None:
        self.fault = (kind, calls, after)

    @rule(which=WHICH, gracefully=st.booleans())
    def stop(self, which: int, gracefully: bool) -> None:
        """SIGTERM or SIGKILL, while steps are in flight. Another controller is started in its place."""
        controller = self.one(which)
        if gracefully:
            controller.tick.leases.release()
        self.replace(controller)

    @rule(which=WHICH, seconds=st.sampled_from([-300.0, 0.0, 300.0]))
    def set_its_clock(self, which: int, seconds: float) -> None:
        self.one(which).skew_s = seconds

    @rule(seconds=st.sampled_from([0.5, 3.0, LEASE_S + 1]))
    def wait(self, seconds: float) -> None:
        self.world.now_s += seconds

    @rule(cancels=st.booleans())
    def finish_jobs(self, cancels: bool) -> None:
        self.world.run_jobs(cancels=cancels)

    def attempt(self, which: int, act: Any) -> None:
        controller = self.one(which)
        try:
            act(controller)
        except Killed:
            self.replace(controller)
        except RemoteError:
            pass  # the loop waits and ticks again

    def replace(self, controller: Controller) -> None:
        controller.gate.dead = True
        self.controllers[self.controllers.index(controller)] = self.fresh()

    # What must hold

    @invariant()
    def nothing_is_broken(self) -> None:
        # A stale controller may think once more than is needed; what it thought has no effect.
        world = self.world
        world.violations = [text for text in world.violations if "planned again" not in text]
        check_invariants(world)
        for run in world.runs.values():
            self.check_run(run)
        found = {(row.run_id, row.iter_n, row.attempt): row for row in world.table(ResultRow)}
        assert all(found[key] == row for key, row in self.results.items())
        self.results = found
        self.check_ledgers()

    def check_run(self, run: Run) -> None:
        counted = self.world.on_record(run)
        assert self.world.calls[run.run_id] <= counted <= run.budget.max_model_calls, (self.world.calls, run)
        self.check_progress(run)

    def check_progress(self, run: Run) -> None:
        assert run.lease_epoch >= self.epochs.get(run.run_id, 0)
        self.epochs[run.run_id] = run.lease_epoch
        if run.run_id in self.ended:
            assert run == self.ended[run.run_id]
        elif run.fsm_state.terminal:
            self.ended[run.run_id] = run
            alive = [job.key for job in self.world.jobs.values() if not job.verdict.over]
            assert all(key.run_id != run.run_id for key in alive), f"{run.run_id} ended before its job run"

    def check_ledgers(self) -> None:
        actors: dict[tuple[str, int], set[str]] = {}
        for row in self.world.table(EventRow):
            actors.setdefault((row.run_id, row.epoch), set()).add(row.actor)
        assert all(len(names) == 1 for names in actors.values()), actors
        jobs = {job.key: job.run_id for job in self.world.jobs.values()}
        for row in self.world.table(RequestRow):
            assert jobs[attempt_of(row)] == row.databricks_run_id

    def teardown(self) -> None:
        self.fault = None
        try:
            self.come_to_an_end()
            self.nothing_is_broken()
            requested = {attempt_of(row) for row in self.world.table(RequestRow)}
            assert requested == set(self.world.launches)
            assert {attempt_of(row) for row in self.results.values()} == requested
            for run in self.world.runs.values():
                self.check_end(run)
        finally:
            for controller in self.all:  # no thread stays behind
                controller.gate.dead = True
                worker_pool(controller).resume_all()

    def come_to_an_end(self) -> None:
        for controller in self.controllers:
            worker_pool(controller).resume_all()
        for _ in range(MAX_TICKS):
            for which in range(len(self.controllers)):
                self.tick(which)
            self.world.run_jobs()
            self.world.now_s += 1
            self.read_questions()
            while self.asked:
                self.answer(0)
            if all(run.fsm_state.terminal for run in self.world.runs.values()):
                return
        states = [str(run.fsm_state) for run in self.world.runs.values()]
        raise AssertionError(f"not done after {MAX_TICKS} ticks: {states}")

    def check_end(self, run: Run) -> None:
        attempts = {key[1:] for key in self.results if key[0] == run.run_id}
        if run.cancel_reason is not None and run.fsm_state is State.CANCELLED:
            assert run.outcome.reason == "enough"
            return
        self.check_decided_before(run)
        if run.fsm_state is State.FAILED:
            assert "model calls" in (run.outcome.reason or ""), run
            assert run.budget.max_model_calls < 300 or self.world.calls[run.run_id] > 3
        else:
            assert (run.fsm_state, run.outcome.answer, run.iter_n) == (State.SUCCEEDED, "42", 4), run
            assert attempts == self.expected_attempts()

    def check_decided_before(self, run: Run) -> None:
        """A cancelled run may end otherwise only by a decision of an epoch that could not know of it."""
        if run.cancel_reason is None:
            return
        last = [row for row in self.world.table(EventRow) if row.run_id == run.run_id]
        adopted = any(row.kind == "adopted_manifest" and row.epoch == run.lease_epoch for row in last)
        # One that read the row before the cancellation may claim it after.
        assert adopted or run.lease_epoch <= self.cancelled[run.run_id] + 1, run

    def expected_attempts(self) -> set[tuple[int, int]]:
        """The attempts that the jobs' endings call for, whatever happened to the controllers."""
        attempts = set()
        for iter_n in PROGRAMS:
            attempt = 1
            while self.world.endings.get((iter_n, attempt)) is LOST and attempt < 3:
                attempts.add((iter_n, attempt))
                attempt += 1
            attempts.add((iter_n, attempt))
        return attempts


class FaultyFleet(Fleet):
    """The same from another seed, and where something goes wrong at every other step."""

    @rule(which=WHICH, kind=FAULTS, calls=CALLS, after=st.booleans())
    def another_fault(self, which: int, kind: str, calls: int, after: bool) -> None:
        self.tick_with_a_fault(which, kind, calls, after)

    @rule(which=WHICH, calls=st.integers(0, 5))
    def overtaken(self, which: int, calls: int) -> None:
        self.tick_with_a_fault(which, "overtaken", calls, False)


def worker_pool(controller: Controller) -> SteppedPool:
    assert isinstance(controller.worker_pool, SteppedPool)
    return controller.worker_pool


def leases(controller: Controller) -> ManualLeases:
    assert isinstance(controller.tick.leases, ManualLeases)
    return controller.tick.leases


def attempt_of(row: RequestRow | ResultRow) -> AttemptKey:
    return AttemptKey(run_id=row.run_id, iter_n=row.iter_n, attempt=row.attempt)


def case_of(machine: type[Fleet], *, examples: int) -> Any:
    """The test case of a machine; each lives in a file of its own, so that they run side by side."""
    case: Any = machine.TestCase
    case.settings = _settings(examples)
    return pytest.mark.timeout(0 if WANTED else 1_200)(case)


def _settings(examples: int) -> settings:
    return settings(
        max_examples=int(WANTED) if WANTED else examples,
        stateful_step_count=25,
        derandomize=not WANTED,
        database=None,
        deadline=None,
    )

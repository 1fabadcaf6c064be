"""Two controllers over one workspace, under any order of ticks, faults, deaths and clock steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fakes import (
    GOOD,
    LEASE_S,
    LOST,
    NO_FILE,
    NO_ROW,
    RAISED,
    Controller,
    Gate,
    Killed,
    World,
    check_invariants,
    program,
    settle,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from databricks_rlm_agent.domain.actions import Finish
from databricks_rlm_agent.domain.fsm import State
from databricks_rlm_agent.domain.records import ResultRow
from databricks_rlm_agent.errors import Conflict, RemoteError, Throttled, Unreachable

SCRIPT = [program("one()"), program("two()"), Finish(answer="42")]
ENDINGS = st.sampled_from([LOST, GOOD, RAISED, NO_ROW, NO_FILE, LOST])
FAULTS = st.sampled_from(["kill", "unreachable", "throttled", "conflict", "overtaken"])
WRITES = ("append", "save", "claim")


class TwoControllers(RuleBasedStateMachine):
    """Invariants of the design, section 4, after every step; and at the end the runs end as they should."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.fault: tuple[str, int, bool] | None = None
        self.epochs: dict[str, int] = {}
        self.results: dict[tuple[Any, ...], Any] = {}
        self.ended: dict[str, Any] = {}

    @initialize(endings=st.fixed_dictionaries({(n, k): ENDINGS for n in (1, 2) for k in (1, 2)}))
    def begin(self, endings: dict[tuple[int, int], Any]) -> None:
        self.world.endings = endings
        self.world.add("r0")
        self.controllers = [self.fresh(), self.fresh()]

    def fresh(self) -> Controller:
        name = self.world.new_id("c")
        return Controller(world=self.world, script=SCRIPT, name=name, gate=Gate(fault=self.happen))

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
            case "unreachable":
                raise Unreachable("No answer.")
            case "throttled":
                raise Throttled("Slow down.", retry_after=1)
            case "conflict" if name.startswith(WRITES) and not after:
                raise Conflict("Somebody else won.")
            case "overtaken":
                self.world.now_s += LEASE_S + 1
                self.fresh()()
                self.world.run_jobs()
                self.fresh()()

    @precondition(lambda self: len(self.world.runs) < 3)
    @rule()
    def submit(self) -> None:
        self.world.add(f"r{len(self.world.runs)}")

    @rule(kind=FAULTS, calls=st.integers(0, 17), after=st.booleans())
    def arm(self, kind: str, calls: int, after: bool) -> None:
        self.fault = (kind, calls, after)

    @rule(index=st.integers(0, 1), kind=FAULTS, calls=st.integers(0, 17), after=st.booleans())
    def tick_with_a_fault(self, index: int, kind: str, calls: int, after: bool) -> None:
        self.world.run_jobs()
        self.world.now_s += 3
        self.fault = (kind, calls, after)
        self.tick(index)
        self.fault = None

    @rule(index=st.integers(0, 1))
    def tick(self, index: int) -> None:
        try:
            self.controllers[index]()
        except Killed:
            self.controllers[index] = self.fresh()
        except RemoteError:
            pass  # the loop waits and ticks again

    @rule(seconds=st.sampled_from([0.5, 3.0, LEASE_S + 1]))
    def wait(self, seconds: float) -> None:
        self.world.now_s += seconds

    @rule()
    def finish_jobs(self) -> None:
        self.world.run_jobs()

    @invariant()
    def nothing_is_broken(self) -> None:
        # A stale controller may think once more than is needed; what it thought has no effect.
        world = self.world
        world.violations = [text for text in world.violations if "planned again" not in text]
        check_invariants(world)
        for run in world.runs.values():
            assert run.lease_epoch >= self.epochs.get(run.run_id, 0)
            self.epochs[run.run_id] = run.lease_epoch
            if run.run_id in self.ended:
                assert run == self.ended[run.run_id]
            if run.fsm_state.terminal:
                self.ended[run.run_id] = run
        found = {(row.run_id, row.iter_n, row.attempt): row for row in world.table(ResultRow)}
        assert all(found[key] == row for key, row in self.results.items())
        self.results = found

    def teardown(self) -> None:
        self.fault = None
        turns: list[Callable[[], object]] = [lambda: self.tick(0), lambda: self.tick(1)]
        settle(self.world, *turns, steps=200)
        self.nothing_is_broken()
        for run in self.world.runs.values():
            assert (run.fsm_state, run.outcome.answer, run.iter_n) == (State.SUCCEEDED, "42", 3), run
            results = {key[1:]: row.status for key, row in self.results.items() if key[0] == run.run_id}
            assert set(results) == self.expected_attempts()

    def expected_attempts(self) -> set[tuple[int, int]]:
        """The attempts that the jobs' endings call for, whatever happened to the controllers."""
        attempts = set()
        for iter_n in (1, 2):
            attempt = 1
            while self.world.endings.get((iter_n, attempt)) is LOST and attempt < 3:
                attempts.add((iter_n, attempt))
                attempt += 1
            attempts.add((iter_n, attempt))
        return attempts


TestTwoControllers = TwoControllers.TestCase
TestTwoControllers.settings = settings(
    max_examples=200, stateful_step_count=30, derandomize=True, database=None, deadline=None
)

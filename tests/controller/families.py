"""The state machine of ``machine`` over runs that spawn: by planner, by program, and two levels deep."""

from __future__ import annotations

from typing import Any

from fakes import GOOD, LOST, NO_FILE, NO_ROW, RAISED, Controller, Ending, Gate, program
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from machine import WHICH, FaultyFleet
from pools import SteppedPool

from databricks_rlm_agent.runs.actions import Action, Ask, Finish, Spawn, child_id
from databricks_rlm_agent.runs.budget import Budget
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.run import Run
from executor_harness.protocol import ChildTask


def _tasks(*names: str) -> tuple[ChildTask, ...]:
    return tuple(ChildTask(name=name, task=name) for name in names)


WEST = Ending(spawned=_tasks("west"))
SCRIPTS: dict[str, list[Action | str | Exception]] = {
    "family": [Spawn(tasks=_tasks("north", "south")), program("combine()"), Finish(answer="42")],
    "program": [program("spawn()"), Spawn(tasks=_tasks("south")), Finish(answer="42")],
    "north": [Spawn(tasks=_tasks("deep")), Finish(answer="1")],
    "south": [Ask(question="Which year?"), Finish(answer="1")],
    "west": [program("count()"), Finish(answer="1")],
    "deep": [program("count()"), Finish(answer="1")],
}
# What each asks for, by iteration, whatever its children come to.
ASKED = {"family": {1: ("north", "south")}, "program": {2: ("south",)}, "north": {1: ("deep",)}}
# A program that asks for children and is lost does so again at its next attempt.
ENDINGS = st.sampled_from([WEST, WEST, LOST, GOOD, RAISED, NO_FILE])
CHILD_ENDINGS = st.sampled_from([GOOD, LOST, RAISED, NO_ROW, NO_FILE])
BUDGETS = st.sampled_from([300, 300, 90, 60, 17])
REFUSED = ("model calls", "there may be", "too little for")
COLUMNS = st.sampled_from(["capsule", "budget", "last_request", "last_result", "outcome"])


class Families(FaultyFleet):
    """No child is lost, made twice, or left without a parent; and what a tree spends is its root's."""

    def __init__(self) -> None:
        super().__init__()
        self.damaged: set[str] = set()

    @initialize(
        asking=st.fixed_dictionaries({(1, k): ENDINGS for k in (1, 2)}),
        endings=st.fixed_dictionaries({(n, 1): CHILD_ENDINGS for n in (1, 2)}),
        many=st.integers(2, 3),
        task=st.sampled_from(["family", "program"]),
        calls=BUDGETS,
    )
    def begin(  # type: ignore[override]
        self, asking: dict[Any, Ending], endings: dict[Any, Ending], many: int, task: str, calls: int
    ) -> None:
        self.world.endings, self.world.own_endings = endings, {"program": asking}
        self.world.add("r0", task=task, budget=Budget(max_model_calls=calls))
        self.controllers = [self.fresh() for _ in range(many)]

    def fresh(self) -> Controller:
        name, gate = self.world.new_id("c"), Gate(fault=self.happen)
        self.all.append(
            Controller(
                world=self.world, script=(), scripts=SCRIPTS, name=name, worker_pool=SteppedPool(), gate=gate
            )
        )
        return self.all[-1]

    @precondition(lambda self: len([run for run in self.world.runs.values() if not run.depth]) < 2)
    @rule(calls=BUDGETS)
    def submit(self, calls: int) -> None:
        self.world.add("r1", task="family", budget=Budget(max_model_calls=calls))

    @precondition(lambda self: not self.damaged)
    @rule(which=st.integers(0, 5), column=COLUMNS)
    def damage(self, which: int, column: str) -> None:
        """Somebody overwrites a part of a row that has not ended."""
        alive = [run for run in self.world.runs.values() if not run.fsm_state.terminal]
        if alive:
            run = alive[which % len(alive)]
            self.world.torn[run.run_id] = {column: "{"}
            self.damaged.add(run.run_id)

    @rule(which=WHICH)
    def some_time_goes_by(self, which: int) -> None:
        """Most of a family's life is long: without this, few would come to their second level."""
        for _ in range(3):
            self.tick(which)
            self.world.run_jobs()
            self.world.now_s += 1

    def check_run(self, run: Run) -> None:
        if run.run_id not in self.damaged:
            self.check_spending(run)
        if run.fsm_state is not State.WAITING_FOR_CHILDREN:
            alive = [
                child.run_id for child in self.world.children(run.run_id) if not child.fsm_state.terminal
            ]
            assert not alive, f"{run.run_id} is {run.fsm_state}, and its children {alive} are at work"
        self.check_progress(run)

    def check_spending(self, run: Run) -> None:
        counted = self.world.on_record(run) + run.budget.on_loan.usage.calls
        assert self.asked_below(run) <= counted <= run.budget.max_model_calls, (self.world.calls, run)

    def asked_below(self, run: Run) -> int:
        """The calls that a run and all below it have really made."""
        below = (self.asked_below(child) for child in self.world.children(run.run_id))
        return self.world.calls[run.run_id] + sum(below)

    def check_end(self, run: Run) -> None:
        reason = run.outcome.reason or ""
        if run.run_id in self.damaged:
            return
        if run.fsm_state is State.CANCELLED:
            assert run.cancel_reason is not None
            assert reason == run.cancel_reason
            return
        if run.fsm_state is State.FAILED:
            assert any(words in reason for words in REFUSED), run
            return
        task = run.capsule.objective
        assert (run.fsm_state, run.outcome.answer) == (State.SUCCEEDED, "1" if run.depth else "42"), run
        asked = dict(ASKED.get(task, {}))
        if task == "program" and "west" in {note.name for note in run.capsule.answers}:
            asked[1] = ("west",)
        ids = {child_id(run.run_id, iter_n, name) for iter_n, names in asked.items() for name in names}
        assert {child.run_id for child in self.world.children(run.run_id)} == ids
        assert all(note.path in self.world.files for note in run.capsule.answers)

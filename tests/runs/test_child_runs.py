"""Child runs: their ids, what may be asked of them, and budgets over whole trees of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent.errors import InvalidData
from databricks_rlm_agent.runs.actions import check_children, child_id
from databricks_rlm_agent.runs.budget import PLAN_CALLS, Budget, Share, Usage
from databricks_rlm_agent.values import check_id
from executor_harness import protocol
from executor_harness.protocol import ChildTask

RUN_IDS = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True)
NAMES = st.from_regex(protocol.CHILD_NAME_PATTERN, fullmatch=True)
KEYS = st.tuples(RUN_IDS, st.integers(1, 99), NAMES)
WALL_S = 1_000.0


# Ids


@given(KEYS)
def test_a_childs_id_is_an_id_and_always_the_same(key: tuple[str, int, str]) -> None:
    first = child_id(*key)
    assert check_id(first) == first == child_id(*key)
    assert check_id(child_id(first, 1, key[2])) != first


@given(st.sets(KEYS, min_size=2, max_size=8), RUN_IDS)
def test_children_have_different_ids(keys: set[tuple[str, int, str]], parent: str) -> None:
    assert len({child_id(*key) for key in keys}) == len(keys)
    # Also those of one parent whose ids would be the same as far as they are readable.
    long = f"{parent:x<64.64}"
    alike = [(long, 1, "n" * 32), (long, 2, "n" * 32), (long, 1, "n" * 31), (long[:-1], 1, "n" * 32)]
    assert len({child_id(*key) for key in alike}) == 4
    assert len({child_id(child_id(*key), 1, "n") for key in alike}) == 4


# What is asked of them


def tasks(*names: str, **changes: Any) -> list[ChildTask]:
    return [ChildTask(**({"name": name, "task": f"count {name}"} | changes)) for name in names]


@pytest.mark.parametrize(
    ("asked", "limit", "reason"),
    [
        ([], 9, "No child tasks"),
        (tasks("a", "b"), 1, "2 child runs are asked for, and there may be 1. Ask for fewer."),
        (tasks("a"), 0, "there may be 0. Its depth or budget is used up"),
        (tasks("a", "a"), 9, "the same name"),
        (tasks("a", "north"), 9, "has an input named 'north' already"),
        (tasks("a", task=" \n"), 9, "'a' is empty"),
        (tasks("a", inputs={"x": "\udcff"}), 9, "not valid UTF-8"),
        (tasks("a", inputs={"x": "y" * 8_000}), 9, "more than 8,000 characters"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_tasks_that_are_refused(asked: list[ChildTask], limit: int, reason: str) -> None:
    with pytest.raises(InvalidData) as refused:
        check_children(asked, limit=limit, taken={"north": {}})
    assert reason in str(refused.value)


@given(st.lists(NAMES, unique=True, min_size=1, max_size=16))
def test_tasks_that_are_taken(names: list[str]) -> None:
    asked = tasks(*names)
    assert check_children(asked, limit=len(names)) == asked


# Budgets of a tree


@dataclass(kw_only=True)
class Node:
    """A run of a tree, with what it has really spent."""

    budget: Budget
    depth: int = 0
    children: list[Node] = field(default_factory=list)
    epoch: int = 0
    made: int = 0
    planner: Usage = field(default_factory=Usage)
    programs: Usage = field(default_factory=Usage)
    executor_s: float = 0.0

    @property
    def works(self) -> bool:
        return not self.children

    def all(self) -> list[Node]:
        return [self, *(node for child in self.children for node in child.all())]


class Tree:
    """A tree of runs that spend, spawn, end and are lost, as the control plane lets them."""

    def __init__(self, budget: Budget) -> None:
        self.root = Node(budget=budget)
        self.gone: list[Node] = []  # ended; what they spent stays spent

    def turn(self, node: Node, calls: int, *, lost: bool) -> None:
        """A controller's turn: it asks models, and may die before it can say so."""
        node.epoch += 1
        used = Usage(calls=min(calls, node.budget.for_plan(used=0).calls_left), input_tokens=1)
        node.planner += used
        if lost:  # the next one counts what the record says, and then finds the plan
            known = Usage(calls=used.calls)
            node.budget = node.budget.spend(known).adopt(used, known=known)
        else:
            node.budget = node.budget.spend(used)
        node.budget = node.budget.reported(node.epoch)

    def program(self, node: Node, part: float, seconds: float, *, killed: bool) -> None:
        """A program that uses a part of its allowance, or, where nobody knows, all of it."""
        allowed = node.budget.allowance()
        granted = node.budget.granted_s(seconds, age_s=0)
        if granted < 1:
            return
        node.budget = node.budget.starting(granted)
        cost = allowed.cost_usd or 0.0
        used = Usage(
            calls=int(allowed.calls * part),
            input_tokens=int(allowed.tokens * part),
            cost_usd=cost * part,
        )
        node.programs += used
        most = Usage(calls=allowed.calls, input_tokens=allowed.tokens, cost_usd=cost)
        node.executor_s += granted * part
        took = node.budget.reserved_s if killed else granted * part
        node.budget = node.budget.executed(took).spend_sub(most if killed else used)

    def spawn(self, node: Node, count: int) -> None:
        if not 1 <= count <= node.budget.children_left(node.depth):
            return
        before = node.budget
        try:
            node.budget = node.budget.lend(count, wall_s=WALL_S)
        except InvalidData:
            assert node.budget == before
            return
        part = node.budget.part(count, wall_s=WALL_S)
        assert part == stored(node.budget).part(count, wall_s=WALL_S)  # the same from what is stored
        assert node.budget.lent_to(part, count)
        node.made += count
        node.children = [Node(budget=part, depth=node.depth + 1) for _ in range(count)]

    def collect(self, node: Node, *, lost_rows: int) -> None:
        spent = [child.budget.spent() if n >= lost_rows else None for n, child in enumerate(node.children)]
        node.budget = node.budget.repaid(spent)
        self.gone += [below for child in node.children for below in child.all()]
        node.children = []

    def check(self) -> None:
        limits = self.root.budget
        runs = [*self.root.all(), *self.gone]
        assert sum(run.planner.calls for run in runs) <= limits.max_model_calls
        assert sum(run.programs.calls for run in runs) <= limits.max_sub_calls
        assert sum(run.executor_s for run in runs) <= limits.max_executor_s * (1 + 1e-9)
        assert sum(run.made for run in runs) <= limits.max_children
        # Planners are looked at between calls only, so one call of each turn may go beyond.
        tokens = sum(run.programs.input_tokens for run in runs)
        assert tokens <= limits.max_tokens
        if limits.max_cost_usd is not None:
            cost = sum(run.programs.cost_usd for run in runs)
            assert cost <= limits.max_cost_usd * (1 + 1e-9)
        for node in self.root.all():
            self.check_node(node)

    @staticmethod
    def check_node(node: Node) -> None:
        budget = node.budget
        spent = budget.spent()
        below = node.all()
        assert sum(run.planner.calls for run in below) <= spent.usage.calls <= budget.max_model_calls
        assert sum(run.programs.calls for run in below) <= spent.sub_usage.calls <= budget.max_sub_calls
        assert sum(run.executor_s for run in below) <= spent.executor_s * (1 + 1e-9) + 1e-9
        left = (budget.calls_left, budget.sub_calls_left, budget.tokens_left, budget.executor_left_s)
        assert min(left) >= 0
        assert budget.children_left(node.depth) >= 0
        assert stored(budget) == budget


def stored(budget: Budget) -> Budget:
    return Budget.model_validate_json(budget.model_dump_json())


LIMITS = st.builds(
    Budget,
    max_model_calls=st.integers(1, 400),
    max_sub_calls=st.integers(0, 500),
    max_tokens=st.integers(1, 10**6),
    max_cost_usd=st.none() | st.floats(0.01, 100),
    max_executor_s=st.floats(1, 10_000),
    max_depth=st.integers(0, 3),
    max_children=st.integers(0, 40),
)
WHICH, PART = st.integers(0, 30), st.floats(0, 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("turn"), WHICH, st.integers(0, PLAN_CALLS + 5), st.booleans()),
        st.tuples(st.just("program"), WHICH, PART, st.floats(1, 500), st.booleans()),
        st.tuples(st.just("spawn"), WHICH, st.integers(1, 16)),
        st.tuples(st.just("collect"), WHICH, st.integers(0, 2)),
    ),
    max_size=25,
)


@given(LIMITS, STEPS)
def test_all_runs_of_a_tree_together_never_spend_more_than_the_root_may(
    limits: Budget, steps: list[tuple[Any, ...]]
) -> None:
    tree = Tree(limits)
    for kind, which, *values in steps:
        if kind == "collect":
            nodes = [
                node for node in tree.root.all() if node.children and all(c.works for c in node.children)
            ]
        else:
            nodes = [node for node in tree.root.all() if node.works]
        if not nodes:
            continue
        node = nodes[which % len(nodes)]
        match kind:
            case "turn":
                tree.turn(node, values[0], lost=values[1])
            case "program":
                tree.program(node, values[0], values[1], killed=values[2])
            case "spawn":
                tree.spawn(node, values[0])
            case _:
                tree.collect(node, lost_rows=values[0])
        tree.check()


def test_everybody_gets_the_same_part() -> None:
    budget = Budget(max_model_calls=100, max_sub_calls=40, max_tokens=4_000, max_cost_usd=4.0, max_children=9)
    lent = budget.lend(3, wall_s=60)
    part = lent.part(3, wall_s=60)
    assert (part.max_model_calls, part.max_sub_calls, part.max_tokens) == (25, 10, 1_000)
    assert (part.max_cost_usd, part.max_wall_s, part.max_children) == (1.0, 60, 2)
    assert (lent.calls_left, lent.sub_calls_left, lent.tokens_left, lent.cost_left_usd) == (
        25,
        10,
        1_000,
        1.0,
    )
    assert (lent.children, lent.on_loan.children) == (3, 6)


def test_what_nobody_knows_counts_in_full() -> None:
    lent = Budget(max_model_calls=90, max_sub_calls=30, max_executor_s=300).lend(2, wall_s=60)
    known = Share(usage=Usage(calls=4), sub_usage=Usage(calls=1), executor_s=5, children=1)
    repaid = lent.repaid([known, None])
    assert (repaid.usage.calls, repaid.sub_usage.calls, repaid.executor_s) == (34, 11, 105)
    assert (repaid.on_loan, repaid.children) == (Share(), 2 + 1 + 15)
    assert lent.repaid([]) == lent  # not even whom it was lent to


@pytest.mark.parametrize(
    "changes",
    [
        {"max_model_calls": 2},
        {"max_tokens": 2},
        {"max_executor_s": 2.5},
        {"max_cost_usd": 1.0, "usage": Usage(cost_usd=1)},
    ],
)
def test_what_is_too_little_is_not_lent(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidData, match="too little for 2 child runs"):
        Budget(**changes).lend(2, wall_s=60)


def test_no_time_is_left_to_lend() -> None:
    with pytest.raises(InvalidData, match="too little"):
        Budget().lend(2, wall_s=0.5)


def test_a_budget_of_an_earlier_version_parses() -> None:
    new = {
        "max_sub_calls",
        "max_depth",
        "max_children",
        "sub_usage",
        "children",
        "on_loan",
        "sub_concurrency",
    }
    old = {key: value for key, value in json.loads(Budget().model_dump_json()).items() if key not in new}
    assert Budget.model_validate_json(json.dumps(old)) == Budget()
    # A loan that was made before the number of children below was counted.
    loan = {"usage": {"calls": 8}, "sub_usage": {}, "executor_s": 10.0}
    budget = Budget.model_validate_json(json.dumps({**old, "on_loan": loan}))
    assert (budget.on_loan.children, budget.repaid([Share(), None]).usage.calls) == (0, 4)


@given(
    st.dictionaries(st.sampled_from(list(Budget.model_fields)), st.integers(-5, 5) | st.text() | st.none())
)
def test_a_stored_budget_is_whole_or_refused(changes: dict[str, Any]) -> None:
    text = json.dumps({**json.loads(Budget().model_dump_json()), **changes})
    try:
        budget = Budget.model_validate_json(text)
    except ValueError:
        return
    assert stored(budget) == budget

from __future__ import annotations

import re
from pathlib import Path

import pytest

from databricks_rlm_agent.errors import InvalidData
from databricks_rlm_agent.runs.fsm import TERMINAL, TRANSITIONS, Event, State, next_state

# The table once more, written by hand from the design's diagram (section 3).
EXPECTED = {
    ("PENDING", "claim"): "PLANNING",
    ("PLANNING", "submitted"): "EXECUTING",
    ("PLANNING", "finish"): "SUCCEEDED",
    ("PLANNING", "ask"): "WAITING_FOR_INPUT",
    ("PLANNING", "spawn"): "WAITING_FOR_CHILDREN",
    ("PLANNING", "give_up"): "FAILED",
    ("EXECUTING", "terminal"): "INGESTING",
    ("INGESTING", "spawn"): "WAITING_FOR_CHILDREN",
    ("INGESTING", "folded"): "PLANNING",
    ("INGESTING", "retry"): "PLANNING",
    ("INGESTING", "give_up"): "FAILED",
    ("WAITING_FOR_CHILDREN", "give_up"): "FAILED",
    ("WAITING_FOR_INPUT", "answered"): "PLANNING",
    ("WAITING_FOR_CHILDREN", "children_done"): "PLANNING",
}
FIXED_NAMES = {
    "PENDING",
    "PLANNING",
    "EXECUTING",
    "INGESTING",
    "WAITING_FOR_INPUT",
    "WAITING_FOR_CHILDREN",
    "SUCCEEDED",
    "FAILED",
    "CANCELLED",
}
PAIRS = [(state, event) for state in State for event in Event]


def test_the_names_of_the_states_are_fixed() -> None:
    assert {state.value for state in State} == FIXED_NAMES
    assert {state.name for state in State} == FIXED_NAMES


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=lambda value: str(value))
def test_every_pair(state: State, event: Event) -> None:
    if state in TERMINAL:
        assert next_state(state, event) is state
    elif event is Event.CANCEL:
        assert next_state(state, event) is State.CANCELLED
    elif (state, event) in EXPECTED:
        assert next_state(state, event) == EXPECTED[state, event]
    else:
        with pytest.raises(InvalidData, match=f"{state} cannot take the event {event}"):
            next_state(state, event)


def test_the_table_holds_nothing_else() -> None:
    cancels = {key for key in TRANSITIONS if key[1] is Event.CANCEL}
    assert {(str(s), str(e)) for s, e in TRANSITIONS if (s, e) not in cancels} == set(EXPECTED)
    assert {state for state, _ in cancels} == set(State) - TERMINAL


def test_every_state_can_be_reached_and_can_end() -> None:
    def reach(start: State) -> set[State]:
        seen, todo = {start}, [start]
        while todo:
            here = todo.pop()
            for (state, _), after in TRANSITIONS.items():
                if state is here and after not in seen:
                    seen.add(after)
                    todo.append(after)
        return seen

    assert reach(State.PENDING) == set(State)
    assert all(reach(state) & {State.SUCCEEDED} for state in set(State) - TERMINAL)


def test_the_diagram_in_the_docs_uses_the_same_names() -> None:
    text = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
    missing = [state.value for state in State if not re.search(rf"\b{state.value}\b", text)]
    assert not missing, f"docs/architecture.md does not name these states: {missing}"

"""The run state machine: one table ``(state, event) -> state``. See the diagram in docs/architecture.md."""

from __future__ import annotations

from enum import StrEnum

from databricks_rlm_agent.errors import InvalidData


class State(StrEnum):
    """States of a run; the names are fixed by the design."""

    PENDING = "PENDING"
    PLANNING = "PLANNING"
    EXECUTING = "EXECUTING"
    INGESTING = "INGESTING"
    WAITING_FOR_INPUT = "WAITING_FOR_INPUT"
    WAITING_FOR_CHILDREN = "WAITING_FOR_CHILDREN"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        """Return whether nothing can change the run any more."""
        return self in TERMINAL


class Event(StrEnum):
    """The events of the state machine."""

    CLAIM = "claim"
    SUBMITTED = "submitted"
    TERMINAL = "terminal"
    FOLDED = "folded"
    RETRY = "retry"
    FINISH = "finish"
    ASK = "ask"
    SPAWN = "spawn"
    ANSWERED = "answered"
    CHILDREN_DONE = "children_done"
    GIVE_UP = "give_up"
    CANCEL = "cancel"


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})

TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.PENDING, Event.CLAIM): State.PLANNING,
    (State.PLANNING, Event.SUBMITTED): State.EXECUTING,
    (State.PLANNING, Event.FINISH): State.SUCCEEDED,
    (State.PLANNING, Event.ASK): State.WAITING_FOR_INPUT,
    (State.PLANNING, Event.SPAWN): State.WAITING_FOR_CHILDREN,
    (State.PLANNING, Event.GIVE_UP): State.FAILED,
    (State.EXECUTING, Event.TERMINAL): State.INGESTING,
    (State.INGESTING, Event.FOLDED): State.PLANNING,
    (State.INGESTING, Event.RETRY): State.PLANNING,  # the same iteration, next attempt, no new plan
    (State.INGESTING, Event.SPAWN): State.WAITING_FOR_CHILDREN,  # the program asked for child runs
    (State.INGESTING, Event.GIVE_UP): State.FAILED,
    (State.WAITING_FOR_INPUT, Event.ANSWERED): State.PLANNING,
    (State.WAITING_FOR_CHILDREN, Event.CHILDREN_DONE): State.PLANNING,
    (State.WAITING_FOR_CHILDREN, Event.GIVE_UP): State.FAILED,  # what they answered cannot be kept
} | {(state, Event.CANCEL): State.CANCELLED for state in State if state not in TERMINAL}


WAITING_FOR_PERSON = frozenset(state for state, event in TRANSITIONS if event is Event.ANSWERED)
CLAIMABLE = frozenset(State) - TERMINAL - WAITING_FOR_PERSON
"""States in which a controller may have something to do; in the others, only if the run was cancelled."""


def next_state(state: State, event: Event) -> State:
    """The state after ``event``. Terminal states absorb; an event that makes no sense raises InvalidData."""
    if state in TERMINAL:
        return state
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise InvalidData(f"A run in state {state} cannot take the event {event!s}.") from None

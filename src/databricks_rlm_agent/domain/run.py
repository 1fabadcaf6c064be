"""A run: one row of ``run_state``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from databricks_rlm_agent.domain.budget import Budget, Usage
from databricks_rlm_agent.domain.capsule import Capsule
from databricks_rlm_agent.domain.fsm import Event, State, next_state


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended, or what it waits for: an answer with its evidence, a reason, or a question."""

    answer: str | None = None
    evidence: str | None = None
    reason: str | None = None
    question: str | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as the store holds it. ``version`` and ``lease_epoch`` are what compare-and-set compares."""

    run_id: str
    item_id: str | None
    parent_run_id: str | None
    depth: int
    current_mode: str
    fsm_state: State
    iter_n: int
    attempt: int
    lease_owner: str | None
    lease_epoch: int
    lease_expiry: datetime | None
    version: int
    write_id: str | None
    capsule: Capsule
    budget: Budget
    last_request: dict[str, Any] | None
    last_result: dict[str, Any] | None
    outcome: Outcome
    model: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def key(self) -> AttemptKey:
        """The attempt that the run is at."""
        return AttemptKey(run_id=self.run_id, iter_n=self.iter_n, attempt=self.attempt)

    def after(self, event: Event, **changes: Any) -> Run:
        """This run after ``event``, with further fields changed. Nothing changes a run that has ended."""
        if self.fsm_state.terminal:
            return self
        return replace(self, fsm_state=next_state(self.fsm_state, event), **changes)

    def spent(self, usage: Usage) -> Run:
        """This run after a model used ``usage``."""
        return replace(self, budget=self.budget.spend(usage))


@dataclass(frozen=True, kw_only=True, order=True)
class AttemptKey:
    """The key of one attempt: of its files, its job run, its request row and its result row."""

    run_id: str
    iter_n: int
    attempt: int


@dataclass(frozen=True, kw_only=True)
class Due:
    """A run that may have something to do: is its result in the ledger, and seconds since it changed."""

    run: Run
    reported: bool
    age_s: float

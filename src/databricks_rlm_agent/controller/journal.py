"""All that a controller has to record of one claimed run: rows of the ledgers, child runs, usage."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import Any

from databricks_rlm_agent.attempts.records import EVENTS_PER_EPOCH, EventRow, RequestRow, ResultRow
from databricks_rlm_agent.errors import ModelOutage, RlmError
from databricks_rlm_agent.ports import CallRecorder, Clock, ModelCall, PlannerNote
from databricks_rlm_agent.runs.budget import Usage
from databricks_rlm_agent.runs.run import Run
from databricks_rlm_agent.values import clip

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Journal:
    """Collects events, requests, results and child runs of one run in one epoch; a tick writes them.

    ``usage`` is what models have used in this epoch, ``record`` their calls' record; ``retry_after_s`` is how
    long the workspace asked us to wait. ``events`` are for people: nothing is decided by them.
    """

    run_id: str
    epoch: int
    actor: str
    clock: Clock
    events: list[EventRow] = field(default_factory=list)
    requests: list[RequestRow] = field(default_factory=list)
    results: list[ResultRow] = field(default_factory=list)
    children: list[Run] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    record: CallRecorder = field(default_factory=CallRecorder)
    retry_after_s: float | None = None

    def event(self, kind: str, **payload: Any) -> None:
        """Record that something happened."""
        self.events.append(
            EventRow(
                run_id=self.run_id,
                seq=self.epoch * EVENTS_PER_EPOCH + len(self.events),
                at=self.clock(),
                kind=kind,
                actor=self.actor,
                epoch=self.epoch,
                payload=json.dumps(payload, ensure_ascii=False, default=str),
            )
        )

    def transition(self, before: Run, after: Run, **payload: Any) -> Run:
        """Record a change of state and return the run after it."""
        details = " ".join(f"{name}={clip(str(value), 200)!r}" for name, value in payload.items() if value)
        log.info("%s → %s %s", before.fsm_state, after.fsm_state, details)
        self.event(
            "transition",
            from_state=before.fsm_state,
            to_state=after.fsm_state,
            iter_n=before.iter_n,
            attempt=before.attempt,
            **payload,
        )
        return after

    def model_calls(self, calls: tuple[ModelCall, ...], *, iter_n: int) -> None:
        """Record what models were asked and what they used."""
        self.usage = sum((call.usage for call in calls), self.usage)
        for call in calls:
            self.event(
                "model_call",
                iter_n=iter_n,
                model=call.model,
                purpose=call.purpose,
                seconds=round(call.seconds, 3),
                error=call.error,
                **call.usage.model_dump(),
            )

    def notes(self, notes: tuple[PlannerNote, ...], *, iter_n: int) -> None:
        """Record what the planner did on its way: tool calls and refusals."""
        for note in notes:
            self.event(note.kind, iter_n=iter_n, **note.payload)

    def transient(self, error: RlmError) -> None:
        """Record an error that may be gone the next time."""
        if not isinstance(error, ModelOutage):  # other runs may have another model
            self.retry_after_s = getattr(error, "retry_after", None)
        self.event("passing_error", error=type(error).__name__, message=str(error))

"""What happened to one run while a controller held it: the rows that it adds to the ledgers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from databricks_rlm_agent.domain.records import EventRow, RequestRow, ResultRow
from databricks_rlm_agent.domain.run import Run
from databricks_rlm_agent.ports import Clock, ModelCall, Note

# Events of one epoch never reach the next one's numbers, so a stale controller cannot take a live one's key.
_EVENTS_PER_EPOCH = 10_000


@dataclass(kw_only=True)
class Journal:
    """Collects events, requests and results of one run in one epoch."""

    run_id: str
    epoch: int
    actor: str
    clock: Clock
    events: list[EventRow] = field(default_factory=list)
    requests: list[RequestRow] = field(default_factory=list)
    results: list[ResultRow] = field(default_factory=list)

    def event(self, kind: str, **payload: Any) -> None:
        """Record that something happened."""
        self.events.append(
            EventRow(
                run_id=self.run_id,
                seq=self.epoch * _EVENTS_PER_EPOCH + len(self.events),
                at=self.now(),
                kind=kind,
                actor=self.actor,
                epoch=self.epoch,
                payload=json.dumps(payload, ensure_ascii=False, default=str),
            )
        )

    def transition(self, before: Run, after: Run, **payload: Any) -> Run:
        """Record a change of state and return the run after it."""
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

    def notes(self, notes: tuple[Note, ...], *, iter_n: int) -> None:
        """Record what the planner did on its way: tool calls and refusals."""
        for note in notes:
            self.event(note.kind, iter_n=iter_n, **note.payload)

    def now(self) -> datetime:
        """The time, by the controller's clock: for the record only, never for a decision about a lease."""
        return self.clock()

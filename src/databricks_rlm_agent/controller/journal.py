"""All that a controller records of one claimed run: rows of the ledgers, child runs, and model calls.

Before every model call a claim puts ``planning/<n>.json`` into the run's folder, n counting up, without
overwriting. A claim that follows on others which never reported puts a mark of its own into the next place
that is free. From then on the others can make no further call, and it knows what they have made: at most one
too many for each of them, where it died between record and call.
"""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import dataclass, field
from typing import Any

from pydantic import AwareDatetime, Field

from databricks_rlm_agent.attempts.records import EVENTS_PER_EPOCH, EventRow, RequestRow, ResultRow
from databricks_rlm_agent.errors import AlreadyExists, Conflict, ModelOutage, NotFound, RlmError
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.ports import CallRecorder, ModelCall, PlannerNote, Volume
from databricks_rlm_agent.runs.budget import Usage
from databricks_rlm_agent.runs.parsing import Document, parse
from databricks_rlm_agent.runs.run import Run
from databricks_rlm_agent.values import Clock, clip

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


class _Entry(Document):
    """A call, or the mark of a claim: the claim's epoch and name, and what all claims since the last save
    have used at least, by their epochs. So the last entry tells everything. ``begun`` tells the run from one
    of the same id whose row is gone.
    """

    begun: AwareDatetime
    epoch: int
    by: str
    used: dict[int, Usage] = Field(default_factory=dict)


@dataclass(kw_only=True)
class CallRecord(CallRecorder):
    """The calls of one claim. Safe to use from several threads: one call at a time.

    ``last`` is the number of the last entry that is known, ``used`` its content.
    """

    volume: Volume
    namespace: Namespace
    run: Run
    last: int = field(init=False)
    used: dict[int, Usage] = field(default_factory=dict)
    _unused: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.last = self.run.budget.recorded

    def take_over(self) -> dict[int, Usage]:
        """End the records of all earlier claims; return what those have used at least that never reported."""
        self._find_end()
        unreported = self.run.budget.unreported(self.run.lease_epoch)
        while True:  # what is in the place that was free has come from one of them, just now
            self.used = {epoch: usage for epoch, usage in self.used.items() if epoch in unreported}
            if (found := self._put(self.used)) is None:
                return dict(self.used)
            self._take(found)

    def asking(self, usage: Usage) -> None:
        """Record a call that is about to be made, and what it will use at least.

        Raises Conflict where another controller has taken the run over: nothing may be asked any more.
        """
        epoch = self.run.lease_epoch
        with self._lock:
            if self._unused:
                self._unused -= 1
                return
            used = self.used | {epoch: self.used.get(epoch, Usage()) + usage}
            while self._put(used) is not None:
                pass  # of a call that was never made, since it could not be told that it was on record
            self.used = used

    def not_charged(self) -> None:
        """Take back a call that no model has answered: the next one has its entry."""
        with self._lock:
            self._unused += 1

    def _find_end(self) -> None:
        """Find the last entry, in as many reads as the logarithm of their number."""
        step = 1
        while self._is_there(self.last + step):
            step *= 2
        while step > 1:
            step //= 2
            self._is_there(self.last + step)

    def _is_there(self, number: int) -> bool:
        try:
            found = self._read(number)
        except NotFound:
            return False
        self.last = number
        self._take(found)
        return True

    def _take(self, found: _Entry) -> None:
        self.used = found.used if found.begun == self.run.created_at else {}

    def _put(self, used: dict[int, Usage]) -> _Entry | None:
        """Put an entry into the next place, or return what is in it; raise Conflict if that is newer."""
        run, number = self.run, self.last + 1
        entry = _Entry(begun=run.created_at, epoch=run.lease_epoch, by=str(run.lease_owner), used=used)
        found = None
        try:
            self.volume.put(self._path(number), entry.model_dump_json().encode(), overwrite=False)
        except AlreadyExists:  # of another claim, or ours, and the answer was lost
            found = self._read(number)
            if found.begun == run.created_at and found.epoch > run.lease_epoch:
                what = "The run was taken over by another controller."
                raise Conflict(what, where=f"run {run.run_id}") from None
        self.last = number
        return None if found == entry else found

    def _read(self, number: int) -> _Entry:
        path = self._path(number)
        return parse(_Entry, self.volume.get(path), what="The record of a model call", where=path)

    def _path(self, number: int) -> str:
        return f"{self.namespace.run_dir(self.run.run_id)}/planning/{number}.json"

"""What happens while a workflow runs, as it happens: for a terminal, for JSON lines, for an agent."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from databricks_rlm_agent.sqltext.errors import Problem


class EventKind(StrEnum):
    """What has happened."""

    RUN_STARTED = "run_started"
    STAGE_STARTED = "stage_started"
    STEP_STARTED = "step_started"
    STEP_KEPT = "step_kept"
    STATEMENT_STARTED = "statement_started"
    STATEMENT_DONE = "statement_done"
    RETRY = "retry"
    WARNING = "warning"
    ITERATION_STARTED = "iteration_started"
    ITERATION_DONE = "iteration_done"
    OPTIMIZED = "optimized"
    STEP_DONE = "step_done"
    STEP_FAILED = "step_failed"
    STEP_SKIPPED = "step_skipped"
    CHECKING = "checking"
    CHECKED = "checked"
    NOTICE = "notice"
    INTERRUPTING = "interrupting"
    RUN_FINISHED = "run_finished"


@dataclass(frozen=True, kw_only=True)
class WorkflowEvent:
    """One thing that has happened. Only what makes sense for its kind is set.

    ``statement`` counts from 1, of ``statements`` in the file.
    """

    kind: EventKind
    at: datetime
    text: str = ""
    step: str | None = None
    file: str | None = None
    line: int | None = None
    statement: int | None = None
    statements: int | None = None
    iteration: int | None = None
    rows: int | None = None
    changed: int | None = None
    seconds: float | None = None
    problem: Problem | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without what is not set."""
        document = {name: value for name, value in asdict(self).items() if value not in (None, "")}
        return document | {"at": self.at.isoformat()}


class Observer(Protocol):
    """Is told of every event, one at a time."""

    def on(self, event: WorkflowEvent) -> None:
        """Take note. It must not take long: steps wait for it."""


class Silent:
    """An observer that takes no note."""

    def on(self, event: WorkflowEvent) -> None:
        """Nothing."""


class Feed:
    """Tells an observer of events from any thread, one after another."""

    def __init__(self, observer: Observer, clock: Any) -> None:
        self._observer, self._clock, self._lock = observer, clock, threading.Lock()

    def tell(self, kind: EventKind, text: str = "", **what: Any) -> None:
        """Something has happened now; ``what`` are fields of Event."""
        with self._lock:
            self._observer.on(WorkflowEvent(kind=kind, at=self._clock(), text=text, **what))

"""The events of a run, and the line of text that each is shown as: on a terminal, in a log, to the agent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any, Protocol

from databricks_rlm_agent.sqltext.errors import Problem
from databricks_rlm_agent.values import Clock, clip

_LINE_CHARS, _MESSAGE_CHARS = 400, 2000  # of a message within a line, and where it is the subject


class EventKind(StrEnum):
    """The kind of an event."""

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
        """Return the event for JSON, without what is not set."""
        document = {name: value for name, value in asdict(self).items() if value not in (None, "")}
        return document | {"at": self.at.isoformat()}


class Observer(Protocol):
    """Receives every event, one at a time."""

    def on(self, event: WorkflowEvent) -> None:
        """Handle an event. It must return soon: steps wait for it."""


class EventEmitter:
    """Sends events to an observer, if there is one, from any thread, one after another."""

    def __init__(self, observer: Observer | None, clock: Clock) -> None:
        self._observer, self._clock, self._lock = observer, clock, threading.Lock()

    def emit(self, kind: EventKind, text: str = "", **fields: Any) -> None:
        """Send an event that happens now; ``fields`` are those of WorkflowEvent."""
        if self._observer is None:
            return
        with self._lock:
            self._observer.on(WorkflowEvent(kind=kind, at=self._clock(), text=text, **fields))


class LineSeverity(IntEnum):
    """The severity of a line. DETAIL: single statements."""

    DETAIL = 0
    INFO = 1
    WARNING = 2
    ERROR = 3


@dataclass(frozen=True, kw_only=True)
class EventLine:
    """The text that an event is shown as; that of a failed step has several lines."""

    text: str
    severity: LineSeverity = LineSeverity.INFO


class LineObserver:
    """An observer that writes the lines of the events, from a severity on."""

    def __init__(self, write: Callable[[str], None], *, least: LineSeverity = LineSeverity.INFO) -> None:
        self._write, self._least = write, least

    def on(self, event: WorkflowEvent) -> None:
        """Write the line of the event, if it has one."""
        line = render(event)
        if line is not None and line.severity >= self._least:
            self._write(line.text)


_ITERATION = "  • {event.step} iteration {event.iteration}: "
_FORMATS = {
    EventKind.RUN_STARTED: "workflow run {event.text}",
    EventKind.STAGE_STARTED: "{event.text}",
    EventKind.STEP_STARTED: "• {event.step}",
    EventKind.STEP_DONE: "✓ {event.step}{rows} {took}",
    EventKind.STEP_KEPT: "✓ {event.step} (done before)",
    EventKind.STEP_FAILED: "✗ {event.step}: {event.text}",
    EventKind.STEP_SKIPPED: "- {event.step} is skipped: {event.text}",
    EventKind.ITERATION_DONE: _ITERATION + "{event.changed:,} rows changed {took}",
    EventKind.OPTIMIZED: "  • {event.text} optimized {took}",
    EventKind.NOTICE: "  • {event.text}",
    EventKind.INTERRUPTING: "  • {event.text}",
    EventKind.STATEMENT_DONE: "    {event.file}:{event.line} {event.text}{rows} {took}",
    EventKind.CHECKING: "checking {event.text}",
}
_FIRST_ITERATION = _ITERATION + "the first{rows} in all {took}"
_SEVERITIES = {
    EventKind.STATEMENT_DONE: LineSeverity.DETAIL,
    EventKind.WARNING: LineSeverity.WARNING,
    EventKind.STEP_FAILED: LineSeverity.ERROR,
}


def render(event: WorkflowEvent) -> EventLine | None:
    """Return the line of an event; None for one that is not shown."""
    took = "" if event.seconds is None else f"({event.seconds:.1f} s)"
    severity = _SEVERITIES.get(event.kind, LineSeverity.INFO)
    if event.problem is not None:
        return EventLine(text=_problem_text(event, event.problem, took), severity=severity)
    template = _FORMATS.get(event.kind)
    if event.kind is EventKind.ITERATION_DONE and event.changed is None:
        template = _FIRST_ITERATION if event.rows is not None else _ITERATION + "the first {took}"
    if template is None:
        return None
    rows = "" if event.rows is None else f" {event.rows:,} {'row' if event.rows == 1 else 'rows'}"
    return EventLine(text=template.format(event=event, rows=rows, took=took).rstrip(), severity=severity)


def _problem_text(event: WorkflowEvent, problem: Problem, took: str) -> str:
    if event.kind is EventKind.STEP_FAILED:
        return f"✗ {event.step} {took}\n{problem_lines(problem)}"
    mark = "!" if event.kind is EventKind.WARNING else "•"
    prefix = f"{event.text}: " if event.text else ""
    return f"  {mark} {problem.where} {prefix}{one_line(problem.message)}"


def problem_lines(problem: Problem) -> str:
    """Return indented lines: the problem, where it is, and what to do."""
    text = f"{problem.severity.value}, {problem.kind.value}: {clip(problem.message, _MESSAGE_CHARS)}"
    lines = text.splitlines()
    if problem.where:
        lines.append(f"at {problem.where}" + (f": {problem.statement}" if problem.statement else ""))
    return "\n".join(f"    {line}" for line in [*lines, problem.hint] if line)


def one_line(message: str) -> str:
    """Return a message on one line, cut to a bounded length: a warehouse may send pages."""
    return " ".join("".join(c if c.isprintable() else " " for c in clip(message, _LINE_CHARS)).split())

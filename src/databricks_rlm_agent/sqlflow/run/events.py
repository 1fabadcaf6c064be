"""What a run reports as it happens and at its end: events as lines of text, and a value for the agent."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any, Protocol

from databricks_rlm_agent.sqlflow.handover import for_agent
from databricks_rlm_agent.sqlflow.run.outcome import Report, StepOutcome, StepStatus, TableCheck
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


class LineObserver:
    """An observer that writes the lines of the events, from a severity on."""

    def __init__(self, write: Callable[[str], None], *, least: LineSeverity = LineSeverity.INFO) -> None:
        self._write, self._least = write, least

    def on(self, event: WorkflowEvent) -> None:
        """Write the line of the event, if it has one."""
        text = _line_of(event)
        if text is not None and _SEVERITIES.get(event.kind, LineSeverity.INFO) >= self._least:
            self._write(text)


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


def _line_of(event: WorkflowEvent) -> str | None:
    """Return the text of an event, of a failed step several lines; None for one that is not shown."""
    took = "" if event.seconds is None else f"({event.seconds:.1f} s)"
    if event.problem is not None:
        return _problem_text(event, event.problem, took)
    template = _FORMATS.get(event.kind)
    if event.kind is EventKind.ITERATION_DONE and event.changed is None:
        template = _FIRST_ITERATION if event.rows is not None else _ITERATION + "the first {took}"
    if template is None:
        return None
    rows = "" if event.rows is None else f" {event.rows:,} {'row' if event.rows == 1 else 'rows'}"
    return template.format(event=event, rows=rows, took=took).rstrip()


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


MAX_BYTES = 48 * 1024  # of the report as JSON; rlm.finish takes 64 KB
_VALUE_CHARS = 400  # of a message in it
NOTICES = 20
_PROBLEMS = 8
_CHANGES = 12  # of a loop's first and last iterations


def problem_line(problem: Problem) -> str:
    """Return what went wrong, where, and what to do, in one line."""
    where = f"{problem.where}: " if problem.where else ""
    hint = for_agent(problem.hint)
    return f"{where}{problem.message[:_VALUE_CHARS]} ({problem.kind.value}) {hint}".strip()


def summary(report: Report) -> str:
    """Return why a workflow has not succeeded: the steps that failed, with file and line."""
    failed = [step for step in report.steps if step.problem is not None and not step.status.complete]
    reasons = [f"{step.id}: {problem_line(step.problem)}" for step in failed[:3] if step.problem is not None]
    reasons += [f"and {len(failed) - 3} more steps failed"] if len(failed) > 3 else []
    reasons = reasons or [for_agent(line) for line in report.next[:3]]
    steps = f"{report.complete_steps} of {len(report.steps)} steps done"
    return f"{report.workflow} {report.status.value}, {steps}. {' | '.join(reasons)}"


def report_value(report: Report, *, folder: str) -> dict[str, Any]:
    """Return the report for the planner as a JSON value of bounded size, what went wrong first."""
    value: dict[str, Any] = {
        "workflow": report.workflow,
        "status": report.status.value,
        "steps": {"all": len(report.steps)}
        | {status.value: report.count(status) for status in StepStatus if report.count(status)},
        "folder": folder,
        "problems": [
            {"step": step.id, "step_status": step.status.value, **_problem(step.problem)}
            for step in report.steps
            if step.problem is not None
        ][:_PROBLEMS],
        "loops": {step.id: _loop(step) for step in report.steps if step.iterations or step.end},
        "tables": [_table(table) for table in report.tables],
        "not_done": [step.id for step in report.steps if not step.status.complete],
        "warnings": [_problem(problem) for step in report.steps for problem in step.warnings][:_PROBLEMS],
        "seconds": round(report.seconds, 1),
        "run": report.workflow_run_id,
        "notices": [for_agent(notice)[:_VALUE_CHARS] for notice in report.notices[:NOTICES]],
    }
    return _shortened(value, ("notices", "warnings", "tables", "not_done", "loops"))


def _problem(problem: Problem) -> dict[str, Any]:
    fields = {
        "file": problem.file,
        "line": problem.line,
        "kind": problem.kind.value,
        "message": problem.message[:_VALUE_CHARS],
        "hint": for_agent(problem.hint),
        "statement": problem.statement,
    }
    return {name: value for name, value in fields.items() if value not in (None, "")}


def _loop(step: StepOutcome) -> dict[str, Any]:
    changed: list[Any] = [measure.changed for measure in step.iterations]
    iterations = len(changed)
    if iterations > 2 * _CHANGES:
        changed = [*changed[:_CHANGES], "…", *changed[-_CHANGES:]]
    return {"end": step.end.value if step.end else None, "iterations": iterations, "rows_changed": changed}


def _table(table: TableCheck) -> dict[str, Any]:
    fields = {"table": table.table, "rows": table.rows, "unique": table.unique, "faults": list(table.faults)}
    return {name: value for name, value in fields.items() if value not in (None, [])}


def _shortened(value: dict[str, Any], order: Iterable[str]) -> dict[str, Any]:
    """Cut the ends of lists, in this order, until the value is small enough; count them in ``left_out``."""
    left_out: dict[str, int] = {}
    for name in order:
        while len(json.dumps(value, default=str)) > MAX_BYTES and value[name]:
            entries = list(value[name])
            kept = entries[: len(entries) // 2]
            left_out[name] = left_out.get(name, 0) + len(entries) - len(kept)
            value["left_out"] = left_out
            value[name] = {key: value[name][key] for key in kept} if isinstance(value[name], dict) else kept
    return value

"""How a SQL workflow goes, as lines for a person."""

from __future__ import annotations

from collections.abc import Callable

from databricks_rlm_agent.domain.memory import one_line
from databricks_rlm_agent.domain.text import clip
from databricks_rlm_agent.domain.workflow.running.sqlerrors import Problem
from databricks_rlm_agent.sqlflow.events import Event, EventKind

_LINE, _MESSAGE = 400, 2000  # characters of a message, where it has a line, and where it is the subject


class Lines:
    """An observer that writes a line for what a person wants to know."""

    def __init__(self, write: Callable[[str], None], *, statements: bool = False) -> None:
        self._write, self._statements = write, statements

    def on(self, event: Event) -> None:
        """Write it, if it is worth a line."""
        line = self._line(event)
        if line is not None:
            self._write(line)

    def _line(self, event: Event) -> str | None:
        if event.kind is EventKind.STATEMENT_DONE and not self._statements:
            return None
        if event.kind is EventKind.ITERATION_DONE and event.changed is None:
            return _FIRST.format(event=event, rows=_rows(event.rows, " in all"), took=_took(event))
        if event.problem is not None:
            return _trouble(event, event.problem)
        form = _FORMS.get(event.kind)
        if form is None:
            return None
        told = {"event": event, "rows": _rows(event.rows), "took": _took(event)}
        return form.format(**told).rstrip()


_ITERATION = "  • {event.step} iteration {event.iteration}: "
_FIRST = _ITERATION + "the first{rows} {took}"
_FORMS = {
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


def _trouble(event: Event, problem: Problem) -> str:
    if event.kind is EventKind.STEP_FAILED:
        return f"✗ {event.step} {_took(event)}\n{problem_lines(problem)}"
    mark = "!" if event.kind is EventKind.WARNING else "•"
    said = f"{event.text}: " if event.text else ""
    return f"  {mark} {problem.where} {said}{short(problem.message)}"


def problem_lines(problem: Problem) -> str:
    """What went wrong, where, and what to do, indented."""
    told = f"{problem.severity.value}, {problem.kind.value}: {clip(problem.message, _MESSAGE)}"
    lines = told.splitlines()
    if problem.where:
        lines.append(f"at {problem.where}" + (f": {problem.statement}" if problem.statement else ""))
    return "\n".join(f"    {line}" for line in [*lines, problem.hint] if line)


def short(message: str) -> str:
    """A message on one line that is not too long: a warehouse may send pages."""
    return one_line(clip(message, _LINE))


def printable(text: str) -> str:
    """Text without what a terminal would take for a command: messages may hold anything."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def _rows(rows: int | None, more: str = "") -> str:
    return "" if rows is None else f" {rows:,} {'row' if rows == 1 else 'rows'}{more}"


def _took(event: Event) -> str:
    return "" if event.seconds is None else f"({event.seconds:.1f} s)"

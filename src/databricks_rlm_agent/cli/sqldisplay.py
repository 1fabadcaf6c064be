"""How a SQL workflow goes, and how it went, as lines for a person."""

from __future__ import annotations

from collections.abc import Callable

from databricks_rlm_agent.domain.workflow.outcome import Report, RunStatus, StepStatus
from databricks_rlm_agent.domain.workflow.sqlerrors import Problem
from databricks_rlm_agent.sqlflow.events import Event, EventKind

_MARKS = {
    StepStatus.DONE: "✓",
    StepStatus.KEPT: "✓",
    StepStatus.FAILED: "✗",
    StepStatus.SKIPPED: "-",
    StepStatus.INTERRUPTED: "✗",
    StepStatus.NOT_RUN: "-",
}


class Lines:
    """An observer that writes a line for what a person wants to know."""

    def __init__(self, write: Callable[[str], None], *, verbose: bool = False) -> None:
        self._write, self._verbose = write, verbose

    def on(self, event: Event) -> None:
        """Write it, if it is worth a line."""
        line = self._line(event)
        if line is not None:
            self._write(line)

    def _line(self, event: Event) -> str | None:
        if event.kind is EventKind.STATEMENT_DONE and not self._verbose:
            return None
        if event.problem is not None:
            return _trouble(event, event.problem)
        form = _FORMS.get(event.kind)
        if form is None:
            return None
        changed = "no rows before" if event.changed is None else f"{event.changed:,} rows changed"
        told = {"event": event, "rows": _rows(event.rows), "took": _took(event), "changed": changed}
        return form.format(**told).rstrip()


_FORMS = {
    EventKind.RUN_STARTED: "workflow run {event.text}",
    EventKind.STEP_STARTED: "• {event.step}",
    EventKind.STEP_DONE: "✓ {event.step}{rows} {took}",
    EventKind.STEP_KEPT: "✓ {event.step} (done before)",
    EventKind.STEP_FAILED: "✗ {event.step}: {event.text}",
    EventKind.STEP_SKIPPED: "- {event.step} is skipped: {event.text}",
    EventKind.ITERATION_DONE: "  • {event.step} iteration {event.iteration}: {changed} {took}",
    EventKind.OPTIMIZED: "  • {event.text} optimized {took}",
    EventKind.NOTICE: "  • {event.text}",
    EventKind.INTERRUPTING: "  • {event.text}",
    EventKind.STATEMENT_DONE: "    {event.file}:{event.line} {event.text}{rows} {took}",
}


def _trouble(event: Event, problem: Problem) -> str:
    if event.kind is EventKind.STEP_FAILED:
        return f"✗ {event.step} {_took(event)}\n{problem_lines(problem)}"
    mark = "!" if event.kind is EventKind.WARNING else "•"
    said = f"{event.text}: " if event.text else ""
    return f"  {mark} {problem.where} {said}{problem.message}"


def problem_lines(problem: Problem) -> str:
    """What went wrong, where, and what to do, indented."""
    lines = [f"{problem.severity.value}, {problem.kind.value}: {problem.message}"]
    if problem.where:
        lines.append(f"at {problem.where}" + (f": {problem.statement}" if problem.statement else ""))
    return "\n".join(f"    {line}" for line in [*lines, problem.hint] if line)


def report_lines(report: Report) -> list[str]:
    """The final report."""
    done = report.count(StepStatus.DONE) + report.count(StepStatus.KEPT)
    whole = f"{report.workflow}: {report.status.value}, {done} of {len(report.steps)} steps"
    lines = ["", f"{whole}, {report.seconds:.1f} s (run {report.workflow_run_id})"]
    for step in report.steps:
        end = f" {step.end.value} after {len(step.iterations)} iterations" if step.end else ""
        lines.append(f"  {_MARKS[step.status]} {step.id:<40} {step.status.value}{end} {step.seconds:.1f} s")
        if step.iterations:
            changed = ", ".join("-" if m.changed is None else str(m.changed) for m in step.iterations)
            lines.append(f"      rows changed: {changed}")
    if report.path:
        lines.append(f"critical path: {' → '.join(report.path)} ({report.path_seconds:.1f} s)")
    for table in report.tables:
        state = f"{table.rows:,} rows" if table.rows is not None else "a view" if table.view else ""
        state = "; ".join(filter(None, [state, *table.faults]))
        lines.append(f"  {'✓' if table.good else '✗'} {table.table}: {state}")
    lines += [f"notice: {notice}" for notice in report.notices]
    if report.next and report.status is not RunStatus.SUCCEEDED:
        lines += ["next:", *(f"  {line}" for line in report.next)]
    return lines


def _rows(rows: int | None) -> str:
    return "" if rows is None else f" {rows:,} rows"


def _took(event: Event) -> str:
    return "" if event.seconds is None else f"({event.seconds:.1f} s)"

"""How a SQL workflow went, as lines for a person."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from databricks_rlm_agent.sqlflow.checks import TableCheck, percent
from databricks_rlm_agent.sqlflow.report.charts import seconds
from databricks_rlm_agent.sqlflow.run.convergence import Measure
from databricks_rlm_agent.sqlflow.run.events import EventKind, WorkflowEvent
from databricks_rlm_agent.sqlflow.run.outcome import Report, RunStatus, StepOutcome, StepStatus
from databricks_rlm_agent.sqltext.errors import Problem
from databricks_rlm_agent.values import clip

_LINE, _MESSAGE = 400, 2000  # characters of a message, where it has a line, and where it is the subject


class LineReporter:
    """An observer that writes a line for what a person wants to know."""

    def __init__(self, write: Callable[[str], None], *, statements: bool = False) -> None:
        self._write, self._statements = write, statements

    def on(self, event: WorkflowEvent) -> None:
        """Write it, if it is worth a line."""
        line = self._line(event)
        if line is not None:
            self._write(line)

    def _line(self, event: WorkflowEvent) -> str | None:
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


def _trouble(event: WorkflowEvent, problem: Problem) -> str:
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
    """Return a message on one line, cut to a bounded length: a warehouse may send pages."""
    return " ".join("".join(c if c.isprintable() else " " for c in clip(message, _LINE)).split())


def printable(text: str) -> str:
    """Text without what a terminal would take for a command: messages may hold anything."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def _rows(rows: int | None, more: str = "") -> str:
    return "" if rows is None else f" {rows:,} {'row' if rows == 1 else 'rows'}{more}"


def _took(event: WorkflowEvent) -> str:
    return "" if event.seconds is None else f"({event.seconds:.1f} s)"


_GOOD = {StepStatus.DONE, StepStatus.KEPT}
_MARKS = {
    StepStatus.DONE: "✓",
    StepStatus.KEPT: "✓",
    StepStatus.FAILED: "✗",
    StepStatus.SKIPPED: "-",
    StepStatus.INTERRUPTED: "✗",
    StepStatus.NOT_RUN: "-",
}
_NAME = 56  # columns of a name at most, where names are set in a column
_LINE = 100


def report_lines(report: Report) -> list[str]:
    """The final report."""
    return [*_head(report), *_steps(report), *_path(report), *_tables(report), *_ending(report)]


def _head(report: Report) -> Iterator[str]:
    done = sum(step.status in _GOOD for step in report.steps)
    mark = "✓" if report.status is RunStatus.SUCCEEDED else "✗"
    yield ""
    yield (
        f"{mark} {report.workflow}: {report.status.value}, {done} of {len(report.steps)} steps in "
        f"{seconds(report.seconds)} (run {report.workflow_run_id})"
    )


def _steps(report: Report) -> Iterator[str]:
    width = _width(step.id for step in report.steps)
    times = {step.id: seconds(step.seconds) for step in report.steps if step.started_at is not None}
    time = max([6, *map(len, times.values())])
    rows = max([0, *(len(f"{step.rows:,}") for step in report.steps if step.rows is not None)])
    for step in report.steps:
        affected = f"{step.rows:,}" if step.rows is not None else ""
        unit = "" if not affected else "row" if step.rows == 1 else "rows"
        told = f"{affected:>{rows}} {unit:<4}  {_said(step)}" if rows else _said(step)
        yield f"  {_MARKS[step.status]} {step.id:<{width}} {times.get(step.id, ''):>{time}}  {told}".rstrip()
        yield from _within(step)


def _said(step: StepOutcome) -> str:
    if step.end is not None or step.iterations:
        many = f"{len(step.iterations)} iteration{'' if len(step.iterations) == 1 else 's'}"
        before = f", {step.iterations_before} of them before" if step.iterations_before else ""
        return f"{step.end.value if step.end else step.status.value}, {many}{before}"
    return {StepStatus.DONE: "", StepStatus.KEPT: "done before"}.get(step.status, step.status.value)


def _within(step: StepOutcome) -> Iterator[str]:
    if step.iterations:
        yield f"      rows changed: {history(step.iterations)}"
    for warning in step.warnings:
        yield f"      ! {_place(warning)}{short(warning.message)}"
    if step.problem is not None:
        yield f"      ✗ {_place(step.problem)}{short(step.problem.message)}"


def history(iterations: Sequence[Measure]) -> str:
    """The rows changed by each iteration: ``- → 812 → 33 → 0``, where ``-`` had none before it."""
    return " → ".join("-" if each.changed is None else f"{each.changed:,}" for each in iterations)


def _path(report: Report) -> Iterator[str]:
    if not report.path:
        return
    took = {step.id: step.seconds for step in report.steps}
    share = f", {report.path_seconds / report.seconds:.0%} of the time" if report.seconds else ""
    yield ""
    yield f"critical path: {seconds(report.path_seconds)}{share}"
    yield from _wrapped([f"{step} {seconds(took[step])}" for step in report.path])
    if report.seconds and report.step_seconds > report.seconds:
        times = report.step_seconds / report.seconds
        yield f"  all steps together {seconds(report.step_seconds)}: {times:.1f} at once on average"


def _wrapped(parts: Sequence[str]) -> Iterator[str]:
    line = " "
    for place, part in enumerate(parts):
        more = f" → {part}" if place else f" {part}"
        if place and len(line) + len(more) > _LINE:
            yield line
            line = f"  {more}"
        else:
            line += more
    yield line


def _tables(report: Report) -> Iterator[str]:
    if not report.tables:
        return
    bad = sum(not table.good for table in report.tables)
    yield ""
    verdict = f"{bad} not as they should be" if bad else "all good"
    yield f"tables and views: {len(report.tables)} checked, {verdict}"
    width = _width(table.table for table in report.tables)
    rows = max([4, *(len(f"{table.rows:,}") for table in report.tables if table.rows is not None)])
    for table in report.tables:
        count = f"{table.rows:,}" if table.rows is not None else "view" if table.view else ""
        key = f"key {', '.join(table.key)} is unique" if table.unique else ""
        yield f"  {'✓' if table.good else '✗'} {table.table:<{width}} {count:>{rows}}  {key}".rstrip()
        yield from _covered(table)
        yield from (f"      ✗ {short(fault)}" for fault in table.faults)


def _covered(table: TableCheck) -> Iterator[str]:
    """Coverage that is as it was declared; what is not is among the faults."""
    for each in table.coverage:
        if each.good:
            share = "no keys" if each.share is None else percent(each.share)
            yield f"      covers {share} of {each.table}: {each.found:,} of {each.keys:,} keys"


def _ending(report: Report) -> Iterator[str]:
    if report.notices:
        yield from ("", "notices", *(f"  • {notice}" for notice in report.notices))
    if report.next:
        yield from ("", "next", *(f"  → {line}" for line in report.next))


def _place(problem: Problem) -> str:
    return f"{problem.where} " if problem.where else ""


def _width(names: Iterator[str]) -> int:
    return min(_NAME, max(map(len, names), default=0))

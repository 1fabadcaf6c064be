"""Renders the final report of a SQL workflow as lines for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from databricks_rlm_agent.sqlflow.checks import TableCheck, percent
from databricks_rlm_agent.sqlflow.report.charts import seconds
from databricks_rlm_agent.sqlflow.run.events import one_line
from databricks_rlm_agent.sqlflow.run.outcome import Measure, Report, RunStatus, StepOutcome, StepStatus
from databricks_rlm_agent.sqltext.errors import Problem

_MARKS = {
    StepStatus.DONE: "✓",
    StepStatus.KEPT: "✓",
    StepStatus.FAILED: "✗",
    StepStatus.SKIPPED: "-",
    StepStatus.INTERRUPTED: "✗",
    StepStatus.NOT_RUN: "-",
}
_NAME_WIDTH = 56  # of names in a column, at most
_LINE_WIDTH = 100


def report_lines(report: Report) -> list[str]:
    """Return the final report."""
    return [*_head(report), *_steps(report), *_path(report), *_tables(report), *_ending(report)]


def _head(report: Report) -> Iterator[str]:
    mark = "✓" if report.status is RunStatus.SUCCEEDED else "✗"
    yield ""
    yield (
        f"{mark} {report.workflow}: {report.status.value}, {report.complete_steps} of {len(report.steps)} "
        f"steps in {seconds(report.seconds)} (run {report.workflow_run_id})"
    )


def _steps(report: Report) -> Iterator[str]:
    width = _width(step.id for step in report.steps)
    times = {step.id: seconds(step.seconds) for step in report.steps if step.started_at is not None}
    time_width = max([6, *map(len, times.values())])
    row_width = max([0, *(len(f"{step.rows:,}") for step in report.steps if step.rows is not None)])
    for step in report.steps:
        rows = f"{step.rows:,}" if step.rows is not None else ""
        unit = "" if not rows else "row" if step.rows == 1 else "rows"
        columns = [_MARKS[step.status], f"{step.id:<{width}}", f"{times.get(step.id, ''):>{time_width}}"]
        columns += ["", f"{rows:>{row_width}} {unit:<4}"] if row_width else []
        yield f"  {' '.join([*columns, '', _state(step)])}".rstrip()
        if step.iterations:
            yield f"      rows changed: {history(step.iterations)}"
        yield from (f"      ! {_where(warning)}{one_line(warning.message)}" for warning in step.warnings)
        if step.problem is not None:
            yield f"      ✗ {_where(step.problem)}{one_line(step.problem.message)}"


def _state(step: StepOutcome) -> str:
    if step.end is not None or step.iterations:
        count = f"{len(step.iterations)} iteration{'' if len(step.iterations) == 1 else 's'}"
        before = f", {step.iterations_before} of them before" if step.iterations_before else ""
        return f"{step.end.value if step.end else step.status.value}, {count}{before}"
    return {StepStatus.DONE: "", StepStatus.KEPT: "done before"}.get(step.status, step.status.value)


def history(iterations: Sequence[Measure]) -> str:
    """Return the rows that each iteration changed: ``- → 812 → 33 → 0``; ``-`` had none before it."""
    return " → ".join("-" if each.changed is None else f"{each.changed:,}" for each in iterations)


def _path(report: Report) -> Iterator[str]:
    if not report.path:
        return
    step_seconds = {step.id: step.seconds for step in report.steps}
    share = f", {report.path_seconds / report.seconds:.0%} of the time" if report.seconds else ""
    yield ""
    yield f"critical path: {seconds(report.path_seconds)}{share}"
    yield from _wrapped([f"{step} {seconds(step_seconds[step])}" for step in report.path])
    if report.seconds and report.step_seconds > report.seconds:
        average = report.step_seconds / report.seconds
        yield f"  all steps together {seconds(report.step_seconds)}: {average:.1f} at once on average"


def _wrapped(parts: Sequence[str]) -> Iterator[str]:
    line = f"  {parts[0]}"
    for part in parts[1:]:
        addition = f" → {part}"
        if len(line) + len(addition) > _LINE_WIDTH:
            yield line
            line = f"  {addition}"
        else:
            line += addition
    yield line


def _tables(report: Report) -> Iterator[str]:
    if not report.tables:
        return
    bad = sum(not table.good for table in report.tables)
    yield ""
    verdict = f"{bad} not as they should be" if bad else "all good"
    yield f"tables and views: {len(report.tables)} checked, {verdict}"
    width = _width(table.table for table in report.tables)
    row_width = max([4, *(len(f"{table.rows:,}") for table in report.tables if table.rows is not None)])
    for table in report.tables:
        rows = f"{table.rows:,}" if table.rows is not None else "view" if table.view else ""
        key = f"key {', '.join(table.key)} is unique" if table.unique else ""
        mark = "✓" if table.good else "✗"
        yield f"  {mark} {table.table:<{width}} {rows:>{row_width}}  {key}".rstrip()
        yield from _good_coverage(table)
        yield from (f"      ✗ {one_line(fault)}" for fault in table.faults)


def _good_coverage(table: TableCheck) -> Iterator[str]:
    """Yield the coverage that holds; what does not hold is among the faults."""
    for each in table.coverage:
        if each.good:
            share = "no keys" if each.share is None else percent(each.share)
            yield f"      covers {share} of {each.table}: {each.found:,} of {each.keys:,} keys"


def _ending(report: Report) -> Iterator[str]:
    if report.notices:
        yield from ("", "notices", *(f"  • {notice}" for notice in report.notices))
    if report.next:
        yield from ("", "next", *(f"  → {line}" for line in report.next))


def _where(problem: Problem) -> str:
    return f"{problem.where} " if problem.where else ""


def _width(names: Iterator[str]) -> int:
    return min(_NAME_WIDTH, max(map(len, names), default=0))

"""Renders the progress and the final report of a SQL workflow as lines of text."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from databricks_rlm_agent.sqlflow.model import Plan, percent
from databricks_rlm_agent.sqlflow.report.charts import seconds
from databricks_rlm_agent.sqlflow.report.page import MARKS
from databricks_rlm_agent.sqlflow.run.events import EventKind, WorkflowEvent, one_line
from databricks_rlm_agent.sqlflow.run.outcome import (
    Measure,
    Report,
    RunStatus,
    StepOutcome,
    StepStatus,
    TableCheck,
)
from databricks_rlm_agent.sqltext.errors import Problem

_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_BAR_WIDTH = 24
_WIDE = 80
_NAME_WIDTH = 36  # columns of a step's name at most
_LISTED = 8  # running steps, and changed rows of a loop

_STEP_ENDS = {EventKind.STEP_DONE, EventKind.STEP_FAILED, EventKind.STEP_SKIPPED, EventKind.STEP_KEPT}
_IN_STEP = {
    EventKind.STATEMENT_STARTED,
    EventKind.STATEMENT_DONE,
    EventKind.ITERATION_STARTED,
    EventKind.ITERATION_DONE,
    EventKind.RETRY,
}


@dataclass(frozen=True, kw_only=True)
class RunningStep:
    """A step that runs now. ``changed``: the rows that its iterations have changed so far."""

    step: str
    since: datetime
    activity: str = ""
    iteration: int | None = None
    changed: tuple[int | None, ...] = ()


@dataclass(kw_only=True)
class Progress:
    """An observer that keeps the state of a run. Safe to use from several threads."""

    total: int
    loops: frozenset[str] = frozenset()
    since: datetime | None = None
    stage: str = ""
    done: int = 0
    skipped: int = 0
    checking: int = 0
    checked: int = 0
    interrupting: bool = False
    failed: set[str] = field(default_factory=set)
    running: dict[str, RunningStep] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    @classmethod
    def of(cls, plan: Plan) -> Progress:
        """Return the progress of a plan that has not begun."""
        return cls(total=len(plan.steps), loops=frozenset(step.id for step in plan.steps if step.loop))

    def on(self, event: WorkflowEvent) -> None:
        """Update the state."""
        with self._lock:
            self.since = self.since or event.at
            self._update(event, event.step or "")

    def _update(self, event: WorkflowEvent, step: str) -> None:
        if event.kind is EventKind.STAGE_STARTED:
            self.stage = event.text.partition(":")[0]
        elif event.kind is EventKind.STEP_STARTED:
            self.failed.discard(step)  # it is tried again
            self.running[step] = RunningStep(step=step, since=event.at)
        elif event.kind in _STEP_ENDS:
            self.running.pop(step, None)
            if event.kind is EventKind.STEP_FAILED:
                self.failed.add(step)
            elif event.kind is EventKind.STEP_SKIPPED:
                self.skipped += 1
            else:
                self.done += 1
        elif event.kind in _IN_STEP and step in self.running:
            self.running[step] = _updated(self.running[step], event, loop=step in self.loops)
        elif event.kind is EventKind.CHECKING:
            self.checking, self.stage = event.statements or 0, ""
        elif event.kind is EventKind.CHECKED:
            self.checked += 1
        elif event.kind is EventKind.INTERRUPTING:
            self.interrupting = True

    def lines(self, now: datetime, width: int, height: int, frame: int = 0) -> list[str]:
        """Return a line for the whole and one for each running step, none longer than ``width``.

        ``frame`` counts the refreshes, for the spinner.
        """
        with self._lock:
            lines = [self._summary(now, _BAR_WIDTH if width >= _WIDE else _BAR_WIDTH // 2)]
            spinner = _SPINNER[frame % len(_SPINNER)]
            if self.checking:
                lines.append(f"{spinner} checking tables: {self.checked} of {self.checking}")
            listed = max(1, min(_LISTED, height - 4))
            name_width = min(_NAME_WIDTH, max((len(name) for name in self.running), default=0))
            running = list(self.running.values())
            lines += [f"{spinner} {_step_line(each, now, name_width)}" for each in running[:listed]]
            if len(running) > listed:
                lines.append(f"  and {len(running) - listed} more")
        return [_cut(line, width - 1) for line in lines]

    def _summary(self, now: datetime, bar: int) -> str:
        ended = self.done + len(self.failed) + self.skipped
        full = bar * ended // max(1, self.total)
        parts = [f"{'━' * full}{'─' * (bar - full)} {ended} of {self.total} steps"]
        parts += [clock(now - self.since)] if self.since else []
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        parts += ["interrupting; Ctrl-C again ends it now"] if self.interrupting else []
        parts += [self.stage] if self.stage and not self.interrupting else []
        return " · ".join(parts)


def _updated(step: RunningStep, event: WorkflowEvent, *, loop: bool) -> RunningStep:
    if event.kind is EventKind.STATEMENT_STARTED:
        return replace(step, activity=f"statement {event.statement} of {event.statements}, line {event.line}")
    if event.kind is EventKind.STATEMENT_DONE:
        if event.statement != event.statements:
            return step
        return replace(step, activity="counting changed rows" if loop else "finishing")
    if event.kind is EventKind.RETRY:
        return replace(step, activity=f"waits, then {event.text}")
    if event.kind is EventKind.ITERATION_STARTED:
        return replace(step, iteration=event.iteration, activity="")
    return replace(step, changed=(*step.changed, event.changed))


def _step_line(step: RunningStep, now: datetime, name_width: int) -> str:
    parts = [f"{_cut(step.step, name_width):<{name_width}} {clock(now - step.since):>6}"]
    parts += [] if step.iteration is None else [f"iteration {step.iteration}"]
    parts += [step.activity] if step.activity else []
    return "  ".join([*parts, *_changes(step.changed)])


def _changes(changed: Sequence[int | None]) -> list[str]:
    counts = [f"{number:,}" for number in changed if number is not None]
    left_out = ["…"] if len(counts) > _LISTED else []
    return [f"changed {' → '.join([*left_out, *counts[-_LISTED:]])}"] if counts else []


def clock(span: timedelta) -> str:
    """Return a span of time: ``4.2 s``, ``1:05``, ``2:00:07``."""
    total = max(0.0, span.total_seconds())
    if total < 60:
        return f"{int(total * 10) / 10:.1f} s"
    minutes, rest = divmod(int(total), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


_REPORT_NAME_WIDTH = 56  # of names in a column, at most
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
        columns = [MARKS[step.status], f"{step.id:<{width}}", f"{times.get(step.id, ''):>{time_width}}"]
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
    return min(_REPORT_NAME_WIDTH, max(map(len, names), default=0))

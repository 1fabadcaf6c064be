"""The progress of a running SQL workflow, kept from its events, and shown as a few lines of a terminal."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from databricks_rlm_agent.sqlflow.model import Plan
from databricks_rlm_agent.sqlflow.run.events import EventKind, WorkflowEvent

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
    seconds = max(0.0, span.total_seconds())
    if seconds < 60:
        return f"{int(seconds * 10) / 10:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"

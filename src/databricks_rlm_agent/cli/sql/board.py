"""How a running SQL workflow stands, kept from its events, and as a few lines for a terminal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from databricks_rlm_agent.sqlflow.model import Plan
from databricks_rlm_agent.sqlflow.run.events import EventKind, WorkflowEvent

_SPIN = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_BAR = 24
_WIDE = 80
_STEP = 36  # columns of a step's name at most
_SHOWN = 8  # running steps, and changed rows of a loop


@dataclass(frozen=True, kw_only=True)
class Running:
    """A step that runs now. ``changed`` are the rows changed in its iterations, as far as they are done."""

    step: str
    since: datetime
    doing: str = ""
    iteration: int | None = None
    changed: tuple[int | None, ...] = ()


@dataclass(kw_only=True)
class Board:
    """Takes note of events, and says how it stands. Safe to use from several threads."""

    total: int
    loops: frozenset[str] = frozenset()
    since: datetime | None = None
    stage: str = ""
    done: int = 0
    failed: int = 0
    skipped: int = 0
    checking: int = 0
    checked: int = 0
    interrupting: bool = False
    running: dict[str, Running] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._failed: set[str] = set()

    @classmethod
    def of(cls, plan: Plan) -> Board:
        """Of a plan that has not begun."""
        return cls(total=len(plan.steps), loops=frozenset(step.id for step in plan.steps if step.loop))

    def on(self, event: WorkflowEvent) -> None:
        """Take note."""
        with self._lock:
            self.since = self.since or event.at
            note = _NOTES.get(event.kind)
            if note is not None:
                note(self, event)

    def lines(self, now: datetime, width: int, height: int, beat: int = 0) -> list[str]:
        """How it stands: one line for the whole, one for each running step. None is longer than ``width``."""
        with self._lock:
            lines = [self._whole(now, _BAR if width >= _WIDE else _BAR // 2)]
            spin = _SPIN[beat % len(_SPIN)]
            if self.checking:
                lines.append(f"{spin} checking tables: {self.checked} of {self.checking}")
            room = max(1, min(_SHOWN, height - 4))
            names = min(_STEP, max((len(name) for name in self.running), default=0))
            running = list(self.running.values())
            lines += [f"{spin} {_line(each, now, names)}" for each in running[:room]]
            if len(running) > room:
                lines.append(f"  and {len(running) - room} more")
        return [_cut(line, width - 1) for line in lines]

    def _whole(self, now: datetime, bar: int) -> str:
        ended = self.done + self.failed + self.skipped
        full = bar * ended // max(1, self.total)
        parts = [f"{'━' * full}{'─' * (bar - full)} {ended} of {self.total} steps"]
        parts += [clock(now - self.since)] if self.since else []
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += ["interrupting; Ctrl-C again ends it now"] if self.interrupting else []
        parts += [self.stage] if self.stage and not self.interrupting else []
        return " · ".join(parts)

    def _begin(self, event: WorkflowEvent) -> None:
        step = event.step or ""
        if step in self._failed:  # it is tried again
            self._failed.discard(step)
            self.failed -= 1
        self.running[step] = Running(step=step, since=event.at)

    def _end(self, event: WorkflowEvent) -> None:
        self.running.pop(event.step or "", None)
        if event.kind is EventKind.STEP_FAILED:
            self._failed.add(event.step or "")
            self.failed += 1
        elif event.kind is EventKind.STEP_SKIPPED:
            self.skipped += 1
        else:
            self.done += 1

    def _in_step(self, event: WorkflowEvent) -> None:
        before = self.running.get(event.step or "")
        if before is not None:
            self.running[before.step] = _moved(before, event, loop=before.step in self.loops)

    def _checks(self, event: WorkflowEvent) -> None:
        if event.kind is EventKind.CHECKING:
            self.checking, self.stage = event.statements or 0, ""
        else:
            self.checked += 1

    def _asked(self, _event: WorkflowEvent) -> None:
        self.interrupting = True

    def _staged(self, event: WorkflowEvent) -> None:
        self.stage = event.text.partition(":")[0]


_Note = Callable[[Board, WorkflowEvent], None]
_NOTES: dict[EventKind, _Note] = {
    EventKind.STAGE_STARTED: Board._staged,
    EventKind.STEP_STARTED: Board._begin,
    **dict.fromkeys(
        (EventKind.STEP_DONE, EventKind.STEP_FAILED, EventKind.STEP_SKIPPED, EventKind.STEP_KEPT), Board._end
    ),
    **dict.fromkeys(
        (
            EventKind.STATEMENT_STARTED,
            EventKind.STATEMENT_DONE,
            EventKind.ITERATION_STARTED,
            EventKind.ITERATION_DONE,
            EventKind.RETRY,
        ),
        Board._in_step,
    ),
    EventKind.CHECKING: Board._checks,
    EventKind.CHECKED: Board._checks,
    EventKind.INTERRUPTING: Board._asked,
}


def _moved(step: Running, event: WorkflowEvent, *, loop: bool) -> Running:
    """The step after an event of its own."""
    if event.kind is EventKind.STATEMENT_STARTED:
        return replace(step, doing=f"statement {event.statement} of {event.statements}, line {event.line}")
    if event.kind is EventKind.STATEMENT_DONE:
        last = event.statement == event.statements
        return replace(step, doing=("counting changed rows" if loop else "finishing") if last else step.doing)
    if event.kind is EventKind.RETRY:
        return replace(step, doing=f"waits, then {event.text}")
    if event.kind is EventKind.ITERATION_STARTED:
        return replace(step, iteration=event.iteration, doing="")
    return replace(step, changed=(*step.changed, event.changed))


def _line(step: Running, now: datetime, names: int) -> str:
    name = _cut(step.step, names)
    parts = [f"{name:<{names}} {clock(now - step.since):>6}"]
    parts += [] if step.iteration is None else [f"iteration {step.iteration}"]
    parts += [step.doing] if step.doing else []
    return "  ".join([*parts, *_fall(step.changed)])


def _fall(changed: Sequence[int | None]) -> list[str]:
    told = [f"{number:,}" for number in changed if number is not None]
    left_out = ["…"] if len(told) > _SHOWN else []
    return [f"changed {' → '.join([*left_out, *told[-_SHOWN:]])}"] if told else []


def clock(span: timedelta) -> str:
    """A span of time: ``4.2 s``, ``1:05``, ``2:00:07``."""
    seconds = max(0.0, span.total_seconds())
    if seconds < 60:
        return f"{int(seconds * 10) / 10:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"

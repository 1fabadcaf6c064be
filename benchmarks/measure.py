"""How things are measured and shown: contenders in turn, medians, one line per comparison."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Compare = Literal["ratio", "extra", "value"]
_PROGRESS_S = 10.0  # between two lines about rounds


@dataclass(frozen=True, kw_only=True)
class Line:
    """One comparison. ``floor`` is the same work without us; ``target`` bounds what ``compare`` gives."""

    bench: str
    what: str
    ours: float
    unit: str
    compare: Compare
    floor: float | None = None
    target: float | None = None
    samples: int = 1

    @property
    def result(self) -> float:
        """Ours over the floor, ours less the floor, or ours alone."""
        if self.floor is None or self.compare == "value":
            return self.ours
        return self.ours / self.floor if self.compare == "ratio" else self.ours - self.floor

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        return None if self.target is None else self.result <= self.target

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self) | {"result": self.result, "met": self.met}


@dataclass(frozen=True, kw_only=True)
class Report:
    """The lines of one benchmark, and what a reader has to know of them."""

    lines: Sequence[Line]
    notes: Sequence[str] = ()


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


_quick = False


def set_quick(quick: bool) -> None:
    """From now on, take one round of everything and small sizes: it shows that a benchmark runs, no more."""
    global _quick
    _quick = quick


def size(full: int, quick: int) -> int:
    """Return ``quick`` in the quick mode, else ``full``."""
    return quick if _quick else full


def progress(text: str) -> None:
    """Print a line for the person who waits."""
    print(f"   {text}", file=sys.stderr, flush=True)


def in_turn(rounds: int, *contenders: Callable[[], T], warm_up: int = 1) -> list[list[T]]:
    """Return what each contender reports, round by round (A B A B …): a slow moment hits all alike.

    The first ``warm_up`` rounds are not counted.
    """
    rounds, warm_up = size(rounds, 1), size(warm_up, min(warm_up, 1))
    found: list[list[T]] = [[] for _ in contenders]
    printed = time.monotonic()
    for number in range(warm_up + rounds):
        if time.monotonic() > printed + _PROGRESS_S:
            progress(f"round {number} of {warm_up + rounds} is done")
            printed = time.monotonic()
        for samples, contender in zip(found, contenders, strict=True):
            value = contender()
            if number >= warm_up:
                samples.append(value)
    return found


def median(samples: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(samples)


def table(lines: Sequence[Line]) -> str:
    """The lines for a person."""
    head = ("bench", "what", "ours", "floor", "", "result", "target", "")
    body = [_cells(line) for line in lines]
    widths = [max(len(row[column]) for row in (head, *body)) for column in range(len(head))]
    return "\n".join(_joined(row, widths) for row in (head, *body))


def _cells(line: Line) -> tuple[str, ...]:
    sign = {"ratio": "x", "extra": "more", "value": ""}[line.compare if line.floor is not None else "value"]
    result = f"{line.result:.2f} {sign}".strip()
    target = "" if line.target is None else f"{line.target:g}"
    verdict = {True: "met", False: "MISSED", None: ""}[line.met]
    floor = "" if line.floor is None else _number(line.floor)
    return line.bench, line.what, _number(line.ours), floor, line.unit, result, target, verdict


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"


def _joined(row: Sequence[str], widths: Sequence[int]) -> str:
    numbers = {2, 3, 5, 6}
    cells = (
        text.rjust(width) if column in numbers else text.ljust(width)
        for column, (text, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join(cells).rstrip()

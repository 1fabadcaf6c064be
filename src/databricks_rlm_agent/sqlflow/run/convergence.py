"""When a loop has ended, and how. Pure: decided from what was measured after each iteration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class LoopEnd(StrEnum):
    """How a loop ended. Only CONVERGED is good."""

    CONVERGED = "converged"
    NOT_CONVERGED = "not converged"
    OSCILLATING = "oscillating"
    MEASURE_FAILED = "measure failed"
    FAILED = "iteration failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What was measured after iteration ``n``.

    ``changed`` is the number of rows that differ from the iteration before; None after the first, which has
    none before it. ``rows`` and ``fingerprint`` are those of the iteration's table, whatever the order of its
    rows; None where no table is known (a loop with a convergence query only).
    """

    n: int
    changed: int | None = None
    rows: int | None = None
    fingerprint: str | None = None
    seconds: float = 0.0
    file: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a loop stands. ``end`` None: it goes on. ``period`` in iterations, of an oscillation."""

    end: LoopEnd | None
    reason: str = ""
    period: int | None = None


def judge(history: Sequence[Measure], *, limit: int) -> Verdict:
    """Decide from the measures of iterations 1 to n whether there is to be another one.

    Zero changed rows mean converged. A content that an earlier iteration had already will come again and
    again: the iterations are a function of the one before.
    """
    if not history:
        return Verdict(end=None)
    last = history[-1]
    if last.changed == 0:
        return Verdict(end=LoopEnd.CONVERGED, reason=f"iteration {last.n} changed no row")
    for earlier in reversed(history[:-1]):
        if last.fingerprint is not None and _state(earlier) == _state(last):
            period = last.n - earlier.n
            return Verdict(
                end=LoopEnd.OSCILLATING,
                period=period,
                reason=f"iteration {last.n} has the rows of iteration {earlier.n} again, and "
                f"{last.changed} of them differ from iteration {last.n - 1}: it would go round for ever",
            )
    if len(history) >= limit:
        changed = f"{last.changed} rows still changed" if last.changed is not None else "nothing to compare"
        return Verdict(
            end=LoopEnd.NOT_CONVERGED, reason=f"{limit} iterations were allowed, and in the last {changed}"
        )
    return Verdict(end=None)


def _state(measure: Measure) -> tuple[int | None, str | None]:
    return measure.rows, measure.fingerprint

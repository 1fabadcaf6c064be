"""One table: a row for each figure, a column for each contender, ratios to ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OURS, RIVALS = "ours", ("rlms", "dspy")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of all contenders; who has none is left out. ``target`` bounds ours from above."""

    bench: str
    what: str
    unit: str
    values: Mapping[str, float | None] = field(default_factory=dict)
    target: float | None = None

    def ratio(self, name: str) -> float | None:
        """A rival's figure over ours; None where there is no such number."""
        ours, theirs = self.values.get(OURS), self.values.get(name)
        return None if not ours or theirs is None else theirs / ours

    @property
    def met(self) -> bool | None:
        """Whether ours is within the target; None where there is no target, or ours was not measured."""
        ours = self.values.get(OURS)
        return None if self.target is None or ours is None else ours <= self.target

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        ratios = {f"{name}_over_ours": self.ratio(name) for name in RIVALS}
        return {
            "bench": self.bench,
            "what": self.what,
            "unit": self.unit,
            **{name: self.values.get(name) for name in (OURS, *RIVALS)},
            **ratios,
            "target": self.target,
            "met": self.met,
        }


def table(rows: Sequence[Row]) -> str:
    """The rows for a person."""
    head = ("bench", "what", OURS, *RIVALS, "", *(f"{name}/ours" for name in RIVALS), "target", "")
    body = [_cells(row) for row in rows]
    widths = [max(len(line[column]) for line in (head, *body)) for column in range(len(head))]
    return "\n".join(_joined(line, widths) for line in (head, *body))


def _cells(row: Row) -> tuple[str, ...]:
    verdict = {True: "met", False: "MISSED", None: ""}[row.met]
    ratios = [row.ratio(name) for name in RIVALS]
    return (
        row.bench,
        row.what,
        *(_number(row.values.get(name)) for name in (OURS, *RIVALS)),
        row.unit,
        *("" if ratio is None else f"{ratio:.2f} x" for ratio in ratios),
        "" if row.target is None else f"{row.target:g}",
        verdict,
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"


def _joined(line: Sequence[str], widths: Sequence[int]) -> str:
    texts = {0, 1, 5, 9}
    cells = (
        cell.ljust(width) if column in texts else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(line, widths, strict=True))
    )
    return "  ".join(cells).rstrip()

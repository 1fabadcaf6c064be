"""What the controller costs, by the number of runs and by the rows of history behind them."""

from __future__ import annotations

from pathlib import Path

from benchmarks.control_history import history
from benchmarks.control_ticks import ticks
from benchmarks.measure import Report


def control(root: Path, repeat: int) -> Report:
    """Each part in a workspace of its own."""
    return Report(lines=[line for part in (ticks, history) for line in part(root / part.__name__, repeat)])

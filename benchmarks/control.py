"""What the controller costs, by the number of runs and by the rows of history behind them."""

from __future__ import annotations

from pathlib import Path

from benchmarks.control_history import history
from benchmarks.control_memory import memory
from benchmarks.control_ticks import ticks
from benchmarks.control_waits import waits
from benchmarks.measure import Report

_NOTES = (
    "A measured tick takes in the result of every run and submits its next job; job runs stay queued.",
    "Over bare calls: the same statements and requests, with the same values, by connector and SDK in turn.",
    "Idle ticks: no lease is renewed and no job is asked of the Jobs API in them; both go by the clock.",
    "Job's end to ingestion: end_time of the workspace's run record to the transition in run_events.",
)
_PARTS = (ticks, history, waits, memory)


def control(root: Path, repeat: int) -> Report:
    """Each part in a workspace of its own."""
    return Report(
        lines=[line for part in _PARTS for line in part(root / part.__name__, repeat)],
        notes=_NOTES,
    )

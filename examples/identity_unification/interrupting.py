"""``--interrupt``: interrupts the workflow at every boundary and resumes it; its tables must be the same."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.identity_unification.proof import read
from examples.identity_unification.stage import Stage

SIGNALS = (signal.SIGINT, signal.SIGKILL)
INTERRUPTED = 130
# Events (`--progress json`) at which the process is interrupted.
STEPS = ("step_started", "iteration_started", "iteration_done", "step_done")
STATEMENTS = (*STEPS, "statement_started", "statement_done")
_RECORD = "sql_workflow_"

Place = tuple[Any, ...]
Rows = Mapping[str, Counter[str]]


@dataclass(frozen=True, kw_only=True)
class InterruptedRun:
    """A run that was interrupted and resumed so many times, with its final status."""

    interruptions: int
    status: str


def schema_of(signal_: signal.Signals) -> str:
    """Return the schema of the run that this signal interrupts."""
    return f"identity_{signal_.name.lower()}"


def interrupted(stage: Stage, signal_: signal.Signals, kinds: Sequence[str] = STEPS) -> InterruptedRun:
    """Run the workflow; interrupt it once at every boundary, and resume it each time."""
    seen: set[Place] = set()
    interruptions = 0
    while True:
        more = ["--json", "--progress", "json", *(["--resume"] if interruptions else [])]
        process = subprocess.Popen(
            stage.command(*more, schema=schema_of(signal_)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        report = _run_until_boundary(process, seen, signal_, kinds)
        if report is not None:
            return InterruptedRun(interruptions=interruptions, status=report["status"])
        interruptions += 1


def _run_until_boundary(
    process: subprocess.Popen[str], seen: set[Place], signal_: signal.Signals, kinds: Sequence[str]
) -> dict[str, Any] | None:
    """Interrupt it at the next boundary that is new; return its report if there was none."""
    assert process.stderr is not None
    lines = []
    with process:
        for line in process.stderr:
            lines.append(line)
            place = _place(line, kinds)
            if place is not None and place not in seen:
                seen.add(place)
                process.send_signal(signal_)
                break
        output, rest = process.communicate()
    if process.returncode in {INTERRUPTED, -signal_}:
        return None
    if process.returncode != 0:
        raise SystemExit(f"sql run ended with {process.returncode}. {''.join(lines[-20:])}{rest[-3000:]}")
    report: dict[str, Any] = json.loads(output)
    return report


def _place(line: str, kinds: Sequence[str]) -> Place | None:
    """Return the boundary that an event is at; None if it is none."""
    with contextlib.suppress(ValueError):
        event = json.loads(line)
        if event.get("kind") in kinds:
            return tuple(event.get(name) for name in ("kind", "step", "iteration", "line"))
    return None


def rows(folder: Path) -> Rows:
    """Return the rows of every table in a schema's folder, in no order, without the workflow's record."""
    paths = [path for path in sorted(folder.iterdir()) if (path / "_delta_log").is_dir()]
    return {
        path.name: Counter(repr(tuple(row.values())) for row in read(path).to_pylist())
        for path in paths
        if not path.name.startswith(_RECORD)
    }


def differences(ones: Rows, others: Rows) -> Iterator[str]:
    """Yield the differences, in sentences."""
    for name in sorted(ones.keys() ^ others.keys()):
        yield f"The table {name} is only there {'without' if name in ones else 'with'} interruptions."
    for name in sorted(ones.keys() & others.keys()):
        if ones[name] != others[name]:
            more, less = others[name] - ones[name], ones[name] - others[name]
            yield (
                f"{name} has {more.total():,} rows that it should not have and lacks {less.total():,}, "
                f"such as {next(iter(more or less))[:200]}."
            )

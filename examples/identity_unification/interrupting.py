"""``--interrupt``: the workflow is ended at every boundary and resumed; its tables must be the same."""

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
# What the process tells (`--progress json`) when it gets to where it is ended.
STEPS = ("step_started", "iteration_started", "iteration_done", "step_done")
STATEMENTS = (*STEPS, "statement_started", "statement_done")
_RECORD = "sql_workflow_"

Place = tuple[Any, ...]
Rows = Mapping[str, Counter[str]]


@dataclass(frozen=True, kw_only=True)
class Lives:
    """How often a run was ended and gone on with, and how it ended in the end."""

    deaths: int
    status: str


def schema_of(sign: signal.Signals) -> str:
    """Where the run that is ended in this way has its tables."""
    return f"identity_{sign.name.lower()}"


def interrupted(stage: Stage, sign: signal.Signals, kinds: Sequence[str] = STEPS) -> Lives:
    """Run the workflow, ended once at every boundary, and gone on with each time."""
    seen: set[Place] = set()
    deaths = 0
    while True:
        more = ["--json", "--progress", "json", *(["--resume"] if deaths else [])]
        process = subprocess.Popen(
            stage.command(*more, schema=schema_of(sign)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        report = _lived(process, seen, sign, kinds)
        if report is not None:
            return Lives(deaths=deaths, status=report["status"])
        deaths += 1


def _lived(
    process: subprocess.Popen[str], seen: set[Place], sign: signal.Signals, kinds: Sequence[str]
) -> dict[str, Any] | None:
    """Let it live until a boundary that it has not been ended at; its report if there was none left."""
    assert process.stderr is not None
    said = []
    with process:
        for line in process.stderr:
            said.append(line)
            place = _place(line, kinds)
            if place is not None and place not in seen:
                seen.add(place)
                process.send_signal(sign)
                break
        told, rest = process.communicate()
    if process.returncode in {INTERRUPTED, -sign}:
        return None
    if process.returncode != 0:
        raise SystemExit(f"sql run ended with {process.returncode}. {''.join(said[-20:])}{rest[-3000:]}")
    report: dict[str, Any] = json.loads(told)
    return report


def _place(line: str, kinds: Sequence[str]) -> Place | None:
    """Where the process is, of what it tells in a line."""
    with contextlib.suppress(ValueError):
        event = json.loads(line)
        if event.get("kind") in kinds:
            return tuple(event.get(name) for name in ("kind", "step", "iteration", "line"))
    return None


def rows(folder: Path) -> Rows:
    """Of every table in a schema's folder its rows, in no order; without the workflow's own record."""
    paths = [path for path in sorted(folder.iterdir()) if (path / "_delta_log").is_dir()]
    return {
        path.name: Counter(repr(tuple(row.values())) for row in read(path).to_pylist())
        for path in paths
        if not path.name.startswith(_RECORD)
    }


def differences(ones: Rows, others: Rows) -> Iterator[str]:
    """What is not the same, in sentences."""
    for name in sorted(ones.keys() ^ others.keys()):
        yield f"The table {name} is only there {'without' if name in ones else 'with'} interruptions."
    for name in sorted(ones.keys() & others.keys()):
        if ones[name] != others[name]:
            more, less = others[name] - ones[name], ones[name] - others[name]
            yield (
                f"{name} has {more.total():,} rows that it should not have and lacks {less.total():,}, "
                f"such as {next(iter(more or less))[:200]}."
            )

"""The memory of a controller over many ticks: idle, and with a run now and then that ends at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from local_workspace import WorkspaceInfo, WorkspaceOptions, spawn

from benchmarks.control_stage import Stage, script
from benchmarks.measure import Line, Report, progress, size

# After the first mark all is imported and every cache is warm.
_MARKS = (200, 1200)
_CASES = (("idle", 0), ("a run in every 10th tick", 10))


def memory(root: Path, repeat: int) -> Report:
    """Resident memory after the first and the last mark."""
    marks = (size(_MARKS[0], 20), size(_MARKS[1] * repeat, 40))
    lines = []
    with spawn(WorkspaceOptions(root=root / "workspace")) as workspace:
        model = script(root / "script.json", iterations=0, finish=True)
        for number, (what, every) in enumerate(_CASES):
            progress(f"{what}: {marks[1]:,} ticks")
            early, late = _soak(workspace.info, f"soak{number}", model, every, marks)
            lines += [
                Line(
                    bench="control",
                    what=f"memory after {marks[1]:,} ticks, {what} (and {marks[0]})",
                    ours=late,
                    floor=early,
                    unit="MB",
                    compare="extra",
                ),
                Line(
                    bench="control",
                    what=f"memory, growth per 1,000 ticks, {what}",
                    ours=(late - early) / (marks[1] - marks[0]) * 1000,
                    unit="MB",
                    compare="value",
                ),
            ]
    return Report(lines=lines)


def _soak(info: WorkspaceInfo, schema: str, model: str, every: int, marks: tuple[int, int]) -> list[float]:
    Stage.open(info, schema).app.close()
    values = (info.host, info.token, info.http_path, schema, model, str(every), *map(str, marks))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.control_soak", *values],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"The controller ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return [json.loads(line)["rss_mb"] for line in done.stdout.splitlines()]

"""The workspace's start until it answers a request, in a new folder and in one that it knows."""

from __future__ import annotations

import itertools
from pathlib import Path

from local_workspace import Spawned, WorkspaceOptions, running, spawn

from benchmarks.measure import Line, Report, in_turn, median, seconds
from benchmarks.places import connect, engine_alone

TARGET_S = 3.0
ROUNDS = 3


def startup(root: Path, repeat: int) -> Report:
    """Process start, imports and engine included."""
    numbers = itertools.count()
    known = root / "known"
    with spawn(WorkspaceOptions(root=known)) as workspace, connect(workspace.info) as connection:
        for number in range(20):
            with connection.cursor() as cursor:
                cursor.execute(f"CREATE TABLE main.default.t{number} USING DELTA AS SELECT 1 AS one")
    cold, warm, engine = (
        median(samples)
        for samples in in_turn(
            ROUNDS * repeat, lambda: _start(root / f"new{next(numbers)}"), lambda: _start(known), _engine
        )
    )
    return Report(
        lines=[
            Line(
                bench="startup",
                what=what,
                ours=value,
                floor=engine,
                unit="s",
                compare="value",
                target=TARGET_S,
                samples=ROUNDS * repeat,
            )
            for what, value in (("in a new folder", cold), ("in a folder with 20 tables", warm))
        ],
        notes=["The floor is the engine alone: a Python process that starts Sail and listens."],
    )


def _start(folder: Path) -> float:
    started: list[Spawned] = []

    def work() -> None:
        started.append(spawn(WorkspaceOptions(root=folder)))
        assert running(folder) is not None

    try:
        return seconds(work)
    finally:
        for workspace in started:
            workspace.stop()


def _engine() -> float:
    place = engine_alone()
    try:
        return seconds(place.__enter__)
    finally:
        place.__exit__(None, None, None)

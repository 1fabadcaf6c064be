"""A run, and a resume that has one step left, by how many earlier runs are on record."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from benchmarks.measure import Line, Report, in_turn, median
from benchmarks.sql import flow
from benchmarks.sql.onrecord import commits, grow
from benchmarks.sql.stage import Ran, Stage

TARGET = 1.2
_RUNS = (0, 100, 1000)
_ROUNDS, _WARM_UP = 5, 2


def past(stage: Stage, root: Path, repeat: int) -> Report:
    """The same in three schemas, in turn. The earlier runs are copies of one that the schema has seen."""
    once = root / "once"
    once.mkdir()
    (once / "01_once.sql").write_text("SELECT 1;\n")
    folder = flow.write(root / "flow")
    schemas = [stage.schema() for _ in _RUNS]
    for schema in schemas:
        stage.ours(folder, schema)
    each = commits(stage.tables / schemas[0])
    for schema, runs in zip(schemas, _RUNS, strict=True):
        grow(stage.tables / schema, runs)
    # It never succeeds, so that it can be resumed again and again.
    (folder / "08_last.sql").write_text(
        "CREATE OR REPLACE TABLE last USING DELTA AS SELECT * FROM missing;\n"
    )
    for schema in schemas:
        stage.tried(folder, schema)
    rounds = _ROUNDS * repeat
    fresh = in_turn(rounds, *(partial(stage.ours, once, schema) for schema in schemas), warm_up=_WARM_UP)
    resumed = in_turn(
        rounds, *(partial(stage.tried, folder, schema, resume=True) for schema in schemas), warm_up=_WARM_UP
    )
    return Report(
        lines=[
            *_lines("a run of one statement", fresh),
            *_lines("a resume for the last of 22 steps", resumed),
        ],
        notes=[f"A run of 21 steps leaves {each} commits in its two tables; so has each earlier run."],
    )


def _lines(what: str, ran: list[list[Ran]]) -> list[Line]:
    """Without the time of the steps: what is left is what the record costs, and the checks."""
    found = [median([_apart(each) for each in side]) * 1000 for side in ran]
    return [
        Line(
            bench="past",
            what=f"{what}, {runs:,} earlier runs",
            ours=ours,
            floor=found[0] if runs else None,
            unit="ms",
            compare="ratio",
            target=TARGET if runs else None,
            samples=len(ran[0]),
        )
        for runs, ours in zip(_RUNS, found, strict=True)
    ]


def _apart(ran: Ran) -> float:
    assert ran.report is not None
    return ran.seconds - ran.report.path_seconds

"""What a run costs beyond its own statements: per statement, and once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.measure import Line, Report, in_turn, median
from benchmarks.sql.stage import Ran, Stage

_STATEMENTS = 101
_ROUNDS = 5


def overhead(stage: Stage, root: Path, repeat: int) -> Report:
    """A file of one cheap statement, and one of many: the difference is the cost of a statement."""
    folders = {number: _folder(root / f"cheap{number}", number) for number in (1, _STATEMENTS)}
    schema = stage.schema()
    runs: list[Callable[[], Ran]] = []
    for folder in folders.values():
        runs += [partial(stage.ours, folder, schema), partial(stage.bare, folder, schema)]
    rounds = _ROUNDS * repeat
    one, bare_one, many, bare_many = (
        median([each.seconds for each in side]) * 1000 for side in in_turn(rounds, *runs)
    )
    each, bare_each = (
        (all_ - single) / (_STATEMENTS - 1) for all_, single in ((many, one), (bare_many, bare_one))
    )
    stage.log.clear()
    stage.ours(folders[1], schema)
    asked = stage.log.asked()
    line = partial(Line, bench="overhead", samples=rounds)
    return Report(
        lines=[
            line(
                what="a cheap statement", ours=each, floor=bare_each, unit="ms", compare="ratio", target=1.1
            ),
            line(what="a run of one statement", ours=one, floor=bare_one, unit="ms", compare="extra"),
            line(what="its statements", ours=asked.statements, floor=1, unit="", compare="extra", samples=1),
            line(what="its requests", ours=asked.requests, unit="", compare="value", samples=1),
        ]
    )


def _folder(folder: Path, number: int) -> Path:
    folder.mkdir()
    (folder / "01_cheap.sql").write_text("".join(f"SELECT {n} AS n;\n" for n in range(number)))
    return folder

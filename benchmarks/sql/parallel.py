"""One workflow three ways: steps side by side, one after another, and by a script of bare connector calls."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.measure import Line, Report, in_turn, median, size
from benchmarks.sql import flow
from benchmarks.sql.stage import Ran, Stage, planned

TARGET_PATH, TARGET_BARE = 1.15, 1.1
AT_ONCE = 8
# What every statement takes that is not of the workflow's files: ours, the script's counts of changed rows.
OWN_S = (0.0, 0.25)


def parallel(stage: Stage, root: Path, repeat: int) -> Report:
    """All three in turn, in a schema of their own each time; first at the workspace's own speed."""
    folder = flow.write(root / "flow")
    plan = planned(folder)
    contenders: tuple[Callable[[str], Ran], ...] = (
        partial(stage.ours, folder, max_parallel=AT_ONCE),
        partial(stage.ours, folder, max_parallel=1),
        partial(stage.bare, folder),
    )
    runs = [partial(_in_new_schema, stage, run) for run in contenders]
    lines = []
    in_turn(1, *runs, warm_up=0)
    for own_s in OWN_S[: size(len(OWN_S), 1)]:
        with stage.slow(own_s):
            ran = in_turn(repeat, *runs, warm_up=0)
        at_once, one, bare = (median([each.seconds for each in side]) for side in ran)
        reported = median([each.report.path_seconds for each in ran[0] if each.report])
        line = partial(_line, own_s, samples=repeat)
        lines += [
            line(
                f"{AT_ONCE} at once, over the path", at_once, flow.known_path(plan, own_s), target=TARGET_PATH
            ),
            line(f"{AT_ONCE} at once, over the path reported", at_once, reported),
            line("one at a time, over a bare script", one, bare, target=TARGET_BARE),
            line(f"{AT_ONCE} at once, over a bare script", at_once, bare),
            line(f"{AT_ONCE} at once, over one at a time", at_once, one),
            line("a bare script, over its latencies", bare, flow.known_sum(plan, own_s)),
        ]
    return Report(
        lines=lines,
        notes=[
            f"{len(list(folder.glob('*.sql')))} files, {len(plan.steps)} steps, {len(plan.stages)} stages.",
            "Latencies are set by fault control: 0.2 to 1.6 s for files, 'others' for all other statements.",
        ],
    )


def _in_new_schema(stage: Stage, run: Callable[[str], Ran]) -> Ran:
    return run(stage.schema())


def _line(
    own_s: float, what: str, ours: float, floor: float, *, samples: int, target: float | None = None
) -> Line:
    return Line(
        bench="parallel",
        what=f"others {own_s:g} s: {what}",
        ours=ours,
        floor=floor,
        unit="s",
        compare="ratio",
        target=target,
        samples=samples,
    )

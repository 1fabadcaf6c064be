"""A tick that takes in the result of every run and submits every next job, at several numbers of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from local_workspace import WorkspaceInfo, WorkspaceOptions, spawn

from benchmarks.control_replay import Replay
from benchmarks.control_stage import Stage, Ticked, script
from benchmarks.jobruns import JobRuns
from benchmarks.measure import Line, Report, median, progress, seconds, size

TARGET_BARE = 1.5
# Runs in one tick, and how many ticks are measured per repeat.
_SIZES = ((1, 6), (10, 4), (100, 2))
_MANY = 1000


@dataclass(frozen=True, kw_only=True)
class Case:
    """The medians of some ticks with so many runs; ``bare``: the same calls by connector and SDK."""

    runs: int
    samples: int
    seconds: float
    bare: float | None
    ticked: Ticked

    @property
    def per_run_ms(self) -> float:
        """Time per run and iteration."""
        return self.seconds / self.runs * 1000


@contextmanager
def quiet_workspace(root: Path) -> Iterator[WorkspaceInfo]:
    """A workspace whose job runs stay queued."""
    options = WorkspaceOptions(root=root / "workspace", allow_faults=True, max_processes=1)
    with spawn(options) as workspace:
        from databricks.sdk import WorkspaceClient

        client = WorkspaceClient(host=workspace.info.host, token=workspace.info.token)
        JobRuns(client, options.root).hold()
        yield workspace.info


def ticks(root: Path, repeat: int) -> Report:
    """Ours and bare in turn; the first round imports and connects, and does not count."""
    sizes = [(size(runs, min(runs, 10)), size(rounds * repeat, 1)) for runs, rounds in _SIZES]
    sizes = list(dict(sizes).items())  # in the quick mode two are the same
    with quiet_workspace(root) as info:
        model = script(root / "script.json", iterations=3 + max(rounds for _, rounds in sizes))
        cases = [_compared(info, model, runs=runs, rounds=rounds) for runs, rounds in sizes]
        cases.append(_alone(info, model, runs=size(_MANY, 20)))
    return Report(
        lines=[*_times(cases), *_counts(cases)],
        notes=[
            "A tick takes in the result of every run and submits its next job; job runs stay queued.",
            "Over bare calls: the same statements and requests, by connector and SDK, in turn.",
        ],
    )


def _compared(info: WorkspaceInfo, model: str, *, runs: int, rounds: int) -> Case:
    progress(f"{runs} runs in a tick")
    stage = Stage.open(info, f"n{runs}", model=model, batch=runs)
    with closing(stage.app), closing(Replay(info, like=stage.namespace)) as bare:
        Stage.open(info, bare.own.schema).app.close()
        stage.forget()
        stage.add(runs)
        bare(stage.taken())
        ours, floor = [], []
        for number in range(rounds + 1):
            if number:
                bare.same_results(stage.report())
            stage.forget()
            ours.append(stage.tick())
            floor.append(seconds(partial(bare, stage.taken())))
    return Case(
        runs=runs,
        samples=rounds,
        seconds=median([tick.seconds for tick in ours[1:]]),
        bare=median(floor[1:]),
        ticked=ours[-1],
    )


def _alone(info: WorkspaceInfo, model: str, *, runs: int) -> Case:
    progress(f"{runs} runs in a tick")
    stage = Stage.open(info, f"n{runs}", model=model, batch=runs)
    with closing(stage.app):
        stage.add(runs)
        stage.tick()
        stage.report()
        ticked = stage.tick()
    return Case(runs=runs, samples=1, seconds=ticked.seconds, bare=None, ticked=ticked)


def _times(cases: Sequence[Case]) -> list[Line]:
    one = cases[0]

    def line(what: str, case: Case, floor: float, target: float | None) -> Line:
        return Line(
            bench="control",
            what=what,
            ours=case.per_run_ms,
            floor=floor,
            unit="ms",
            compare="ratio",
            target=target,
            samples=case.samples,
        )

    over_bare = [
        line(
            f"{case.runs} in a tick, per run (over bare calls)",
            case,
            case.bare / case.runs * 1000,
            TARGET_BARE if case is one else None,
        )
        for case in cases
        if case.bare is not None
    ]
    over_one = [
        line(f"{case.runs:,} in a tick, per run (over 1 in a tick)", case, one.per_run_ms, 1.0)
        for case in cases[1:]
    ]
    return over_bare + over_one


def _counts(cases: Sequence[Case]) -> list[Line]:
    kinds: tuple[tuple[str, Callable[[Case], float], float | None], ...] = (
        ("SQL statements", lambda case: case.ticked.asked.statements, 0.0),
        ("Delta commits", lambda case: case.ticked.commits, 0.0),
        ("list calls", lambda case: case.ticked.asked.lists, 0.0),
        (
            "other requests, per run",
            lambda case: (case.ticked.asked.requests - case.ticked.asked.statements) / case.runs,
            None,
        ),
    )
    return [
        Line(
            bench="control",
            what=f"{case.runs:,} in a tick, {kind} (and 1 in a tick)",
            ours=count(case),
            floor=count(cases[0]),
            unit="",
            compare="extra",
            target=target,
        )
        for kind, count, target in kinds
        for case in cases[1:]
    ]

"""Which cases there are: every point of the runs that were recorded, with every way to go wrong."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.crash.cancel import RACES, completion_wins, kill_cancel, race, record_cancel
from tools.crash.children import CONTROLLERS, kill_children, record_children
from tools.crash.executor import STAGES, Stage, Victim, kill_harness, kill_workspace
from tools.crash.init import Step, kill_init, record_init
from tools.crash.kinds import INSERT, OF_NEXT_ATTEMPT, Kind
from tools.crash.model_calls import MOMENTS, Moment, interrupt
from tools.crash.model_calls import Victim as Interrupted
from tools.crash.network import cases, fault_at, noise
from tools.crash.points import MODES, Case, Mode, Point, kill_at, record
from tools.crash.programs import DYING, WRITING, write_script
from tools.crash.rig import Rig, start_rig
from tools.crash.second_kill import FIRST, kill_twice, record_recovery

Work = Callable[[Rig, str], Case]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One case that is to be done: which section of the report it is of, and how."""

    section: str
    name: str
    work: Work


def plan(folder: Path, seed: int, sections: Collection[str]) -> list[Job]:
    """The cases of some sections. Runs without faults are recorded; every request of theirs is a point."""
    with start_rig(folder) as made:
        whole = bool({"controller killed", "network"} & set(sections))
        points, dying_points = _whole(made, folder) if whole else ([], [])
        again = _again(made) if "killed again" in sections else []
        cancel = _cancel(made, seed) if "cancel" in sections else []
        init = _init(made) if "init killed" in sections else []
        children = _children(made) if "children" in sections else []
    extra = [(kind, n) for kind, n in dying_points if kind not in {kind for kind, _ in points}]
    jobs = [*_kills([(INSERT, 1), *points], dying=False), *_kills(extra, dying=True), *again, *cancel, *init]
    jobs += [_harness(stage, victim) for stage, victims in STAGES for victim in victims]
    jobs += [_workspace(None), *(_workspace(point) for point in _points([(k, 1) for k in OF_NEXT_ATTEMPT]))]
    kinds = list(dict.fromkeys(kind for kind, _ in [(INSERT, 1), *points]))
    jobs += _faults(kinds, dying=False) + _faults(list(dict.fromkeys(kind for kind, _ in extra)), dying=True)
    jobs += [_noise(seed + number) for number in range(5)] + children
    jobs += [_interrupted(victim, moment) for victim, moments in MOMENTS for moment in moments]
    return [job for job in jobs if job.section in sections]


def _whole(made: Rig, folder: Path) -> tuple[list[tuple[Kind, int]], list[tuple[Kind, int]]]:
    """The points of a run without faults, and of one whose executor leaves no result behind."""
    _, points, found = record(made, "base")
    assert not found.problems, found.problems
    script = write_script(folder / "dying.json", DYING, WRITING)
    _, dying_points, found = record(made, "dying", script=script)
    assert not found.problems, found.problems
    return points, dying_points


def _kills(points: Sequence[tuple[Kind, int]], *, dying: bool) -> list[Job]:
    def job(point: Point) -> Job:
        def work(made: Rig, run_id: str) -> Case:
            script = write_script(made.root.parent / "kill.json", DYING, WRITING) if dying else None
            return kill_at(made, point, run_id, script=script)

        return Job(section="controller killed", name=point.name, work=work)

    return [job(point) for point in _points(points)]


def _points(points: Sequence[tuple[Kind, int]]) -> list[Point]:
    return [Point(kind=kind, n=n, mode=mode) for kind, n in points for mode in MODES]


def _workspace(point: Point | None) -> Job:
    return Job(
        section="workspace killed",
        name=point.name if point else "during the program",
        work=lambda made, run_id: kill_workspace(made, point, run_id),
    )


def _faults(kinds: Sequence[Kind], *, dying: bool) -> list[Job]:
    def job(kind: Kind, number: int) -> Job:
        fault = pairs[number][1]
        return Job(
            section="network",
            name=f"{kind.name}: {fault.name}",
            work=lambda made, run_id: fault_at(made, kind, fault, run_id, dying=dying),
        )

    pairs = cases(list(kinds))
    return [job(kind, number) for number, (kind, _) in enumerate(pairs)]


def _harness(stage: Stage, victim: Victim) -> Job:
    return Job(
        section="harness killed",
        name=f"{stage}: {victim}",
        work=lambda made, run_id: kill_harness(made, stage, victim, run_id),
    )


def _noise(seed: int) -> Job:
    return Job(
        section="noise", name=f"15 % noise, seed {seed}", work=lambda made, run_id: noise(made, seed, run_id)
    )


def _again(made: Rig) -> list[Job]:
    def job(first: Point, then: Point) -> Job:
        return Job(
            section="killed again",
            name=f"{first.name}, then {then.name}",
            work=lambda made, run_id: kill_twice(made, first, then, run_id),
        )

    return [
        job(first, Point(kind=kind, n=n, mode=mode))
        for first in FIRST
        for kind, n in record_recovery(made, first, f"rec-{first.slug}")
        for mode in MODES[:2]
    ]


def _init(made: Rig) -> list[Job]:
    def job(step: Step, mode: Mode) -> Job:
        return Job(
            section="init killed",
            name=f"{step.name} {mode}",
            work=lambda made, run_id: kill_init(made, step, mode, run_id, expected),
        )

    steps, expected = record_init(made)
    return [job(step, mode) for step in steps for mode in MODES[:2]]


def _cancel(made: Rig, seed: int) -> list[Job]:
    def kill(point: Point) -> Job:
        return Job(
            section="cancel",
            name=point.name,
            work=lambda made, run_id: kill_cancel(made, point, run_id),
        )

    def one(number: int) -> Job:
        return Job(
            section="cancel",
            name=f"race, seed {number}",
            work=lambda made, run_id: race(made, number, run_id),
        )

    recorded = record_cancel(made, "cancel")
    jobs = [kill(Point(kind=kind, n=n, mode=mode)) for kind, n in recorded for mode in MODES[:2]]
    jobs += [Job(section="cancel", name="completion wins", work=completion_wins)]
    return [*jobs, *(one(seed + number) for number in range(RACES))]


def _children(made: Rig) -> list[Job]:
    def job(point: Point, controllers: int) -> Job:
        return Job(
            section="children",
            name=f"{point.name}, {CONTROLLERS[controllers]}",
            work=lambda made, run_id: kill_children(made, point, run_id, controllers=controllers),
        )

    # What falls into one tick differs from run to run: points are those that two runs have had.
    recorded, again = record_children(made, "tree"), record_children(made, "again")
    return [
        job(Point(kind=kind, n=n, mode=mode), controllers)
        for controllers, modes in ((1, MODES[:2]), (2, MODES[1:2]))
        for kind, n in recorded
        for mode in modes
        if (kind, n) in again
    ]


def _interrupted(victim: Interrupted, moment: Moment) -> Job:
    return Job(
        section="subcalls",
        name=f"{victim} at {moment}",
        work=lambda made, run_id: interrupt(made, victim, moment, run_id),
    )

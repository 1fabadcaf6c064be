"""The most telling points of the crash matrix. All of them: ``make crash-matrix``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.crash.audit import Expected
from tools.crash.children import kill_children
from tools.crash.controller import warm_up
from tools.crash.kinds import BY_NAME
from tools.crash.model_calls import Victim, interrupt
from tools.crash.network import FAULTS, fault_at
from tools.crash.points import Mode, Point, kill_at
from tools.crash.programs import SHORT, write_script
from tools.crash.rig import Rig, start_rig


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    warm_up()
    with start_rig(tmp_path_factory.mktemp("crash")) as started:
        yield started


@pytest.mark.parametrize(
    ("kind", "n", "mode"),
    [
        ("claim", 1, "after"),
        ("put manifest", 1, "after"),
        ("submit", 1, "after"),
        ("submit", 1, "late"),
        ("save", 1, "after"),
    ],
)
def test_a_killed_controller_changes_nothing(
    made: Rig, tmp_path: Path, kind: str, n: int, mode: Mode
) -> None:
    point = Point(kind=BY_NAME[kind], n=n, mode=mode)
    script = write_script(tmp_path / "script.json", SHORT)
    expected = Expected(attempts=((1, 1, "SUCCESS"),), tables=False)
    case = kill_at(made, point, point.slug, script=script, expected=expected)
    assert case.reached
    assert case.finished
    assert case.audit.problems == ()


def test_a_lost_reply_changes_nothing(made: Rig) -> None:
    (chosen,) = [each for each in FAULTS if each.name == "500 after the effect"]
    case = fault_at(made, BY_NAME["submit"], chosen, "net", dying=False)
    assert case.good, case


@pytest.mark.parametrize(("kind", "mode"), [("insert run", "after"), ("put answer", "before")])
def test_a_killed_controller_neither_loses_a_child_nor_makes_one_twice(
    made: Rig, kind: str, mode: Mode
) -> None:
    point = Point(kind=BY_NAME[kind], n=1, mode=mode)
    case = kill_children(made, point, f"tree-{point.slug}", controllers=1)
    assert case.good, case


@pytest.mark.parametrize("victim", ["process", "controller"])
def test_an_answered_prompt_is_not_asked_again(made: Rig, victim: Victim) -> None:
    case = interrupt(made, victim, 30, f"asked-{victim}", prompts=80)
    assert case.good, case

"""Two controllers under fire for a short time. Four of them, for minutes: ``make chaos``."""

from __future__ import annotations

from pathlib import Path

from tools.crash.chaos import chaos
from tools.crash.controller import warm_up


def test_two_controllers_under_fire_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    warm_up()
    report = chaos(tmp_path, seed=7, minutes=0.15, controllers=2, runs=6, every_s=2.0, iterations=(1, 2))
    assert report["problems"] == {}
    assert report["good"], report
    assert report["kills"] + report["stops"] + report["asked"] > 0

"""The parts of CI: in order of value, within the time that is left, and a failure fails the whole."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tools.ci import PARTS, ROOT, Part, main, run_parts


def part(name: str, code: str, *, minutes: float = 0.1, quick: str | None = None) -> Part:
    more = (sys.executable, "-c", quick) if quick is not None else None
    command = (sys.executable, "-c", code)
    return Part(name=name, command=command, minutes=minutes, quick=more, quick_minutes=0.1)


def test_parts_run_in_their_order_and_one_failure_fails_all(capfd: pytest.CaptureFixture[str]) -> None:
    parts = [part("bad", "raise SystemExit(1)"), part("good", "print('second ran')")]
    assert run_parts(parts, minutes=None, began=time.monotonic()) == 1
    out = capfd.readouterr().out
    assert "second ran" in out
    assert "exit code 1" in out
    assert run_parts(parts[1:], minutes=None, began=time.monotonic()) == 0


def test_what_does_not_fit_is_left_out_and_named(capfd: pytest.CaptureFixture[str]) -> None:
    long = part("long", "raise SystemExit(1)", minutes=30)
    short = part("short", "raise SystemExit(1)", minutes=30, quick="print('the quick form')")
    assert run_parts([long, short], minutes=5, began=time.monotonic()) == 0
    out = capfd.readouterr().out
    assert "left out: no time" in out
    assert "the quick form" in out


def test_time_that_has_passed_counts(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_parts([part("one", "raise SystemExit(1)")], minutes=5, began=time.monotonic() - 400) == 0
    assert "left out: no time" in capfd.readouterr().out


def test_every_make_target_of_a_part_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = [part.command[1] for part in PARTS if part.command[0] == "make"]
    assert [target for target in targets if f"\n{target}:" not in makefile] == []
    assert main(["--list", "--minutes", "60"]) == 0


def test_ci_calls_the_same_targets_on_every_python() -> None:
    import yaml

    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    check = workflow["jobs"]["check"]
    assert check["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert commands == ["make test PYTHON=python", ".ci/run"]


def test_ci_runs_what_needs_the_reference_engine() -> None:
    """Such tests are skipped everywhere else."""
    quick = (ROOT / "Makefile").read_text().partition("SPARK_QUICK :=")[2].partition("SPARK_REST")[0]
    others = (path for path in ROOT.glob("tests/*/test_*.py") if path != Path(__file__))
    marked = [path for path in others if "pytest.mark.reference_engine" in path.read_text()]
    assert len(marked) > 3
    assert [path for path in marked if f"{path.stem.removeprefix('test_')}.py" not in quick] == []

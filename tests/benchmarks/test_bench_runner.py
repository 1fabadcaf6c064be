"""The runner of the benchmarks: a part that hangs or fails ends, with all that it has started."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from benchmarks import measure
from benchmarks.__main__ import GROUPS, PARTS, Part, main, run_part
from benchmarks.measure import Line, in_turn

# Leaves a process behind that has lost its parent, as a workspace that does not notice its end.
_DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    open(sys.argv[1], "w").write(str(os.getpid()))
    time.sleep(600)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
"""


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(("end", "problem"), [("sys.exit(3)", "exit code 3"), ("time.sleep(600)", "stopped")])
def test_a_part_that_fails_or_hangs_leaves_nothing_running(tmp_path: Path, end: str, problem: str) -> None:
    mark = tmp_path / "pid"
    part = Part(command=("-c", _DAEMON + end, str(mark)))
    limit_s = 60.0 if "exit" in end else 3.0
    outcome, figures = run_part(part, [], tmp_path, limit_s=limit_s)
    assert outcome.problem is not None
    assert outcome.problem.startswith(problem)
    assert figures is None
    assert mark.exists()
    assert not alive(int(mark.read_text()))


def test_a_part_hands_its_figures_over(tmp_path: Path) -> None:
    writing = "import json, sys; json.dump([1], open(sys.argv[sys.argv.index('--write') + 1], 'w'))"
    outcome, figures = run_part(Part(command=("-c", writing)), ["--quick"], tmp_path, limit_s=60)
    assert (outcome.problem, figures) == (None, [1])


def test_one_failing_part_makes_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PARTS, "good", Part(command=("-c", "print('figures')")))
    monkeypatch.setitem(PARTS, "bad", Part(command=("-c", "raise SystemExit(1)")))
    assert main(["good"]) == 0
    assert main(["bad", "good", "--json"]) == 1
    captured = capfd.readouterr()
    document = json.loads(captured.out[captured.out.index("{") :])
    assert {name: part["problem"] for name, part in document["parts"].items()} == {
        "bad": "exit code 1",
        "good": None,
    }


def test_every_group_and_part_is_known() -> None:
    assert {name for names in GROUPS.values() for name in names} <= set(PARTS)
    with pytest.raises(SystemExit):
        main(["no-such-part"])


def test_quick_takes_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_quick", False)
    assert [len(samples) for samples in in_turn(5, time.monotonic, os.getpid, warm_up=2)] == [5, 5]
    measure.set_quick(True)
    assert [len(samples) for samples in in_turn(5, time.monotonic, os.getpid, warm_up=2)] == [1, 1]
    assert measure.size(1000, 10) == 10


def test_a_line_compares_with_its_target() -> None:
    line = Line(bench="b", what="w", ours=3.0, floor=2.0, unit="s", compare="ratio", target=1.4)
    assert (line.result, line.met) == (1.5, False)

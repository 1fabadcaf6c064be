"""Commands with a limit: what they start is ended with them, and nothing else is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tools.processes import run_limited

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def test_a_command_takes_its_orphans_along_and_leaves_other_children_alone(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    orphan = (
        "import subprocess, sys, pathlib\n"
        f"child = subprocess.Popen({SLEEP!r}, start_new_session=True)\n"
        f"pathlib.Path({str(note)!r}).write_text(str(child.pid))\n"
    )
    other = subprocess.Popen(SLEEP)
    try:
        assert run_limited([sys.executable, "-c", orphan], limit_s=60, grace_s=0.2).problem is None
        assert not Path(f"/proc/{note.read_text()}").exists()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_command_that_takes_too_long_is_ended() -> None:
    assert run_limited(SLEEP, limit_s=0.5).problem == "stopped after 0.5 s"

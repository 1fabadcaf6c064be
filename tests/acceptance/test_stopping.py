"""A controller that is asked to stop finishes its tick, or gives its leases up."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from acceptance_support import environment, finish

from databricks_rlm_agent.cli.operate import GRACE_S


def orchestrator(serving, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "databricks_rlm_agent.cli.main", "orchestrate", "--verbose", *arguments],
        env=environment(serving.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(condition, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def slow_script(tmp_path: Path, latency_s: float) -> str:
    path = tmp_path / "slow.json"
    path.write_text(json.dumps({"planner": [[finish("slowly")]], "latency_s": latency_s}))
    return f"scripted:{path}"


def held(serving, run_id: str) -> bool:
    with serving.statements() as cursor:
        cursor.execute(
            f"SELECT count(*) FROM main.{serving.schema}.run_state"
            " WHERE run_id = :run AND lease_expiry > current_timestamp()",
            {"run": run_id},
        )
        row = cursor.fetchone()
        return bool(row and row[0])


def test_the_tick_at_hand_is_finished(here, serving, tmp_path: Path) -> None:
    submitted = ("submit", "x", "--run-id", "finished", "--model", slow_script(tmp_path, 3))
    assert here(*submitted, env=serving.environment).code == 0
    process = orchestrator(serving)
    until(lambda: held(serving, "finished"))
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=240)
    took_s = time.monotonic() - asked
    assert process.returncode == 130
    assert "Stopping after this tick" in log
    if took_s < GRACE_S:
        assert here("status", "finished", "--json", env=serving.environment).document["answer"] == "slowly"
    else:  # the machine is so busy that the tick did not end in its time: then the lease is given up
        assert not held(serving, "finished")


def test_the_second_signal_ends_it_and_gives_the_lease_up(here, serving, tmp_path: Path) -> None:
    submitted = ("submit", "x", "--run-id", "given-up", "--model", slow_script(tmp_path, 600))
    assert here(*submitted, env=serving.environment).code == 0
    process = orchestrator(serving)
    until(lambda: held(serving, "given-up"))
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    until(lambda: "Stopping" in process.stderr.readline())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=240)
    assert process.returncode == 130
    assert not held(serving, "given-up")

"""Every way in which a program can end, seen in result.json, in execution_results and in the Jobs API."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from acceptance_support import finish, program

ENDINGS = [
    # name, program, timeout, status, error type, exit code, words of the summary
    (
        "raises",
        "def shop():\n    raise ValueError('no such shop')\nshop()",
        60,
        "FAILED",
        "ValueError",
        1,
        "no such shop",
    ),
    ("exits", "import sys\nprint('bye')\nsys.exit(3)", 60, "FAILED", "SystemExit", 3, "3"),
    ("hard-exit", "import os\nos._exit(7)", 60, "FAILED", "SystemExit", 7, "7"),
    ("sleeps", "import time\ntime.sleep(600)", 2, "TIMEOUT", "Timeout", 124, "2"),
    (
        "stubborn",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        2,
        "TIMEOUT",
        "Timeout",
        124,
        "2",
    ),
    (
        "prints",
        "import sys\nfor _ in range(200): sys.stdout.write('x' * 1048575 + '\\n')",
        120,
        "SUCCESS",
        None,
        0,
        "",
    ),
    ("bytes", "import os\nos.write(1, b'\\xff\\xfe raw \\x00 bytes')", 60, "SUCCESS", None, 0, ""),
    (
        "stops-spark",
        "print(spark.range(3).count())\nspark.stop()\nprint('after')",
        60,
        "SUCCESS",
        None,
        0,
        "",
    ),
    (
        "killed",
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        60,
        "FAILED",
        "ProcessDied",
        1,
        "",
    ),
]


@pytest.fixture(scope="module")
def ended(agent, here, serving, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """All endings as runs of one orchestrator, so that they share its waiting."""
    environment = serving.environment | {"RLM_SUSPECT_AFTER_S": "1"}
    folder = tmp_path_factory.mktemp("scripts")
    for name, code, timeout, *_ in ENDINGS:
        path = folder / f"{name}.json"
        path.write_text(json.dumps({"planner": [[program(code, timeout_s=timeout)], [finish()]]}))
        done = here("submit", name, "--run-id", name, "--model", f"scripted:{path}", env=environment)
        assert done.code == 0, done.err
    loop = agent("orchestrate", "--until-idle", env=environment)
    assert loop.code == 0, loop.err
    return {name: here("show", name, "--json", env=environment).document for name, *_ in ENDINGS}


@pytest.mark.parametrize(("name", "status", "error", "code", "words"), [(e[0], *e[3:]) for e in ENDINGS])
def test_ending(
    ended, serving, name: str, status: str, error: str | None, code: int | None, words: str
) -> None:
    shown = ended[name]
    (row,) = shown["results"]
    assert (row["status"], row["error_type"]) == (status, error)
    assert words in (row["error_summary"] or "")
    folder = Path(f"{serving.root}{serving.volume}/scratchpad/run_{name}/iter_1")
    result = json.loads((folder / "result.json").read_text())
    assert (result["status"], result["error_type"], result["exit_code"]) == (status, error, code)
    assert words in (result["error_summary"] or "")
    from databricks.sdk import WorkspaceClient

    client = WorkspaceClient(host=serving.host, token=serving.token)
    job = client.jobs.get_run(shown["requests"][0]["databricks_run_id"])
    assert job.state is not None
    assert job.state.result_state is not None
    assert job.state.result_state.value == ("SUCCESS" if status == "SUCCESS" else "FAILED")
    assert shown["state"] == "SUCCEEDED"


def test_a_flood_is_kept_within_bounds(ended, serving) -> None:
    folder = Path(f"{serving.root}{serving.volume}/scratchpad/run_prints/iter_1")
    result = json.loads((folder / "result.json").read_text())
    assert result["stdout"]["bytes"] == 200 * 1024 * 1024
    assert result["stdout"]["truncated"]
    assert (folder / "stdout.txt").stat().st_size < 16 * 1024 * 1024
    assert (folder / "result.json").stat().st_size < 64 * 1024


def test_a_program_that_was_changed_after_publishing_is_not_run(agent, here, serving, script) -> None:
    """The job run is held before it starts, the program is changed in the Volume, and then it is let go."""

    def fault(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"{serving.host}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {serving.token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.loads(reply.read() or b"null")

    environment = serving.environment
    model = script([program("print('the real one')")], [finish()])
    assert here("submit", "t", "--run-id", "tampered", "--model", model, env=environment).code == 0
    fault("POST", "/_local/faults", {"method": "POST", "path": "runs/submit", "action": "hold", "times": 1})
    tick = threading.Thread(target=agent, args=("tick",), kwargs={"env": environment})
    tick.start()
    while not (held := fault("GET", "/_local/held")["held"]):
        time.sleep(0.05)
    folder = Path(f"{serving.root}{serving.volume}/scratchpad/run_tampered/iter_1")
    (folder / "entrypoint.py").write_text("print('another one')")
    fault("POST", f"/_local/held/{held[0]['id']}/release")
    tick.join()
    assert here("orchestrate", "--until-idle", env=environment | {"RLM_SUSPECT_AFTER_S": "1"}).code == 0
    (row,) = here("show", "tampered", "--json", env=environment).document["results"]
    assert (row["status"], row["error_type"]) == ("FAILED", "ArtifactMismatch")
    assert (
        "another one" not in (folder / "stdout.txt").read_text() if (folder / "stdout.txt").exists() else True
    )

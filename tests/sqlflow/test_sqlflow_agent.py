"""A scripted agent runs a workflow, sees its job die and its error, fixes a file, and finishes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from databricks_rlm_agent.cli.main import main
from databricks_rlm_agent.localworkspace.info import WorkspaceInfo

WAIT_S = 60.0
RUN = "flow-agent"
FILES = {
    "01_a.sql": "CREATE OR REPLACE TABLE flow_a AS SELECT id FROM range(100)",
    "02_b_loop_iteration_01.sql": "CREATE OR REPLACE TABLE flow_b_1 AS SELECT id FROM flow_a WHERE id > 1",
    "02_b_loop_iteration_02.sql": "CREATE OR REPLACE TABLE flow_b_2 AS SELECT abs(id) AS id FROM flow_b_1",
    "03_c.sql": "-- the end\nCREATE OR REPLACE TABLE flow_c AS\nSELECT nothing FROM flow_b_loop_final",
}
FIXED = {"03_c.sql": "CREATE OR REPLACE TABLE flow_c AS SELECT count(*) AS n FROM flow_b_loop_final"}
HELD = {"path": ".*", "sql": "TABLE flow_b_2", "action": "hold", "times": 1}


def call(**arguments: Any) -> list[dict[str, Any]]:
    return [{"call": "run_sql_workflow", "args": {"purpose": "make flow_c", "name": "flow", **arguments}}]


@pytest.fixture
def agent(info: WorkspaceInfo, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    with monkeypatch.context() as patch:
        for name in [*os.environ]:
            patch.delenv(name)
        found = {"DATABRICKS_HOST": info.host, "DATABRICKS_TOKEN": info.token}
        for name, value in {**kept, **found, "RLM_WAREHOUSE_HTTP_PATH": info.http_path}.items():
            patch.setenv(name, value)
        assert main(["init"]) == 0
        yield


class Killer(threading.Thread):
    """Kills the job as soon as its statement is held, and lets the statement go."""

    def __init__(self, info: WorkspaceInfo) -> None:
        super().__init__(daemon=True)
        self._info, self._http = info, requests.Session()
        self._http.headers["Authorization"] = f"Bearer {info.token}"
        self.killed: list[int] = []
        self._http.post(f"{info.host}/_local/faults", json={"rules": [HELD]}).raise_for_status()

    def run(self) -> None:
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline and not self.killed:
            for held in self._http.get(f"{self._info.host}/_local/held").json()["held"]:
                self.killed = [pid for pid in _processes() if _is_job(pid)]
                for pid in self.killed:
                    os.kill(pid, signal.SIGKILL)
                self._http.post(f"{self._info.host}/_local/held/{held['id']}/release").raise_for_status()
            time.sleep(0.02)


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _is_job(pid: int) -> bool:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return RUN.encode() in words and any(word.endswith(b"/main.py") for word in words)
    return False


def test_an_agent_goes_on_after_a_kill_and_after_a_fix(
    info: WorkspaceInfo, agent: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = "/Volumes/main/rlm/artifacts/flow"
    local = Path(info.root) / folder.lstrip("/")
    local.mkdir()
    for name, text in FILES.items():
        (local / name).write_text(text)
    script = tmp_path / "script.json"
    finish = {
        "call": "finish",
        "args": {"answer": "{{value.status}}, {{value.steps.kept}} kept", "evidence": "c"},
    }
    planner = [
        call(path=folder, engine="warehouse"),  # its job is killed in the loop
        call(path=folder),  # goes on there, on Spark, and meets the error
        call(path=folder, files=FIXED),
        [finish],
    ]
    script.write_text(json.dumps({"planner": planner}))
    killer = Killer(info)
    killer.start()
    capsys.readouterr()
    model = f"scripted:{script}"
    assert main(["run", "make flow_c", "--run-id", RUN, "--model", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == "succeeded, 2 kept"
    assert killer.killed
    results = [
        json.loads(
            (
                Path(info.root) / f"Volumes/main/rlm/artifacts/scratchpad/run_{RUN}/iter_{n}/result.json"
            ).read_text()
        )
        for n in (1, 2, 3)
    ]
    assert [result["error_type"] for result in results] == ["ProcessDied", "WorkflowFailed", None]
    assert results[1]["value"]["steps"] == {"all": 3, "done": 1, "kept": 1, "failed": 1}
    assert "03_c.sql:2: " in results[1]["error_summary"]
    assert main(["show", RUN, "--json"]) == 0
    told = capsys.readouterr().out
    assert "make flow_c failed: WorkflowFailed: flow failed, 2 of 3 steps done. 03_c: 03_c.sql:2: " in told

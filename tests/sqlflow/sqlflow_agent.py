"""A scripted agent that runs a workflow: what it says, and what its job dies of.

As a program (it takes too long for the suite): an agent whose job is killed in a loop, which sees an error at
its second call, fixes a file, and finishes. ``python tests/sqlflow/sqlflow_agent.py``
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import requests
from local_workspace import WorkspaceInfo, WorkspaceOptions, spawn

from databricks_rlm_agent.cli.main import main

WAIT_S = 240.0
RUN = "flow-agent"
FILES = {
    "01_a.sql": "CREATE OR REPLACE TABLE flow_a AS SELECT id FROM range(100)",
    "02_b_loop_iteration_01.sql": "CREATE OR REPLACE TABLE flow_b_1 AS SELECT id FROM flow_a WHERE id > 1",
    "02_b_loop_iteration_02.sql": "CREATE OR REPLACE TABLE flow_b_2 AS SELECT abs(id) AS id FROM flow_b_1",
    "03_c.sql": "-- the end\nCREATE OR REPLACE TABLE flow_c AS\nSELECT nothing FROM flow_b_loop_final",
}
FIXED = {"03_c.sql": "CREATE OR REPLACE TABLE flow_c AS SELECT count(*) AS n FROM flow_b_loop_final"}
FOLDER = "/Volumes/main/rlm/artifacts/flow"
HELD = {"path": ".*", "sql": "TABLE flow_b_2", "action": "hold", "times": 1}


def call(**arguments: Any) -> list[dict[str, Any]]:
    return [{"call": "run_sql_workflow", "args": {"purpose": "make flow_c", "name": "flow", **arguments}}]


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


def publish(info: WorkspaceInfo) -> None:
    """Put the files where they are to be found."""
    local = Path(info.root) / FOLDER.lstrip("/")
    local.mkdir()
    for name, text in FILES.items():
        (local / name).write_text(text)


def write_script(path: Path, *calls: list[dict[str, Any]]) -> str:
    """A script of these calls and an answer; the model that plays it."""
    answer = "{{value.status}}, {{value.steps.kept}} kept"
    finish = {"call": "finish", "args": {"answer": answer, "evidence": "flow_c"}}
    path.write_text(json.dumps({"planner": [*calls, [finish]]}))
    return f"scripted:{path}"


def results(info: WorkspaceInfo) -> list[dict[str, Any]]:
    """What the jobs reported."""
    run = Path(info.root) / f"Volumes/main/rlm/artifacts/scratchpad/run_{RUN}"
    return [json.loads(path.read_text()) for path in sorted(run.glob("iter_*/result.json"))]


def killed(root: Path) -> None:
    """The whole story; raises where it goes otherwise."""
    with spawn(WorkspaceOptions(root=root / "ws", allow_faults=True)) as spawned:
        info = spawned.info
        os.environ |= environment(info)
        assert main(["init"]) == 0
        publish(info)
        killer = Killer(info)
        killer.start()
        model = write_script(
            root / "script.json",
            call(path=FOLDER, engine="warehouse"),  # its job is killed in the loop
            call(path=FOLDER),  # goes on there, on Spark, and meets the error
            call(path=FOLDER, files=FIXED),
        )
        assert main(["run", "make flow_c", "--run-id", RUN, "--model", model]) == 0
        assert killer.killed
        first, second, third = results(info)
        assert (first["error_type"], second["error_type"]) == ("ProcessDied", "WorkflowFailed")
        assert second["value"]["steps"] == {"all": 3, "done": 1, "kept": 1, "failed": 1}
        assert third["value"]["steps"] == {"all": 3, "done": 1, "kept": 2}
        print("killed in the loop, gone on, failed, fixed, done")


def environment(info: WorkspaceInfo) -> dict[str, str]:
    """What leads a command to the workspace."""
    found = {"DATABRICKS_HOST": info.host, "DATABRICKS_TOKEN": info.token}
    return found | {"RLM_WAREHOUSE_HTTP_PATH": info.http_path}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        killed(Path(folder))

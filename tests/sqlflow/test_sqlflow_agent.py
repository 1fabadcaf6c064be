"""A scripted agent runs a workflow, sees its error, fixes a file, and finishes. See ``sqlflow_agent.py``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_workspace import WorkspaceInfo
from local_workspace.options import installed_engine
from sqlflow_agent import FIXED, FOLDER, RUN, call, environment, publish, results, write_script

from databricks_rlm_agent.cli.main import main


@pytest.fixture
def agent(info: WorkspaceInfo, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    with monkeypatch.context() as patch:
        for name in [*os.environ]:
            patch.delenv(name)
        for name, value in {**kept, **environment(info)}.items():
            patch.setenv(name, value)
        assert main(["init"]) == 0
        yield


def test_an_agent_sees_the_error_of_a_workflow_and_goes_on_after_a_fix(
    info: WorkspaceInfo, agent: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(info)
    model = write_script(tmp_path / "script.json", call(path=FOLDER), call(path=FOLDER, files=FIXED))
    capsys.readouterr()
    assert main(["run", "make flow_c", "--run-id", RUN, "--model", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == "succeeded, 2 kept"
    failed, _fixed = results(info)
    assert failed["error_type"] == "WorkflowFailed"
    line = 3 if installed_engine() == "spark" else 2  # Spark says where in the statement, Sail does not
    assert f"03_c.sql:{line}: " in failed["error_summary"]
    assert failed["value"]["problems"][0]["hint"]
    assert failed["value"]["steps"] == {"all": 3, "done": 2, "failed": 1}
    # What the planner reads at its next iteration is made of it.
    assert main(["show", RUN, "--json"]) == 0
    output = capsys.readouterr().out
    summary = f"flow failed, 2 of 3 steps done. 03_c: 03_c.sql:{line}: "
    assert f"make flow_c failed: WorkflowFailed: {summary}" in output

"""A SQL workflow in the harness: it calls what the program names, from the zip that it was published with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from harness_support import Bench

from executor_harness import workflow
from executor_harness.run import WorkflowFailed, of_exception

RUNNER = """
import sys
def run(rlm, document):
    rlm.append(document["x"])
    return document["problem"]
"""
PROGRAM = """
from executor_harness.workflow import run
run(rlm, "databricks_rlm_agent.databricks.workflow_job:run", {"order": {
    "name": "flow", "folder": "/Volumes/main/rlm/work/none", "files": [], "sha256": "",
    "run_id": "r", "catalog": "main", "schema": "rlm"}, "engine": {"kind": "spark"}})
"""


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fake_runner.py").write_text(RUNNER)
    monkeypatch.setattr(workflow, "_RUNNER", tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "fake_runner", raising=False)


@pytest.mark.usefixtures("runner")
def test_what_the_program_names_is_called() -> None:
    seen: list[int] = []
    workflow.run(seen, "fake_runner:run", {"x": 1, "problem": None})
    assert seen == [1]


@pytest.mark.usefixtures("runner")
def test_what_it_says_is_the_summary_without_a_place_in_generated_code() -> None:
    with pytest.raises(WorkflowFailed) as caught:
        workflow.run([], "fake_runner:run", {"x": 1, "problem": "flow failed. 03_x.sql:2: why"})
    report = of_exception(caught.value, "entrypoint.py")
    assert (report.error_type, report.error_summary) == ("WorkflowFailed", "flow failed. 03_x.sql:2: why")
    assert report.traceback is None


@pytest.mark.usefixtures("runner")
def test_without_a_runner_it_says_what_to_do() -> None:
    with pytest.raises(WorkflowFailed, match="--harness"):
        workflow.run([], "no_such_runner:run", {})


def test_an_old_python_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "_PYTHON", (4, 0))
    with pytest.raises(WorkflowFailed, match=r"Python 4\.0 or later"):
        workflow.run([], "x:run", {})


def test_the_published_runner_answers(bench: Bench, sail: str) -> None:
    bench.env = {"SPARK_REMOTE": sail}
    ended = bench.run(PROGRAM, task_type="sql_workflow")
    assert (ended.code, ended.report["error_type"]) == (1, "WorkflowFailed"), ended.err
    assert "The files were changed after publishing; nothing was run." in ended.report["error_summary"]


def test_the_unpacked_harness_is_removed(bench: Bench) -> None:
    for program in ("pass", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"):
        bench.iter_n += 1
        bench.run(program)
    assert not list((bench.root / "tmp").glob("rlm-harness-*"))

"""The harness's part of a SQL workflow: nothing runs that is not what was published."""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from executor_harness import workflow
from executor_harness.outcome import WorkflowFailed, of_exception

TASK = """
class Order:
    catalog, schema = "c", "s"
    @classmethod
    def of(cls, document): return cls()
def run_task(rlm, order, engine, alone):
    return rlm.says
"""
SESSIONS = """
class SparkEngine:
    alone = None
    def __init__(self, spark, *, catalog, schema, remote): pass
"""


class Rlm:
    """As much of it as a workflow needs."""

    spark = object()

    def __init__(self, says: str | None = None) -> None:
        self.says = says

    def path(self, path: str) -> str:
        return path


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An order, with a pack of an executor that says what it is told to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workflow, "_PACKAGE", "fake_executor")
    monkeypatch.setattr(sys, "path", [*sys.path])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in {"task": TASK, "sparksessions": SESSIONS, "__init__": ""}.items():
            archive.writestr(f"fake_executor/sqlflow/{name}.py", text)
    pack = tmp_path / "pack.zip"
    pack.write_bytes(buffer.getvalue())
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    return {"pack": {"path": str(pack), "sha256": sha256}, "engine": {"kind": "spark"}, "order": {}}


def test_the_executor_is_run_from_the_pack(document: dict[str, Any]) -> None:
    workflow.run(Rlm(), document)  # type: ignore[arg-type]
    assert sys.path[0] == str(Path("sqlflow").resolve())


def test_what_it_says_is_the_summary_without_a_place_in_generated_code(document: dict[str, Any]) -> None:
    with pytest.raises(WorkflowFailed) as caught:
        workflow.run(Rlm("flow failed. 03_x.sql:2: why"), document)  # type: ignore[arg-type]
    report = of_exception(caught.value, "entrypoint.py")
    assert (report.error_type, report.error_summary) == ("WorkflowFailed", "flow failed. 03_x.sql:2: why")
    assert report.traceback is None


def test_a_pack_that_was_changed_is_not_run(document: dict[str, Any]) -> None:
    document["pack"]["sha256"] = "0" * 64
    with pytest.raises(WorkflowFailed, match="changed after publishing"):
        workflow.run(Rlm(), document)  # type: ignore[arg-type]


def test_an_old_python_is_told_what_to_do(document: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow, "_LEAST", (4, 0))
    with pytest.raises(WorkflowFailed, match=r"Python 4\.0 or later"):
        workflow.run(Rlm(), document)  # type: ignore[arg-type]

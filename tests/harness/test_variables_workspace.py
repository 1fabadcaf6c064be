"""Variables in jobs of a local workspace: tables behind its catalog, files in its Volumes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness_support import PACKAGE, VOLUME, Bench, eventually
from local_workspace import WorkspaceOptions, spawn

SCRATCH = "main.rlm_scratch"


class Jobs:
    """Iterations of a run as jobs of a workspace, one after the other."""

    def __init__(self, client: Any, root: Path) -> None:
        self.client = client
        # A bench whose Volumes are the workspace's
        self.bench = Bench(root=root / "Volumes", cache=root, iter_n=0)
        self.ref: dict[str, Any] | None = None

    def run(self, program: str, **inputs: Any) -> dict[str, Any]:
        from databricks.sdk.service.jobs import SparkPythonTask, SubmitTask

        self.bench.iter_n += 1
        self.bench.publish(program, variables=self.ref, scratch_schema=SCRATCH, inputs=inputs)
        task = SparkPythonTask(
            python_file=f"{VOLUME}/harness/main.py", parameters=self.bench.arguments(databricks_run_id="1")
        )
        self.client.jobs.submit(tasks=[SubmitTask(task_key="main", spark_python_task=task)])
        result: dict[str, Any] = json.loads(eventually(self._written, 120))
        assert result["status"] == "SUCCESS", result
        self.ref = result["variables"]["ref"] if result["variables"] else self.ref
        return result

    def _written(self) -> str:
        path = self.bench.folder / "result.json"
        text = path.read_text() if path.exists() else ""
        return text if text.endswith("}\n") else ""

    def tables(self) -> set[str]:
        return {str(table.name) for table in self.client.tables.list("main", "rlm_scratch")}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    from databricks.sdk import WorkspaceClient

    root = tmp_path_factory.mktemp("workspace")
    with spawn(WorkspaceOptions(root=root)) as workspace:
        client = WorkspaceClient(host=workspace.info.host, token=workspace.info.token)
        client.schemas.create("rlm", "main")
        harness = root / VOLUME.strip("/") / "harness"
        ignored = shutil.ignore_patterns("__pycache__", "main.py")
        shutil.copytree(PACKAGE, harness / "executor_harness", ignore=ignored)
        shutil.copy(PACKAGE / "main.py", harness / "main.py")
        yield Jobs(client, root)


def test_data_frames_from_job_to_job(jobs: Jobs) -> None:
    result = jobs.run(
        "spark.range(40).selectExpr('id', 'id % 4 AS part').write.saveAsTable('main.rlm.given')\n"
        "rlm.vars['Big'] = spark.table('main.rlm.given').filter('id > 9')\nrlm.vars['n'] = [1]\n"
    )
    assert result["variables"]["shown"] == [
        {"name": "Big", "type": "DataFrame", "size": "30 rows \u00d7 2 columns: id, part"},
        {"name": "n", "type": "list", "size": "1 item"},
    ]
    (first,) = jobs.tables()
    result = jobs.run(
        "big = rlm.vars['Big']\nrlm.vars['Big'] = big.groupBy('part').count()\nrlm.vars['n'].append(2)\n"
        "given = rlm.inputs['given']\n"
        "rlm.finish([big.count(), rlm.vars['Big'].count(), given.count(), given.columns])",
        given={"kind": "table", "name": "main.rlm.given"},
    )
    assert result["value"] == [30, 4, 40, ["id", "part"]]
    assert first in jobs.tables()
    assert len(jobs.tables()) == 2
    result = jobs.run(
        "rlm.finish([sorted(tuple(row) for row in rlm.vars['Big'].collect()), rlm.vars['n']])\n"
        "rlm.vars['n'] = 0"
    )
    assert result["value"] == [[[0, 7], [1, 7], [2, 8], [3, 8]], [1, 2]]
    assert len(jobs.tables()) == 1
    assert first not in jobs.tables()
    gone = jobs.run(
        "try:\n    rlm.inputs['gone'].df()\nexcept LookupError as error:\n    rlm.finish(str(error))",
        gone={"kind": "table", "name": "main.rlm.gone"},
    )
    assert gone["value"].startswith("input 'gone': table main.rlm.gone cannot be read: ")

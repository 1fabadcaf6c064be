"""llm_map in jobs of a local workspace: a real proxy of SQL, real Volumes, a kill in the midst."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness_support import PACKAGE, eventually
from llm_support import CREATE, access
from local_workspace import WorkspaceInfo, WorkspaceOptions, spawn

from executor_harness import protocol

VOLUME = "/Volumes/main/rlm/work"
PROGRAM = """
import os
open(rlm.path("pid"), "w").write(str(os.getpid()))
df = spark.sql("SELECT id, concat('row ', id % 96) AS t FROM range(960)")
out = rlm.llm_map(df, "Say {t}", "a")
name = rlm.table("said")
out.write.mode("overwrite").saveAsTable(name)
rlm.finish(spark.sql(f"SELECT count(*) FROM {name} WHERE a = concat('it is ', id % 96)").collect()[0][0])
"""
SUB = {"rules": [{"match": r"row (\d+)", "text": r"it is \1"}], "latency_s": 0.25}


@pytest.fixture(scope="module")
def info(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceInfo]:
    root = tmp_path_factory.mktemp("workspace")
    script = root.parent / f"{root.name}.json"
    script.write_text(json.dumps({"sub": SUB}))
    options = WorkspaceOptions(root=root, allow_faults=True, model=f"scripted:{script}")
    with spawn(options) as workspace:
        client = client_of(workspace.info)
        client.schemas.create("rlm", "main")
        client.statement_execution.execute_statement(CREATE, "local")
        harness = root / VOLUME.strip("/") / "harness"
        ignored = shutil.ignore_patterns("__pycache__", "main.py")
        shutil.copytree(PACKAGE, harness / "executor_harness", ignore=ignored)
        shutil.copy(PACKAGE / "main.py", harness / "main.py")
        yield workspace.info


def client_of(info: WorkspaceInfo) -> Any:
    from databricks.sdk import WorkspaceClient

    return WorkspaceClient(host=info.host, token=info.token)


def submit(info: WorkspaceInfo, attempt: int) -> tuple[int, Path]:
    """Publish an attempt and submit it; its run id and folder."""
    from databricks.sdk.service.jobs import SparkPythonTask, SubmitTask

    output_dir = f"{VOLUME}/scratchpad/{protocol.folder_of('r1', 1, attempt)}"
    folder = Path(info.root) / output_dir.strip("/")
    folder.mkdir(parents=True)
    source = PROGRAM.encode()
    (folder / "entrypoint.py").write_bytes(source)
    request = {
        "run_id": "r1",
        "iter_n": 1,
        "attempt": attempt,
        "task_type": "python",
        "purpose": "test",
        "output_dir": output_dir,
        "inputs": {},
        "parameters": {},
        "timeout_s": 60,
        "artifact": {
            "path": f"{output_dir}/entrypoint.py",
            "sha256": hashlib.sha256(source).hexdigest(),
            "size": len(source),
        },
        "results_table": "main.rlm.execution_results",
        "catalog": "main",
        "schema": "rlm",
        "limits": {"grace_s": 1},
        "models": access(concurrency=8),
    }
    manifest = {"schema_version": 1, "request": request, "submit_payload": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    named = {
        "run-id": "r1",
        "iter": "1",
        "attempt": str(attempt),
        "manifest": f"{output_dir}/manifest.json",
        "request-sha256": protocol.digest(request),
    }
    task = SparkPythonTask(
        python_file=f"{VOLUME}/harness/main.py",
        parameters=[part for name, value in named.items() for part in (f"--{name}", value)],
    )
    run = client_of(info).jobs.submit(tasks=[SubmitTask(task_key="main", spark_python_task=task)])
    return run.run_id, folder


def asked(info: WorkspaceInfo) -> list[str]:
    """Digests of the prompts of model calls that were answered."""
    log = client_of(info).api_client.do("GET", "/_local/requests")["requests"]
    return [one["prompt_sha256"] for one in log if one["prompt_sha256"] and one["status"] == 200]


def test_a_job_is_killed_and_the_next_asks_only_the_rest(info: WorkspaceInfo) -> None:
    _, folder = submit(info, 1)
    eventually(lambda: len(asked(info)) > 24)
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
    eventually(lambda: (folder / "result.json").exists())
    before = asked(info)
    assert len(before) < 96

    _, folder = submit(info, 2)
    result = json.loads(eventually(lambda: written(folder / "result.json"), 60))
    assert (result["status"], result["value"]) == ("SUCCESS", 960), result
    twice = [prompt for prompt, times in Counter(asked(info)).items() if times > 1]
    assert len(set(asked(info))) == 96
    assert len(twice) <= 16, "what was on its way, and an answer of each thread that was not written yet"
    assert result["usage"]["cached"] >= 24
    assert result["usage"]["calls"] + result["usage"]["cached"] == 96
    assert result["produced_tables"][0]["name"] == "main.rlm.said"


def written(path: Path) -> str:
    """A whole file's text, once it ends as JSON documents do."""
    text = path.read_text() if path.exists() else ""
    return text if text.rstrip().endswith("}") else ""

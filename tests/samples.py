"""Valid documents, to be changed by tests."""

from __future__ import annotations

import json
from typing import Any

from databricks_rlm_agent.attempts.manifest import Manifest, Request
from databricks_rlm_agent.attempts.result import Result, Status
from executor_harness.protocol import Artifact


def request(**changes: Any) -> Request:
    values: dict[str, Any] = {
        "run_id": "r1",
        "iter_n": 2,
        "attempt": 1,
        "purpose": "count",
        "artifact": Artifact(path="/Volumes/a/b/c/entrypoint.py", sha256="0" * 64, size=3),
        "output_dir": "/Volumes/a/b/c",
        "codebase_dir": "/Volumes/a/b/company_codebase",
        "timeout_s": 60,
        "results_table": "a.b.execution_results",
        "catalog": "a",
        "schema": "b",
    }
    return Request(**(values | changes))


def manifest() -> dict[str, Any]:
    return json.loads(Manifest(request=request(), submit_payload={"tasks": []}).to_bytes())


def result() -> dict[str, Any]:
    return json.loads(Result(run_id="r1", iter_n=2, attempt=1, status=Status.SUCCESS).model_dump_json())

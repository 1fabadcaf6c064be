"""A SQL workflow as a program: the executor of workflows comes as a zip in the Volume, and is run from it.

The harness knows nothing of SQL. It unpacks what the order names, checks it against its hash, and joins the
executor to an engine: the job's own Spark, or a SQL warehouse of the workspace.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from executor_harness.api import Rlm
from executor_harness.outcome import WorkflowFailed

_LEAST = (3, 11)  # of Python, for the executor; the harness itself runs on 3.10
_PACKAGE = "databricks_rlm_agent"


def run(rlm: Rlm, document: Mapping[str, Any]) -> None:
    """Run a workflow and report on `rlm`. Raises WorkflowFailed unless it succeeded.

    `document` has the `pack` (path and sha256 of the zip), the `engine` (`kind` is spark, or warehouse with
    its `http_path`), and the executor's own `order` (`sqlflow.run.task.Order`).
    """
    if sys.version_info < _LEAST:
        raise WorkflowFailed(
            f"A SQL workflow needs Python {'.'.join(map(str, _LEAST))} or later in its job; this is "
            f"{sys.version.split()[0]}. Choose a newer runtime (RLM_COMPUTE)."
        )
    _unpack(rlm, document["pack"])
    task = importlib.import_module(f"{_PACKAGE}.sqlflow.run.task")
    order = task.Order.of(document["order"])
    engine = _engine(rlm, document["engine"], catalog=order.catalog, schema=order.schema)
    problem = task.run_task(rlm, order, engine, alone=getattr(engine, "alone", None))
    if problem:
        raise WorkflowFailed(problem)


def _unpack(rlm: Rlm, pack: Mapping[str, str]) -> None:
    """Put the executor on the path, in a folder that goes with the program."""
    content = Path(rlm.path(pack["path"])).read_bytes()
    if hashlib.sha256(content).hexdigest() != pack["sha256"]:
        raise WorkflowFailed(f"{pack['path']} was changed after publishing; nothing was run.")
    folder = Path("sqlflow").resolve()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(folder)
    sys.path.insert(0, str(folder))


def _engine(rlm: Rlm, chosen: Mapping[str, Any], *, catalog: str, schema: str) -> Any:
    place = {"catalog": catalog, "schema": schema}
    if chosen["kind"] == "spark":
        sessions = importlib.import_module(f"{_PACKAGE}.sqlflow.run.spark")
        return sessions.SparkEngine(rlm.spark, remote=os.environ.get("SPARK_REMOTE"), **place)
    importlib.import_module(f"{_PACKAGE}.logs").keep_off_root("databricks.sql")  # its errors are told better
    workspace = importlib.import_module(f"{_PACKAGE}.databricks.workspace").Workspace()
    sessions = importlib.import_module(f"{_PACKAGE}.databricks.sql")
    return sessions.WarehouseEngine(workspace, http_path=chosen["http_path"], **place)

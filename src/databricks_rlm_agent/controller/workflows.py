"""Publish a SQL workflow: its files, and the program of the job that runs them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from databricks_rlm_agent.controller import bundle
from databricks_rlm_agent.errors import AlreadyExists
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.ports import Volume
from databricks_rlm_agent.runs.actions import RunSqlWorkflow
from databricks_rlm_agent.runs.run import AttemptKey
from databricks_rlm_agent.sqlflow.handover import content_hash

_CONNECTOR = "databricks-sql-connector"
_PROGRAM = '''\
"""The SQL workflow {name}, in the folder that the order names. Written by the control plane."""
import json

from executor_harness.workflow import run

run(rlm, {entry!r}, json.loads({document!r}))
'''


@dataclass(frozen=True, kw_only=True)
class Job:
    """The program of an attempt as it is to be published, and the packages that its job needs."""

    program: bytes
    packages: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Workflows:
    """Writes workflows into the Volume. ``http_path`` is the warehouse of those that run on one."""

    volume: Volume
    namespace: Namespace
    http_path: str | None

    def refusal(self, action: RunSqlWorkflow) -> str | None:
        """Why it cannot be run here; None if it can."""
        if action.engine == "warehouse" and not self.http_path:
            return 'No SQL warehouse is configured for workflows: use engine "spark".'
        return None

    def publish(self, key: AttemptKey, action: RunSqlWorkflow) -> Job:
        """Put the files and return the job's program. Harmless when repeated."""
        sha256 = content_hash(action.files)
        folder = self.namespace.workflow_dir(key.run_id, action.name, sha256)
        for name, text in sorted(action.files.items()):
            self._put(f"{folder}/{name}", text.encode())
        engine = {"kind": "spark"} if action.engine == "spark" else self._warehouse()
        document = {
            "order": self._order(key, action, folder=folder, sha256=sha256),
            "engine": engine,
        }
        program = _PROGRAM.format(
            name=action.name, entry=bundle.WORKFLOW_ENTRY, document=json.dumps(document)
        )
        packages = () if action.engine == "spark" else (f"{_CONNECTOR}=={metadata.version(_CONNECTOR)}",)
        return Job(program=program.encode(), packages=packages)

    def _warehouse(self) -> Mapping[str, Any]:
        return {"kind": "warehouse", "http_path": self.http_path}

    def _order(
        self, key: AttemptKey, action: RunSqlWorkflow, *, folder: str, sha256: str
    ) -> Mapping[str, Any]:
        """``handover.Order`` as JSON; the id of its run is the same for all iterations of a run."""
        kept = ("name", "variables", "max_iterations", "on_error")
        return {
            **{name: value for name, value in asdict(action).items() if name in kept},
            "folder": folder,
            "files": sorted(action.files),
            "sha256": sha256,
            "run_id": f"rlm-{key.run_id}-{action.name}",
            "catalog": action.catalog or self.namespace.catalog,
            "schema": action.schema or self.namespace.schema,
            "restart": key.iter_n if action.restart else None,
        }

    def _put(self, path: str, content: bytes) -> None:
        try:
            self.volume.put(path, content, overwrite=False)
        except AlreadyExists:
            return  # of an attempt that died: its folder's name is the hash of its content

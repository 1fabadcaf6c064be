"""What the tests of this folder share: the fault control, and the product's clients over one Workspace."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import requests
from local_workspace import WorkspaceInfo

from databricks_rlm_agent.databricks.services import WorkspaceJobs, WorkspaceVolume
from databricks_rlm_agent.databricks.sql import WarehouseEngine
from databricks_rlm_agent.databricks.workspace import Workspace
from databricks_rlm_agent.retry import RetryingSession

VOLUME = "/Volumes/main/default/files"


class Server:
    """The local workspace's fault control and request log."""

    def __init__(self, info: WorkspaceInfo) -> None:
        self.info = info
        self._http = requests.Session()
        self._http.trust_env = False
        self._http.headers["Authorization"] = f"Bearer {info.token}"

    def fault(self, path: str, **fields: Any) -> None:
        """From now on, requests to a path go wrong; the log starts anew."""
        self.calm()
        rule = {"path": path, **fields}
        self._http.post(f"{self.info.host}/_local/faults", json=rule).raise_for_status()

    def calm(self) -> None:
        for what in ("faults", "requests"):
            self._http.delete(f"{self.info.host}/_local/{what}").raise_for_status()

    def sent(self, path: str) -> list[int]:
        """The statuses of the requests to a path since the last fault (0: no reply)."""
        log = self._http.get(f"{self.info.host}/_local/requests").json()["requests"]
        return [entry["status"] for entry in log if re.search(path, entry["path"])]


@dataclass
class Clients:
    """The clients of databricks/, over one Workspace."""

    workspace: Workspace
    waits: list[float]
    http_path: str
    jobs: WorkspaceJobs = field(init=False)
    volume: WorkspaceVolume = field(init=False)
    engine: WarehouseEngine = field(init=False)
    warehouse: RetryingSession = field(init=False)

    def __post_init__(self) -> None:
        self.jobs, self.volume = WorkspaceJobs(self.workspace), WorkspaceVolume(self.workspace)
        self.engine = WarehouseEngine(self.workspace, http_path=self.http_path)
        self.warehouse = RetryingSession(self.engine.session, self.waits.append)

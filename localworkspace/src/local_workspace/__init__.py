"""The local workspace: a Databricks workspace's protocols over a folder and an embedded Spark engine.

``spawn`` starts one in a child process; ``running`` finds the one that serves a folder.
"""

from __future__ import annotations

from local_workspace.client import Spawned, running, spawn
from local_workspace.errors import WorkspaceError
from local_workspace.options import WorkspaceInfo, WorkspaceOptions

__all__ = ["Spawned", "WorkspaceError", "WorkspaceInfo", "WorkspaceOptions", "running", "spawn"]

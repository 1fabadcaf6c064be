"""The Secrets API."""

from __future__ import annotations

import base64
import binascii

from databricks_rlm_agent.errors import NotFound
from databricks_rlm_agent.remote.workspace import Workspace


class WorkspaceSecrets:
    """Reads secrets by scope and key."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def fetch(self, scope: str, key: str) -> str | None:
        """The value of a secret, or None if there is no such scope or key."""
        try:
            value = self._workspace.call(
                f"secret scope {scope}", lambda client: client.secrets.get_secret(scope, key).value
            )
        except NotFound:
            return None
        try:
            return base64.b64decode(value or "", validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return value

"""Whole files in Unity Catalog Volumes, through the Files API."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from databricks_rlm_agent.errors import NotFound, Rejected
from databricks_rlm_agent.ports import FileEntry
from databricks_rlm_agent.remote.workspace import Workspace

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient


class WorkspaceVolume:
    """Implements ports.Volume."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def put(self, path: str, content: bytes, *, overwrite: bool) -> None:
        """Write a whole file; make its folder when the workspace says that it is missing."""
        try:
            self._upload(path, content, overwrite=overwrite)
        except NotFound:
            folder = path.rpartition("/")[0]
            self._workspace.call(folder, lambda client: client.files.create_directory(folder))
            self._upload(path, content, overwrite=overwrite)

    def get(self, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Read a file, or a range of it in bytes."""
        if length == 0:
            return b""
        # Not files.download: it asks for a URL of cloud storage first, a second request for our small files.
        headers = {"Accept": "application/octet-stream"}
        if offset or length is not None:
            last = "" if length is None else str(offset + length - 1)
            headers["Range"] = f"bytes={offset}-{last}"

        def download(client: WorkspaceClient) -> bytes:
            reply: Any = client.api_client.do(
                "GET", f"/api/2.0/fs/files{quote(path)}", headers=dict(headers), raw=True
            )
            content: bytes = reply["contents"].read()
            return content

        try:
            return self._workspace.call(path, download)
        except Rejected as error:
            if "range" in error.what.lower():  # past the end of the file
                return b""
            raise

    def exists(self, path: str) -> bool:
        """Whether there is a file."""
        try:
            self._workspace.call(path, lambda client: client.files.get_metadata(path))
        except NotFound:
            return False
        return True

    def list(self, path: str) -> Sequence[FileEntry]:
        """The entries of a folder, in the workspace's order."""
        entries = self._workspace.call(path, lambda client: [*client.files.list_directory_contents(path)])
        return [
            FileEntry(path=entry.path or "", is_directory=bool(entry.is_directory), size=entry.file_size)
            for entry in entries
        ]

    def _upload(self, path: str, content: bytes, *, overwrite: bool) -> None:
        # A stream of its own for every try: one that was sent has been read.
        self._workspace.call(
            path, lambda client: client.files.upload(path, io.BytesIO(content), overwrite=overwrite)
        )

"""Whole files in Unity Catalog Volumes, through the Files API."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
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

        # A stream of its own for every try: one that was sent has been read.
        def send(client: WorkspaceClient) -> None:
            client.files.upload(path, io.BytesIO(content), overwrite=overwrite)

        self._into_folder(path, lambda: self._workspace.call(path, send))

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

    def look(self, path: str) -> FileEntry | None:
        """What is at a path; None where there is nothing."""
        try:
            found = self._workspace.call(path, lambda client: client.files.get_metadata(path))
            return FileEntry(path=path, is_directory=False, size=found.content_length)
        except (NotFound, Rejected):  # what is said of a folder that is asked for as a file is not documented
            pass
        try:
            self._workspace.call(path, lambda client: client.files.get_directory_metadata(path))
        except (NotFound, Rejected):
            return None
        return FileEntry(path=path, is_directory=True)

    def upload(self, path: str, source: Path, *, overwrite: bool) -> None:
        """Put a file of this machine, of at most 5 GiB, into a Volume without holding it in memory."""

        def send(client: WorkspaceClient) -> None:
            from databricks.sdk.service.files import FilesAPI

            # Not client.files.upload: it asks for URLs of cloud storage first, and keeps parts in memory.
            with source.open("rb") as file:
                plain = FilesAPI(client.api_client)  # type: ignore[no-untyped-call]  # the SDK's own
                plain.upload(path, file, overwrite=overwrite)

        self._into_folder(path, lambda: self._workspace.call(path, send))

    def list(self, path: str, *, limit: int | None = None) -> Sequence[FileEntry]:
        """The entries of a folder, in the workspace's order; pages past ``limit`` are not asked for."""

        def entries_of(client: WorkspaceClient) -> Sequence[Any]:
            return [*islice(client.files.list_directory_contents(path), limit)]

        entries = self._workspace.call(path, entries_of)
        return [
            FileEntry(path=entry.path or "", is_directory=bool(entry.is_directory), size=entry.file_size)
            for entry in entries
        ]

    def _into_folder(self, path: str, put: Callable[[], None]) -> None:
        try:
            put()
        except NotFound:
            folder = path.rpartition("/")[0]
            self._workspace.call(folder, lambda client: client.files.create_directory(folder))
            put()

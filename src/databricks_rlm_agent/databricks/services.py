"""The services of a workspace that we use: Unity Catalog, files in Volumes, jobs and secrets."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from databricks_rlm_agent.attempts.result import JobVerdict
from databricks_rlm_agent.databricks.workspace import Workspace
from databricks_rlm_agent.errors import AlreadyExists, NotFound, Rejected, Unreachable
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.ports import FileEntry
from databricks_rlm_agent.runs.run import DELETED

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.service.jobs import Run


# The Jobs API has no error code of its own for it ("If a run with the provided token already exists but is
# deleted, an error is returned", databricks-sdk 0.156, jobs.submit).
_DELETED = re.compile(r"idempotency.token.*\bdeleted\b|\bdeleted\b.*idempotency.token", re.IGNORECASE)
_HIDDEN_SCHEMAS = frozenset({"information_schema"})


class WorkspaceCatalog:
    """Implements ports.Catalog for one catalog, and creates our schema and Volume in it."""

    def __init__(self, workspace: Workspace, *, catalog: str) -> None:
        self._workspace, self._catalog = workspace, catalog

    def search(self, text: str, *, limit: int) -> Sequence[str]:
        """Full names of tables whose name contains ``text``, without regard to case."""

        def matching(client: WorkspaceClient) -> list[str]:
            names = self._tables(client, self._catalog)
            return list(islice((name for name in names if text.lower() in name.lower()), limit))

        return self._workspace.call(f"catalog {self._catalog}", matching)

    def describe(self, table: str) -> Sequence[tuple[str, str]]:
        """The columns of a table: name and type."""
        info = self._workspace.call(f"table {table}", lambda client: client.tables.get(table))
        return [(column.name or "", column.type_text or "") for column in info.columns or ()]

    def ensure(self, namespace: Namespace) -> list[str]:
        """Create the schemas and the Volume where they are missing; return what was created.

        Raise NotFound if there is no such catalog: to create one takes rights that we should not have.
        """
        from databricks.sdk.service.catalog import VolumeType

        call, catalog, schema, volume = (
            self._workspace.call,
            namespace.catalog,
            namespace.schema,
            namespace.volume,
        )
        try:
            call(f"catalog {catalog}", lambda client: client.catalogs.get(catalog))
        except NotFound:
            raise NotFound(
                f"There is no catalog {catalog!r}, or it is not visible to you.",
                where=self._workspace.host,
                fix="Set ADK_DELTA_CATALOG to one that exists (local workspace: start with --catalog NAME).",
            ) from None
        makers: dict[str, Callable[[WorkspaceClient], object]] = {
            f"schema {catalog}.{schema}": lambda client: client.schemas.create(
                name=schema, catalog_name=catalog
            ),
            f"schema {namespace.scratch_schema}": lambda client: client.schemas.create(
                name=f"{schema}_scratch", catalog_name=catalog
            ),
            f"volume {namespace.volume_root}": lambda client: client.volumes.create(
                catalog_name=catalog, schema_name=schema, name=volume, volume_type=VolumeType.MANAGED
            ),
        }
        created = []
        for what, make in makers.items():
            with suppress(AlreadyExists):
                call(what, make)
                created.append(what)
        return created

    @staticmethod
    def _tables(client: WorkspaceClient, catalog: str) -> Iterator[str]:
        for schema in client.schemas.list(catalog_name=catalog):
            if schema.name and schema.name not in _HIDDEN_SCHEMAS:
                for table in client.tables.list(catalog_name=catalog, schema_name=schema.name):
                    yield table.full_name or ""


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

    def look(self, path: str) -> FileEntry | None:
        """Return the entry at a path; None where there is nothing."""
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

    def delete(self, path: str) -> None:
        """Delete a file; one that is not there is deleted already."""
        with suppress(NotFound):
            self._workspace.call(path, lambda client: client.files.delete(path))

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


class WorkspaceJobs:
    """Implements ports.Jobs."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def submit(self, payload: Mapping[str, Any]) -> int:
        """Send ``runs/submit``. The payload is sent as it was frozen in the manifest, not rebuilt.

        Returns DELETED where the token's job run has been deleted.
        """
        path = "/api/2.2/jobs/runs/submit"
        try:
            reply: Any = self._workspace.call(
                f"POST {path}", lambda client: client.api_client.do("POST", path, body=dict(payload))
            )
        except Rejected as error:
            if not _DELETED.search(error.what):
                raise
            return DELETED
        try:
            return int(reply["run_id"])
        except (KeyError, TypeError, ValueError):
            raise Unreachable(
                "The answer names no run.",
                where=f"POST {path} at {self._workspace.host}",
                fix="The outcome is unknown; asking again with the same token is safe.",
            ) from None

    def verdict(self, databricks_run_id: int) -> JobVerdict:
        """How a run stands, by ``status`` (the run-level ``state`` alone misreports failures)."""
        try:
            return _verdict(databricks_run_id, self._get(databricks_run_id))
        except (AttributeError, KeyError, TypeError) as error:  # from the SDK's parser: no fault of the run
            raise Unreachable(
                f"The answer cannot be read: {error!r}.",
                where=f"job run {databricks_run_id} at {self._workspace.host}",
            ) from None

    def url(self, databricks_run_id: int) -> str | None:
        """The run's page."""
        return self.verdict(databricks_run_id).run_page_url

    def cancel(self, databricks_run_id: int) -> None:
        """Ask for a run's cancellation."""
        self._workspace.call(
            f"job run {databricks_run_id}", lambda client: client.jobs.cancel_run(databricks_run_id)
        )

    def probe(self) -> str:
        """Return a line that says that job runs can be listed; raise RemoteError where they cannot."""
        self._workspace.call("job runs", lambda client: next(iter(client.jobs.list_runs(limit=1)), None))
        return "runs can be listed; whether they may be submitted shows at the first one"

    def _get(self, databricks_run_id: int) -> Run:
        if databricks_run_id == DELETED:
            raise NotFound("The job run was deleted before it was recorded.", where=self._workspace.host)
        return self._workspace.call(
            f"job run {databricks_run_id}", lambda client: client.jobs.get_run(databricks_run_id)
        )


def _verdict(databricks_run_id: int, run: Run) -> JobVerdict:
    status, details = run.status, run.status.termination_details if run.status else None
    return JobVerdict(
        run_id=databricks_run_id,
        state=_value(status.state) if status else None,
        code=_value(details.code) if details else None,
        type=_value(details.type) if details else None,
        message=(details.message if details else None)
        or (run.state.state_message if run.state else None)
        or "",
        run_page_url=run.run_page_url,
    )


def _value(member: Enum | None) -> str | None:
    return None if member is None else str(member.value)


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

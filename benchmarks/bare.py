"""The calls of one iteration by the bare connector and SDK: nothing decided, nothing parsed."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from local_workspace import WorkspaceInfo

from benchmarks.places import connect
from databricks_rlm_agent.attempts.manifest import Manifest
from databricks_rlm_agent.attempts.records import EventRow, RequestRow
from databricks_rlm_agent.layout import ENTRYPOINT, MANIFEST, Namespace
from databricks_rlm_agent.storage import sql
from databricks_rlm_agent.storage.schema import ALL_TABLES, RunStateRow, create_table

Said = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a tick did: its statements, the program that it published, the result that it took in."""

    said: Sequence[Said]
    program: bytes
    manifest: Manifest
    result_path: str | None


class Bare:
    """Sends a step again, in a schema of its own that goes through the same states."""

    def __init__(self, info: WorkspaceInfo, *, like: Namespace) -> None:
        from databricks.sdk import WorkspaceClient

        self.client = WorkspaceClient(host=info.host, token=info.token)
        self._connection = connect(info)
        self._like = like
        self._own = Namespace(catalog=like.catalog, schema="bare", volume=like.volume)

    def init(self) -> None:
        """Make the schema, its Volume and its tables."""
        from databricks.sdk.service.catalog import VolumeType

        own = self._own
        self.client.schemas.create(name=own.schema, catalog_name=own.catalog)
        self.client.volumes.create(own.catalog, own.schema, own.volume, VolumeType.MANAGED)
        for table in ALL_TABLES:
            self._sql(create_table(own, table))

    def insert(self, said: Sequence[Said]) -> None:
        """Store the run that the recorded statement stored."""
        self._same(said, sql.append(self._like, RunStateRow), sql.append(self._own, RunStateRow))

    def copy_result(self, iter_n: int) -> None:
        """Have the row that the executor reported."""
        name = "execution_results"
        self._sql(
            f"INSERT INTO {self._own.table(name)} SELECT * FROM {self._like.table(name)} "
            f"WHERE iter_n = {iter_n:d}"
        )

    def iterate(self, step: Step) -> int:
        """All that an iteration cannot do without; return the job run. In the order of the tick."""
        like, own = self._like, self._own
        self._same(step.said, sql.due(like), sql.due(own))
        self._same(step.said, sql.claim(like), sql.claim(own))
        if step.result_path is not None:
            self._download(step.result_path)
        folder = step.manifest.request.output_dir.replace(like.volume_root, own.volume_root)
        self._upload(f"{folder}/{ENTRYPOINT}", step.program)
        self._upload(f"{folder}/{MANIFEST}", step.manifest.to_bytes())
        job_run = self._submit(step.manifest)
        self.client.jobs.get_run(job_run)
        self._same(step.said, sql.append(like, RequestRow), sql.append(own, RequestRow))
        self._same(step.said, sql.append(like, EventRow), sql.append(own, EventRow))
        self._same(step.said, sql.save(like), sql.save(own))
        return job_run

    def close(self) -> None:
        """End the warehouse session."""
        self._connection.close()

    def _same(self, said: Sequence[Said], theirs: str, ours: str) -> None:
        """Send ``ours`` with what was bound to ``theirs``; ValueError if the tick does not send it once."""
        (values,) = (values for text, values in said if text == theirs)
        self._sql(ours, values)

    def _sql(self, text: str, values: Mapping[str, Any] | None = None) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(text, dict(values) if values else None)
            cursor.fetchall_arrow()

    def _download(self, path: str) -> bytes:
        # files.download would ask for a URL of cloud storage first.
        reply: Any = self.client.api_client.do("GET", f"/api/2.0/fs/files{path}", raw=True)
        content: bytes = reply["contents"].read()
        return content

    def _upload(self, path: str, content: bytes) -> None:
        self.client.files.upload(path, io.BytesIO(content), overwrite=False)

    def _submit(self, manifest: Manifest) -> int:
        # A token of its own, so that there is a job run to make. Its harness finds the result and ends.
        token = {"idempotency_token": f"bare-{manifest.request.iter_n}"}
        reply: Any = self.client.api_client.do(
            "POST", "/api/2.2/jobs/runs/submit", body=manifest.submit_payload | token
        )
        return int(reply["run_id"])

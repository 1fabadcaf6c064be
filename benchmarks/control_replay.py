"""What a controller asked, recorded at its seams, and the same asked again by the bare connector and SDK."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from local_workspace import WorkspaceInfo

from benchmarks.places import connect
from databricks_rlm_agent.app import App
from databricks_rlm_agent.layout import Namespace

_SEAMS = ("warehouse", "volume", "jobs")


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call through a seam: ``warehouse.execute`` and its like, with its arguments."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class _Recorder:
    """Stands before a seam's implementation and notes every call."""

    def __init__(self, target: Any, seam: str, said: list[Call]) -> None:
        self._target, self._seam, self._said = target, seam, said

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._said.append(Call(name=f"{self._seam}.{name}", args=args, kwargs=kwargs))
            return method(*args, **kwargs)

        return call


def record(app: App) -> list[Call]:
    """Note from now on what ``app`` asks of its workspace. Before anything else of it is built."""
    said: list[Call] = []
    for seam in _SEAMS:
        app.__dict__[seam] = _Recorder(getattr(app, seam), seam, said)
    return said


class Replay:
    """Asks the same again, in a schema of its own that goes through the same states: nothing is decided."""

    def __init__(self, info: WorkspaceInfo, *, like: Namespace) -> None:
        from databricks.sdk import WorkspaceClient

        self._client = WorkspaceClient(host=info.host, token=info.token)
        self._connection = connect(info)
        self._like = like
        self.own = Namespace(catalog=like.catalog, schema=f"{like.schema}_bare", volume=like.volume)
        self._ways: dict[str, Callable[..., object]] = {
            "warehouse.fetch": self._sql,
            "warehouse.execute": self._sql,
            "warehouse.execute_once": self._sql,
            "warehouse.repeated": lambda *_: None,  # the statements in it are calls of their own
            "volume.put": self._upload,
            "volume.get": self._download,
            "jobs.submit": self._submit,
            "jobs.verdict": self._client.jobs.get_run,
            "jobs.url": self._client.jobs.get_run,
        }

    def __call__(self, said: Sequence[Call]) -> None:
        """Send all of it, one after the other; KeyError for a call that has no bare form here."""
        for call in said:
            self._ways[call.name](*call.args, **call.kwargs)

    def same_results(self, iter_n: int) -> None:
        """Have the rows that executors reported of an iteration."""
        name = "execution_results"
        self._sql(
            f"INSERT INTO {self.own.table(name)} SELECT * FROM {self._like.table(name)} "
            f"WHERE iter_n = {iter_n:d}",
        )

    def close(self) -> None:
        """End the warehouse session."""
        self._connection.close()

    def _sql(self, text: str, values: Mapping[str, Any] | None = None) -> None:
        like, own = (f"{names.catalog}.{names.schema}." for names in (self._like, self.own))
        with self._connection.cursor() as cursor:
            cursor.execute(text.replace(like, own), dict(values) if values else None)
            cursor.fetchall_arrow()

    def _upload(self, path: str, content: bytes, *, overwrite: bool) -> None:
        path = path.replace(self._like.volume_root, self.own.volume_root)
        self._client.files.upload(path, io.BytesIO(content), overwrite=overwrite)

    def _download(self, path: str, *, length: int | None = None) -> None:
        from databricks.sdk.errors import NotFound

        # files.download would ask for a URL of cloud storage first.
        with contextlib.suppress(NotFound):  # to look for a manifest is a call like any other
            part = {} if length is None else {"Range": f"bytes=0-{length - 1}"}
            reply: Any = self._client.api_client.do("GET", f"/api/2.0/fs/files{path}", headers=part, raw=True)
            reply["contents"].read()

    def _submit(self, payload: Mapping[str, Any]) -> None:
        # A token of its own, so that there is a job run to make.
        token = {"idempotency_token": f"bare{payload['idempotency_token']}"[:64]}
        self._client.api_client.do("POST", "/api/2.2/jobs/runs/submit", body={**payload, **token})

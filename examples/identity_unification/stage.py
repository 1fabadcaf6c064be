"""Runs the example: a local workspace, the deliveries in a Volume, and ``rlm-agent sql run``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from databricks.sdk import WorkspaceClient
from databricks.sdk.service.catalog import VolumeType
from local_workspace import WorkspaceInfo, WorkspaceOptions, spawn

from databricks_rlm_agent.databricks.services import WorkspaceVolume
from databricks_rlm_agent.databricks.workspace import Workspace
from databricks_rlm_agent.errors import AlreadyExists
from examples.identity_unification.landing import Landing

FLOW = Path(__file__).parent / "unify_customers"
CATALOG, SCHEMA = "main", "identity"
VOLUME = f"/Volumes/{CATALOG}/{SCHEMA}/landing"


def variables(schema: str = SCHEMA) -> dict[str, str]:
    """Return the values of the workflow's variables."""
    return {"catalog": CATALOG, "schema": schema, "landing": VOLUME}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A running workspace with the deliveries in ``VOLUME``."""

    root: Path
    info: WorkspaceInfo

    def folder(self, schema: str = SCHEMA) -> Path:
        """Return the folder of a schema's tables."""
        return self.root / "tables" / CATALOG / schema

    def command(self, *more: str, schema: str = SCHEMA) -> list[str]:
        """Return the ``rlm-agent sql run`` command that a person would type."""
        options = [part for name, value in variables(schema).items() for part in ("--var", f"{name}={value}")]
        return [
            *(sys.executable, "-m", "databricks_rlm_agent.cli.main", "sql", "run", str(FLOW)),
            *("--root", str(self.root), "--catalog", CATALOG, "--schema", schema),
            *("--on-error", "stop", *options, *more),
        ]

    def run(self, *more: str, schema: str = SCHEMA) -> dict[str, Any]:
        """Run the workflow and return its report; raise SystemExit if there is none."""
        done = subprocess.run(
            self.command("--json", *more, schema=schema), capture_output=True, text=True, check=False
        )
        if done.returncode > 1:
            raise SystemExit(f"rlm-agent sql run ended with exit code {done.returncode}. {done.stderr}")
        report: dict[str, Any] = json.loads(done.stdout)
        return report


@contextmanager
def workspace(root: Path, delivered: Landing, schemas: Sequence[str] = (SCHEMA,)) -> Iterator[Stage]:
    """A local workspace in ``<root>/workspace`` with these schemas, and the deliveries in a Volume."""
    files = root / "delivered"
    paths = delivered.write(files)
    with spawn(WorkspaceOptions(root=root / "workspace")) as started:
        remote = Workspace(host=started.info.host, token=started.info.token)
        for schema in {SCHEMA, *schemas}:
            _make(remote, partial(_schema, schema))
        _make(remote, lambda client: client.volumes.create(CATALOG, SCHEMA, "landing", VolumeType.MANAGED))
        for path in paths:
            to = f"{VOLUME}/{path.relative_to(files)}"
            WorkspaceVolume(remote).put(to, path.read_bytes(), overwrite=True)
        shutil.rmtree(files)
        yield Stage(root=root / "workspace", info=started.info)


def _schema(name: str, client: WorkspaceClient) -> None:
    client.schemas.create(name, CATALOG)


def _make(remote: Workspace, make: Callable[[WorkspaceClient], Any]) -> None:
    with suppress(AlreadyExists):
        remote.call("the deliveries", make)

"""The shared workspace; the product's own clients, with waits that are noted and not waited."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_workspace import WorkspaceInfo
from remote_rig import VOLUME, Clients, Server

from databricks_rlm_agent.databricks.services import WorkspaceVolume
from databricks_rlm_agent.databricks.workspace import Workspace


@pytest.fixture(scope="session")
def info(shared_workspace: WorkspaceInfo) -> WorkspaceInfo:
    return shared_workspace


@pytest.fixture
def server(info: WorkspaceInfo) -> Iterator[Server]:
    server = Server(info)
    yield server
    server.calm()


@pytest.fixture
def connect(info: WorkspaceInfo) -> Iterator[Callable[..., Clients]]:
    """Makes clients; by default with the workspace's token given by hand."""
    made: list[Clients] = []

    def connect(**identity: Any) -> Clients:
        waits: list[float] = []
        workspace = Workspace(**(identity or {"host": info.host, "token": info.token}), sleep=waits.append)
        made.append(Clients(workspace=workspace, waits=waits, http_path=info.http_path))
        return made[-1]

    yield connect
    for clients in made:
        clients.warehouse.close()


@pytest.fixture
def clients(connect: Callable[..., Clients]) -> Clients:
    return connect()


@pytest.fixture(scope="session", autouse=True)
def files(info: WorkspaceInfo) -> None:
    """A Volume with a program in it."""
    from databricks.sdk.service.catalog import VolumeType

    workspace = Workspace(host=info.host, token=info.token)
    workspace.call(
        "volume", lambda client: client.volumes.create("main", "default", "files", VolumeType.MANAGED)
    )
    WorkspaceVolume(workspace).put(f"{VOLUME}/program.py", b"print(1)", overwrite=True)


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, info: WorkspaceInfo) -> Callable[[str], str]:
    """Writes the profile `p` with a token, and returns its name."""
    file = tmp_path / "databrickscfg"
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(file))

    def write(token: str) -> str:
        file.write_text(f"[p]\nhost = {info.host}\ntoken = {token}\n")
        return "p"

    return write

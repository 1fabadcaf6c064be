"""One spawned workspace for all tests of this folder, and the real SDK as its client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.catalog import VolumeType
from local_workspace import Spawned, WorkspaceInfo, WorkspaceOptions, spawn
from lw_support import SUB, Programs, sdk

from tools.faults import skip_reference_engine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip_reference_engine(items)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spawned]:
    root = tmp_path_factory.mktemp("workspace")
    script = root.parent / f"{root.name}-script.json"
    script.write_text(json.dumps({"sub": SUB}))
    options = WorkspaceOptions(root=root, allow_faults=True, model=f"scripted:{script}", max_processes=2)
    with spawn(options) as spawned:
        sdk(spawned.info).volumes.create("main", "default", "files", VolumeType.MANAGED)
        yield spawned


@pytest.fixture(scope="session")
def info(workspace: Spawned) -> WorkspaceInfo:
    return workspace.info


@pytest.fixture(scope="session")
def client(info: WorkspaceInfo) -> WorkspaceClient:
    return sdk(info)


@pytest.fixture
def http(info: WorkspaceInfo) -> Iterator[requests.Session]:
    """Plain HTTP with the token, for what the SDK hides. Rules left by a test are cleared."""
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {info.token}"
        yield session
        session.delete(f"{info.host}/_local/faults")


@pytest.fixture
def programs(client: WorkspaceClient, info: WorkspaceInfo, request: pytest.FixtureRequest) -> Programs:
    return Programs(client, Path(info.root), request.node.name.replace("[", "-").replace("]", ""))

"""The shared workspace, used through the real connector; a schema of its own for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import settings
from local_workspace import WorkspaceInfo

from databricks_rlm_agent.databricks.sql import WarehouseEngine, WarehouseSession
from databricks_rlm_agent.databricks.workspace import Workspace

settings.register_profile("rlm", derandomize=True, database=None, deadline=None)
settings.load_profile("rlm")
_numbers = itertools.count()


@pytest.fixture(scope="session")
def info(shared_workspace: WorkspaceInfo) -> WorkspaceInfo:
    return shared_workspace


@pytest.fixture
def workspace(info: WorkspaceInfo) -> Workspace:
    return Workspace(host=info.host, token=info.token)


@pytest.fixture
def schema(info: WorkspaceInfo, workspace: Workspace) -> str:
    name = f"s{next(_numbers)}"
    session = WarehouseEngine(workspace, http_path=info.http_path).session()
    session.execute(f"CREATE SCHEMA main.{name}")
    session.close()
    return name


class Engine(WarehouseEngine):
    """Remembers its sessions, so that those of a killed process are closed too."""

    def session(self) -> WarehouseSession:
        made = super().session()
        self.__dict__.setdefault("made", []).append(made)
        return made


@pytest.fixture
def engine(info: WorkspaceInfo, workspace: Workspace, schema: str) -> Iterator[WarehouseEngine]:
    engine = Engine(workspace, http_path=info.http_path, catalog="main", schema=schema)
    yield engine
    for session in engine.__dict__.get("made", []):
        session.close()


@pytest.fixture
def session(engine: WarehouseEngine) -> WarehouseSession:
    return engine.session()

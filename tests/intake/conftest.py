"""The shared workspace; every test has a schema with our tables and a Jira-like table."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest
from hypothesis import settings
from intake_support import JIRA, Rig
from local_workspace import WorkspaceInfo

from databricks_rlm_agent.databricks.sql import WarehouseEngine
from databricks_rlm_agent.databricks.workspace import Workspace
from databricks_rlm_agent.intake.mapping import WorkMapping
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.storage.schema import migrate

# Deterministic and without a database on disk: the same examples on every machine.
settings.register_profile("rlm", derandomize=True, database=None, deadline=None)
settings.load_profile("rlm")
_numbers = itertools.count()


@pytest.fixture(scope="session")
def warehouse(shared_workspace: WorkspaceInfo) -> Iterator[RetryingSession]:
    workspace = Workspace(profile=None, host=shared_workspace.host, token=shared_workspace.token)
    engine = WarehouseEngine(workspace, http_path=shared_workspace.http_path)
    warehouse = RetryingSession(engine.session, time.sleep)
    yield warehouse
    warehouse.close()


@pytest.fixture
def rig(warehouse: RetryingSession) -> Rig:
    return make_rig(warehouse)


@pytest.fixture(scope="module")
def other_rig(warehouse: RetryingSession) -> Rig:
    """One for what all tests of a file are compared with."""
    return make_rig(warehouse)


def make_rig(warehouse: RetryingSession) -> Rig:
    schema = f"desk{next(_numbers)}"
    warehouse.execute(f"CREATE SCHEMA main.{schema}")
    namespace = Namespace(catalog="main", schema=schema, volume="artifacts")
    migrate(warehouse, namespace)
    table = f"main.{schema}.jira"
    warehouse.execute(
        f"CREATE TABLE {table} (issue_key STRING, summary STRING, details STRING, prio STRING, state STRING, "
        "owner STRING, changed TIMESTAMP, agent_note STRING, reply STRING) USING DELTA"
    )
    return Rig(warehouse, namespace, WorkMapping.model_validate(JIRA | {"table": table}))

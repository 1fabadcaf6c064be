"""Intake by the change feed, on a real Spark with Delta: the quick engine has no ``table_changes``."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from intake_support import JIRA, JIRA_COLUMNS, Rig, at
from local_workspace import WorkspaceInfo

from databricks_rlm_agent.databricks.sql import WarehouseEngine
from databricks_rlm_agent.databricks.workspace import Workspace
from databricks_rlm_agent.intake.mapping import WorkMapping
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.storage.schema import migrate

pytestmark = pytest.mark.reference_engine
BY_VERSION = {name: column for name, column in JIRA_COLUMNS.items() if name != "updated_at"}


@pytest.fixture(scope="module")
def spark(shared_workspace: WorkspaceInfo) -> Iterator[RetryingSession]:
    info = shared_workspace
    workspace = Workspace(profile=None, host=info.host, token=info.token)
    warehouse = RetryingSession(WarehouseEngine(workspace, http_path=info.http_path).session, time.sleep)
    warehouse.execute("CREATE SCHEMA main.feed")
    migrate(warehouse, Namespace(catalog="main", schema="feed", volume="artifacts"))
    yield warehouse
    warehouse.close()


@pytest.fixture
def rig(spark: RetryingSession, request: pytest.FixtureRequest) -> Rig:
    table = f"main.feed.{request.node.originalname}"
    create(spark, table)
    mapping = WorkMapping.model_validate(JIRA | {"table": table})
    return Rig(spark, Namespace(catalog="main", schema="feed", volume="artifacts"), mapping)


def create(spark: RetryingSession, table: str, *, feed: bool = True) -> None:
    properties = "TBLPROPERTIES ('delta.enableChangeDataFeed' = 'true')" if feed else ""
    spark.execute(
        f"CREATE TABLE {table} (issue_key STRING, summary STRING, details STRING, prio STRING, state STRING, "
        f"owner STRING, changed TIMESTAMP, agent_note STRING, reply STRING) USING DELTA {properties}"
    )


def test_feed_with_dates(rig: Rig) -> None:
    rig.put("A-1", at(1))
    controller = rig.controller()
    assert controller.poll().created == 1
    rig.put("A-2", at(0.01))  # late by far, and found at once
    assert controller.poll().created == 1
    assert any("table_changes" in text for text in controller.session.log[-6:])
    controller.poll()  # its own writing back
    before = len(controller.session.log)
    assert controller.poll().idle
    assert len(controller.session.log) == before + 1
    rig.settle(rig.run("A-1"), State.SUCCEEDED, answer="42")
    assert controller.poll().reported == 1
    assert rig.row("A-1")["state"] == "Done"
    rig.change("A-1", at(9), state="Reopened")
    assert controller.poll().created == 1
    assert [run.item_id for run in rig.runs("A-1")] == ["A-1", "A-1"]


def test_feed_without_dates(rig: Rig) -> None:
    mapping = rig.mapping.model_copy(update={"columns": rig.mapping.columns.model_validate(BY_VERSION)})
    rig.put("B-1", None)
    rig.put("B-2", None, state="Closed")
    one, two = rig.controller(mapping=mapping), rig.controller(mapping=mapping, name="c2")
    assert (one.poll().created, two.poll().created) == (1, 0)
    one.poll()
    two.poll()  # it says the same once more, which changes nothing
    assert (rig.row("B-1")["state"], one.poll().idle, two.poll().idle) == ("In Progress", True, True)
    rig.put("B-3", None)
    assert (two.poll().created, one.poll().created) == (1, 0)
    rig.change("B-3", prio="Low")  # nothing that a run would do otherwise
    assert one.poll().created == 0
    rig.change("B-3", details="Something else.")
    report = one.poll()
    assert (report.created, report.superseded) == (1, 1)
    rig.settle(rig.run("B-1"), State.WAITING_FOR_INPUT, question="Which?")
    one.poll()
    rig.change("B-1", reply="The blue one.")
    assert one.poll().answered == 1
    rig.settle(rig.run("B-1"), State.SUCCEEDED, answer="42")
    one.poll()
    assert rig.row("B-1")["state"] == "Done"
    assert one.poll().idle
    rig.change("B-1", state="Reopened")  # with not a word changed
    rig.change("B-1", prio="Low")
    assert one.poll().created == 1
    assert rig.controller(mapping=mapping, name="c3").poll().created == 0
    assert len(rig.runs("B-1")) == 2


def test_feed_of_a_table_made_anew(rig: Rig) -> None:
    mapping = rig.mapping.model_copy(update={"columns": rig.mapping.columns.model_validate(BY_VERSION)})
    for n in range(3):
        rig.put(f"C-{n}", None)
    controller = rig.controller(mapping=mapping)
    assert controller.poll().created == 3
    controller.poll()
    rig.session.execute(f"DROP TABLE {mapping.table}")
    create(rig.session, mapping.table)  # type: ignore[arg-type]
    rig.put("C-0", None)
    rig.put("C-9", None)
    assert controller.poll().created == 1  # the older one with the same text has been taken up already
    assert rig.controller(mapping=mapping).poll().created == 0
    assert [run.item_id for run in rig.runs() if str(run.item_id).startswith("C-")] == [
        "C-0",
        "C-1",
        "C-2",
        "C-9",
    ]


def test_no_feed_and_no_dates(rig: Rig) -> None:
    columns = rig.mapping.columns.model_validate(BY_VERSION)
    create(rig.session, f"{rig.mapping.table}_plain", feed=False)  # type: ignore[arg-type]
    plain = {"columns": columns, "table": f"{rig.mapping.table}_plain"}
    controller = rig.controller(mapping=rig.mapping.model_copy(update=plain))
    assert controller.intake().idle
    assert len(controller.session.log) == 1

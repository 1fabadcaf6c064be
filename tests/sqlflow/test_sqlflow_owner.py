"""A run belongs to one process: another one takes it over, and the first one finds out."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlflow_rig import Clock, FakeEngine, FakeSession, MemoryRecord, plan, runner, step

from databricks_rlm_agent.databricks.sql import WarehouseEngine, WarehouseSession
from databricks_rlm_agent.errors import RlmError
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.sqlflow.run.delta_record import DeltaRecord, _written_by_owner
from databricks_rlm_agent.sqlflow.run.outcome import RunStatus, StepStatus
from databricks_rlm_agent.sqlflow.run.record import DONE, StepRow
from databricks_rlm_agent.sqlflow.run.sessions import TakenOverError

AT = datetime(2026, 1, 1, tzinfo=UTC)


def record(engine: WarehouseEngine, schema: str, owner: str, slept: list[float] | None = None) -> DeltaRecord:
    made = DeltaRecord(
        RetryingSession(engine.session, lambda _s: None),
        ("main", schema),
        Clock(),
        owner=owner,
        sleep=(slept if slept is not None else []).append,
    )
    made.create()
    return made


def row(step: str) -> StepRow:
    return StepRow(step=step, status=DONE, file=step, sha256="x", started_at=AT, finished_at=AT)


def names(rows: Any) -> list[str]:
    return [each.step for each in rows]


def test_who_begins_last_has_the_run(engine: WarehouseEngine, schema: str, session: WarehouseSession) -> None:
    slept: list[float] = []
    first, second = record(engine, schema, "first"), record(engine, schema, "second", slept)
    assert first.begin("w", "w1", AT) == ()
    first.append([row("a")])
    found = second.find_run("w")
    assert found is not None
    assert (found.workflow_run_id, found.started_at, found.status) == ("w1", AT, "running")
    assert names(second.begin("w", "w1", AT)) == ["a"]
    assert slept == [1.0]
    first.check_owner()  # a moment ago it was still its own
    with pytest.raises(TakenOverError, match="second"):
        first.check_owner(now=True)
    with pytest.raises(TakenOverError, match="second"):
        first.append([row("b")])
    with pytest.raises(TakenOverError):
        first.end("failed", {})
    second.append([row("c")])
    late = "(workflow_run_id, seq, step, iteration, status, file, sha256, started_at, finished_at, owner)"
    at = "CAST('2026-01-01' AS TIMESTAMP)"
    session.execute(  # what was on its way when the run was taken over
        f"INSERT INTO sql_workflow_steps {late} "
        f"VALUES ('w1', 3, 'late', 0, 'done', 'f', 'x', {at}, {at}, 'first')"
    )
    second.end("succeeded", {})
    assert names(record(engine, schema, "third").begin("w", "w1", AT)) == ["a", "c"]
    states = session.fetch("SELECT status, owner FROM sql_workflow_runs ORDER BY seq, status")
    assert [each["status"] for each in states] == ["running", "running", "succeeded", "running"]


def test_tables_of_an_earlier_version_get_their_columns(
    engine: WarehouseEngine, schema: str, session: WarehouseSession
) -> None:
    session.execute(
        "CREATE TABLE sql_workflow_runs (workflow_run_id STRING, seq BIGINT, workflow STRING, status STRING, "
        "started_at TIMESTAMP, at TIMESTAMP, report STRING) USING DELTA"
    )
    session.execute(
        "CREATE TABLE sql_workflow_steps (workflow_run_id STRING, seq BIGINT, step STRING, iteration BIGINT, "
        "status STRING, file STRING, sha256 STRING, started_at TIMESTAMP, finished_at TIMESTAMP, "
        "rows_affected BIGINT, changed BIGINT, detail STRING, error STRING) USING DELTA"
    )
    at = "CAST('2026-01-01' AS TIMESTAMP)"
    session.execute(
        f"INSERT INTO sql_workflow_runs VALUES ('w1', 1, 'w', 'running', {at}, {at}, NULL), "
        f"('w1', 3, 'w', 'failed', {at}, {at}, '{{}}')"
    )
    session.execute(
        f"INSERT INTO sql_workflow_steps VALUES ('w1', 2, 'a', 0, 'done', 'a', 'x', {at}, {at}, "
        "NULL, NULL, NULL, NULL)"
    )
    made = record(engine, schema, "first")
    assert names(made.begin("w", "w1", AT)) == ["a"]
    made.append([row("b")])
    made.end("succeeded", {"a": 1})
    found = session.fetch("SELECT report FROM sql_workflow_runs WHERE status = 'succeeded'")
    assert json.loads(found[0]["report"]) == {"a": 1}
    assert names(record(engine, schema, "second").begin("w", "w1", AT)) == ["a", "b"]


@pytest.mark.parametrize(
    ("seq", "owner", "counts"),
    [
        (2, "a", True),
        (5, "a", False),  # late: b had the run by then
        (5, "b", True),
        (8, "b", False),
        (8, "c", True),
        (8, "d", True),  # c and d took it over at once; only one of them has written steps
        (8, None, False),
    ],
)
def test_which_rows_count(seq: int, owner: str | None, counts: bool) -> None:
    taken = [
        (1, "d", "running"),
        (4, "b", "running"),
        (6, "b", "failed"),
        (7, "c", "running"),
        (7, "d", "running"),
    ]
    runs = [{"seq": n, "owner": name, "status": status} for n, name, status in taken]
    assert _written_by_owner({"seq": seq, "owner": owner}, runs) is counts


FILES = plan(
    step("01_a.sql", "CREATE OR REPLACE TABLE a AS SELECT 1"),
    step("02_b.sql", "INSERT INTO b VALUES (1); CREATE OR REPLACE TABLE c AS SELECT 1"),
    step("03_d.sql", "CREATE OR REPLACE TABLE d AS SELECT 1"),
)


@pytest.mark.parametrize("at", range(4))
def test_a_process_whose_run_was_taken_over_ends(at: int) -> None:
    """After its n-th statement: the next one is not sent, and nothing is put on record any more."""
    kept = MemoryRecord()
    sent: list[str] = []

    def execute(sql: str, _session: FakeSession) -> int:
        sent.append(sql)
        kept.taken_over = len(sent) > at
        return 1

    report = runner(FILES, FakeEngine(execute), kept).run()
    assert len(sent) == at + 1
    assert (report.status, report.exit_code) == (RunStatus.FAILED, 1)
    assert StepStatus.INTERRUPTED in [outcome.status for outcome in report.steps]
    assert "taken over by another process" in report.notices[-1]
    assert len(kept.done()) == (0, 1, 1, 2)[at]
    assert kept.status == "running"


def test_a_run_that_is_taken_over_before_it_begins_is_an_error() -> None:
    kept = MemoryRecord()

    def begin(*_args: Any) -> Any:
        raise TakenOverError("another process")

    kept.begin = begin  # type: ignore[method-assign]
    with pytest.raises(RlmError, match="taken over by another process"):
        runner(FILES, FakeEngine(), kept).run()


def test_a_new_run_says_that_another_has_no_end_on_record() -> None:
    kept = MemoryRecord()
    kept.run, kept.status = ("w0", AT), "running"
    report = runner(FILES, FakeEngine(), kept).run()
    assert report.status is RunStatus.SUCCEEDED
    assert any("Run w0 of test has no end on record" in notice for notice in report.notices)


def test_tables_of_the_record_are_made_when_they_are_missed(
    engine: WarehouseEngine, schema: str, session: WarehouseSession
) -> None:
    made = DeltaRecord(RetryingSession(engine.session, lambda _s: None), ("main", schema), Clock())
    assert made.find_run("w") is None
    made.begin("w", "w1", AT)
    session.execute("DROP TABLE sql_workflow_steps")
    made.append([row("a")])
    assert session.fetch("SELECT step FROM sql_workflow_steps") == [{"step": "a"}]

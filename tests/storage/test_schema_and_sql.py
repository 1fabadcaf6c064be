from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent.attempts.records import EventRow, RequestRow, ResultRow
from databricks_rlm_agent.errors import InvalidData
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.run import LastRequest, LastResult, RunOutcome, new_run
from databricks_rlm_agent.storage import sql
from databricks_rlm_agent.storage.schema import (
    ALL_TABLES,
    RowType,
    RunStateRow,
    columns,
    create_table,
    json_shape,
    one_per_key,
    to_json,
)
from databricks_rlm_agent.storage.stores import from_row, to_row

NAMESPACE = Namespace(catalog="main", schema="rlm", volume="artifacts")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45)), timezone(timedelta(hours=-11))])
TIMES = st.datetimes(datetime(1900, 1, 2), datetime(2399, 12, 30), timezones=ZONES)  # noqa: DTZ001 -- given
REQUEST = {
    "databricks_run_id": 7,
    "run_url": None,
    "request_sha256": "0" * 64,
    "output_dir": "/Volumes/main/rlm/artifacts/scratchpad/run_r1/iter_1",
    "purpose": "look",
    "timeout_s": 60,
    "submitted_at": "2026-01-01T00:00:00+00:00",
}
NAMES = {
    "work_items": "item_id title description priority status assignee mode updated_at",
    "run_state": "run_id item_id parent_run_id depth current_mode fsm_state iter_n attempt lease_owner "
    "lease_epoch lease_expiry version write_id capsule budget last_request last_result created_at updated_at",
    "execution_requests": "run_id iter_n attempt task_type artifact_path artifact_hash job_submit_payload "
    "databricks_run_id run_url submitted_at submitted_by_worker",
    "execution_results": "run_id iter_n attempt databricks_run_id run_url status error_type error_summary "
    "metrics produced_artifacts produced_tables started_at finished_at reported_by",
    "run_events": "run_id seq at kind actor epoch payload",
    "intake_watermarks": "source last_version last_updated_at",
    # Not of the design: what programs asked models (issue of the recursive language model).
    "model_calls": "call_key run_id iter_n attempt model answer error input_tokens output_tokens cost_usd "
    "seconds at",
}


def run(**changes: Any) -> Any:
    fresh = new_run("count", run_id="r1", clock=lambda: EPOCH + timedelta(days=20_000, microseconds=7))
    return replace(fresh, **changes)


def event(at: datetime, **changes: Any) -> EventRow:
    values = {"run_id": "r1", "seq": 1, "at": at, "kind": "x", "actor": "c", "epoch": 1, "payload": "{}"}
    return EventRow(**(values | changes))


def test_the_tables_have_the_names_and_columns_that_the_design_fixes() -> None:
    assert {table.TABLE for table in ALL_TABLES} == set(NAMES)
    for table in ALL_TABLES:
        assert set(NAMES[table.TABLE].split()) <= set(columns(table)), table.TABLE
        assert set(table.KEY) <= set(columns(table))


@given(TIMES)
def test_timestamps_travel_to_the_microsecond(at: datetime) -> None:
    (document,) = json.loads(to_json([event(at)]))
    assert EPOCH + timedelta(microseconds=document["at"]) == at


def test_a_timestamp_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        to_json([event(datetime(2026, 1, 1))])  # noqa: DTZ001 -- that is the point


@given(st.text(st.characters()))
def test_a_batch_is_ascii_json_whatever_it_says(text: str) -> None:
    batch = to_json([event(EPOCH, payload=text)] * 2)
    assert batch.isascii()
    assert [row["payload"] for row in json.loads(batch)] == [text, text]


@pytest.mark.parametrize("table", ALL_TABLES, ids=lambda table: table.TABLE)
def test_the_json_shape_names_every_column_in_order(table: RowType) -> None:
    inner = re.fullmatch(r"array<struct<(.*)>>", json_shape(table))
    assert inner
    parts = dict(part.split(":") for part in inner[1].split(","))
    assert list(parts) == list(columns(table)) == [field.name for field in fields(table)]
    assert set(parts.values()) <= {"STRING", "BIGINT", "DOUBLE"}


STORABLE = {
    "databricks_run_id": st.integers(),
    "timeout_s": st.floats(0, 1e9),
    "request_sha256": st.text(),
    "output_dir": st.text(),
    "run_url": st.none() | st.text(),
}


@given(
    st.builds(
        run,
        fsm_state=st.sampled_from(State),
        lease_owner=st.none() | st.text(),
        lease_expiry=st.none() | TIMES,
        last_request=st.none() | st.builds(LastRequest, **STORABLE, purpose=st.text(), submitted_at=TIMES),
        last_result=st.none() | st.builds(LastResult, value=st.just({"a": [1, None, "ü", 1e300, 2**70]})),
        outcome=st.builds(RunOutcome, answer=st.none() | st.text(), question=st.none() | st.text()),
        created_at=TIMES,
    )
)
def test_a_run_comes_back_the_same(given_run: Any) -> None:
    assert from_row(asdict(to_row(given_run))) == given_run


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("fsm_state", "DREAMING"),
        ("capsule", "{"),
        ("capsule", None),
        ("budget", "[]"),
        ("last_request", "{"),
        ("last_request", "{}"),
        ("last_request", json.dumps(REQUEST | {"databricks_run_id": "7"})),
        ("last_request", json.dumps(REQUEST | {"timeout_s": "long"})),
        ("last_request", json.dumps(REQUEST | {"submitted_at": "2026-01-01T00:00:00"})),
        ("last_result", "[1]"),
        ("budget", '{"executor_s": Infinity}'),
        ("budget", '{"reported_epoch": -9}'),
        ("outcome", '{"answer": 42}'),
        ("outcome", '{"mood": "good"}'),
        ("outcome", "[1]"),
    ],
)
def test_a_row_that_does_not_parse_says_which(column: str, value: Any) -> None:
    with pytest.raises(InvalidData, match="run r1"):
        from_row(asdict(to_row(run())) | {column: value})


def test_older_rows_hold_less_and_newer_ones_more() -> None:
    """What another version of ours stored is read; a value that is no JSON for others is kept."""
    stored = asdict(to_row(run()))
    stored |= {"last_request": json.dumps(REQUEST | {"later": 1}), "last_result": '{"value": [NaN, 1]}'}
    found = from_row(stored)
    assert found.last_request is not None
    assert found.last_request.databricks_run_id == 7
    assert json.loads(to_row(found).last_result or "")["value"][1] == 1
    assert math.isnan(json.loads(to_row(found).last_result or "")["value"][0])


def test_one_row_per_key() -> None:
    rows = [{"run_id": "a", "seq": 1, "n": 1}, {"run_id": "a", "seq": 2}, {"run_id": "a", "seq": 1, "n": 2}]
    assert one_per_key(rows, EventRow) == rows[:2]


STATEMENTS = {
    "claim": (sql.claim(NAMESPACE), {"rows", "owner", "lease_us", "write_id"}),
    "save": (sql.save(NAMESPACE), {"rows", "write_id"}),
    "written": (sql.written(NAMESPACE), {"write_id"}),
    "due": (sql.due(NAMESPACE), {"limit", "gap_s", "first_s", "asked", "only"}),
    "request_cancel": (sql.request_cancel(NAMESPACE), {"run_id", "reason"}),
    "renew": (sql.renew(NAMESPACE), {"owners", "lease_us"}),
    "release": (sql.release(NAMESPACE), {"owners"}),
    "newest_runs": (sql.newest_runs(NAMESPACE), {"limit"}),
    "unfinished": (sql.unfinished(NAMESPACE), {"only"}),
    "children": (sql.children(NAMESPACE), {"parents"}),
    "cancel_children": (sql.request_cancel(NAMESPACE, key="parent_run_id"), {"run_id", "reason"}),
    **{f"append {t.TABLE}": (sql.append(NAMESPACE, t), {"rows"}) for t in ALL_TABLES},
    **{
        f"by_key {t.TABLE}": (sql.by_key(NAMESPACE, t), {"value"})
        for t in (RunStateRow, RequestRow, ResultRow, EventRow)
    },
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_every_value_is_a_bound_parameter(name: str) -> None:
    text, parameters = STATEMENTS[name]
    outside = re.sub(r"'[^']*'", "''", text)  # from_json's types hold colons of their own
    assert set(re.findall(r":(\w+)", outside)) == parameters
    literals = set(re.findall(r"'([^']*)'", text))
    types = {json_shape(table) for table in ALL_TABLES} | {
        "array<struct<run_id:string,version:bigint,pause_us:bigint>>"
    }
    assert literals <= types | {str(state) for state in State} | {"", ","}
    assert "?" not in text


@pytest.mark.parametrize("table", ALL_TABLES, ids=lambda table: table.TABLE)
def test_tables_allow_concurrent_writers(table: RowType) -> None:
    text = create_table(NAMESPACE, table)
    assert text.startswith(f"CREATE TABLE IF NOT EXISTS main.rlm.{table.TABLE} (")
    assert f"CLUSTER BY ({table.KEY[0]})" in text
    assert "'delta.enableDeletionVectors' = 'true'" in text
    assert "PARTITIONED" not in text
    assert "IDENTITY" not in text


def test_claims_compare_the_lease_with_the_clock_of_the_warehouse_and_fence_by_version() -> None:
    text = sql.claim(NAMESPACE)
    assert "coalesce(t.version, 0) = s.version" in text
    assert "t.lease_expiry < current_timestamp()" in text
    assert "lease_epoch = coalesce(t.lease_epoch, 0) + 1" in text
    assert "NOT MATCHED" not in text


def test_saves_are_fenced_and_release_the_lease() -> None:
    text = sql.save(NAMESPACE)
    assert "t.version = s.version AND t.lease_epoch = s.lease_epoch" in text
    assert "lease_owner = NULL, lease_expiry = NULL, due_at = " in text
    assert "NOT MATCHED" not in text  # rows are created by insert alone
    sets = text.partition("UPDATE SET ")[2]
    assigned = re.findall(r"(\w+) = ", sets)
    assert len(assigned) == len(set(assigned))
    assert set(columns(RunStateRow)) - set(assigned) == {
        "run_id",
        "created_at",
        "lease_epoch",
        "cancel_reason",
        "item_revision",
    }


def test_appends_add_each_key_once_and_change_nothing() -> None:
    text = sql.append(NAMESPACE, ResultRow)
    assert "t.run_id = s.run_id AND t.iter_n = s.iter_n AND t.attempt = s.attempt WHEN NOT MATCHED" in text
    assert "UPDATE" not in text

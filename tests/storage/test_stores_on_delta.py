"""Our statements on a real warehouse: SQL and Python say the same, and older tables are brought on."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from local_workspace import WorkspaceInfo

from databricks_rlm_agent.attempts.records import result_row
from databricks_rlm_agent.attempts.result import Result, Status
from databricks_rlm_agent.databricks.sql import WarehouseEngine
from databricks_rlm_agent.databricks.workspace import Workspace
from databricks_rlm_agent.errors import InvalidData
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.runs.fsm import Event, State
from databricks_rlm_agent.runs.run import DamagedRun, Due, Run, RunOutcome, new_run
from databricks_rlm_agent.storage import sql
from databricks_rlm_agent.storage.schema import MIGRATIONS, RunStateRow, columns, migrate
from databricks_rlm_agent.storage.stores import DeltaLedger, DeltaRunStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
_numbers = itertools.count()


@pytest.fixture(scope="module")
def warehouse(shared_workspace: WorkspaceInfo) -> Iterator[RetryingSession]:
    workspace = Workspace(profile=None, host=shared_workspace.host, token=shared_workspace.token)
    engine = WarehouseEngine(workspace, http_path=shared_workspace.http_path)
    warehouse = RetryingSession(engine.session, time.sleep)
    yield warehouse
    warehouse.close()


@pytest.fixture
def namespace(warehouse: RetryingSession) -> Namespace:
    namespace = Namespace(catalog="main", schema=f"stores{next(_numbers)}", volume="artifacts")
    warehouse.execute(f"CREATE SCHEMA main.{namespace.schema}")
    return namespace


def run(run_id: str, **changes: object) -> Run:
    return replace(new_run("count", run_id=run_id, clock=lambda: NOW), **changes)  # type: ignore[arg-type]


def store_of(warehouse: RetryingSession, namespace: Namespace) -> DeltaRunStore:
    return DeltaRunStore(warehouse, namespace)


def evaluated(
    warehouse: RetryingSession, expression: str, rows: list[dict[str, object]], *, first_s: float = 1.0
) -> list[float]:
    """An expression of ours over rows of ``run_id`` and ``age``, computed by the engine."""
    numbered = [{"n": n, "run_id": "r", "age": 0.0} | row for n, row in enumerate(rows)]
    shape = "array<struct<n:int,run_id:string,age:double>>"
    text = (
        f"SELECT {expression} AS value, :first_s AS f FROM (SELECT c.* FROM "
        f"(SELECT explode(from_json(:rows, '{shape}')) AS c)) ORDER BY n"
    )
    found = warehouse.fetch(text, {"rows": json.dumps(numbered), "first_s": first_s})
    return [float(row["value"]) for row in found]


POLLS = [(0, 0), (0.99, 0), (1, 1), (1.99, 1), (2, 2), (4, 3), (8, 4), (16, 5), (31.9, 5), (32, 6)]
POLLS += [(61.9, 6), (62, 7), (91.9, 7), (92, 8), (32 + 30 * 100, 106)]


@pytest.mark.parametrize("first_s", [0.5, 10.0, 37.25])
def test_job_runs_are_polled_at_doubling_ages_then_regularly(
    warehouse: RetryingSession, first_s: float
) -> None:
    ages = [{"age": times * first_s} for times, _ in POLLS]
    assert evaluated(warehouse, sql.polls("age"), ages, first_s=first_s) == [count for _, count in POLLS]


def test_runs_that_began_together_are_not_polled_together(warehouse: RetryingSession) -> None:
    factors = evaluated(warehouse, sql.SPREAD_FACTOR, [{"run_id": f"run-{n}"} for n in range(1_000)])
    assert min(factors) >= 1
    assert max(factors) < 1 + sql.SPREAD
    first = [10 / factor for factor in factors]
    assert max(first) - min(first) > 1.5
    assert max(sum(start <= age < start + 0.1 for age in first) for start in first) < 150


def test_due_runs_and_their_order(warehouse: RetryingSession, namespace: Namespace) -> None:
    """Runs that have something to do, then those to be polled; each by age, as Due.order has it."""
    migrate(warehouse, namespace)
    store = DeltaRunStore(warehouse, namespace, look_after_s=100.0)
    ages = {"young": 50, "old": 1_000, "polled": 1_900, "between": 2_500, "reported": 10, "cancelled": 20}
    executing = {"polled", "between", "reported", "cancelled"}
    states = {"waits": State.WAITING_FOR_INPUT, "ended": State.SUCCEEDED}
    store.insert(
        [run(name, fsm_state=State.EXECUTING if name in executing else State.PLANNING) for name in ages]
        + [run(name, fsm_state=state) for name, state in states.items()]
    )
    table = namespace.table("run_state")
    for name, age in ages.items():
        # The factor on a run's age is its own: what is asked for is the age after it.
        ago = f"CAST({age}e6 / {sql.SPREAD_FACTOR} AS BIGINT)"
        at = f"timestamp_micros(unix_micros(current_timestamp()) - {ago})"
        warehouse.execute(f"UPDATE {table} SET updated_at = {at} WHERE run_id = '{name}'")
    result = result_row(
        Result(run_id="reported", iter_n=1, attempt=1, status=Status.SUCCESS),
        databricks_run_id=7,
        run_url=None,
    )
    DeltaLedger(warehouse, namespace).append([result])
    assert store.request_cancel("cancelled", reason="enough")
    due = store.due(limit=99, gap_s=310.0)  # 1,600 is an age at which a job run is polled, for 100 s at first
    assert due == sorted(due, key=lambda found: found.order)
    assert {found.run.run_id for found in due} == {"young", "old", "polled", "reported", "cancelled"}
    assert [found.run.run_id for found in due][-2:] == ["polled", "cancelled"]
    assert [found.run.run_id for found in store.due(limit=2, gap_s=310.0)] == ["old", "young"]
    everything = store.due(limit=99, gap_s=1e12, asked=["polled"], only=["polled", "between", "old"])
    assert [found.run.run_id for found in everything] == ["old", "between"]


def test_older_tables_get_the_columns_that_came_later(
    warehouse: RetryingSession, namespace: Namespace
) -> None:
    older = {
        name: kind
        for name, kind in columns(RunStateRow).items()
        if name not in {"cancel_reason", "item_revision"}
    }
    body = ", ".join(f"{name} {kind}" for name, kind in older.items())
    warehouse.execute(f"CREATE TABLE {namespace.table('run_state')} ({body}) USING DELTA")
    values = {"run_id": "'old'", "current_mode": "'DEV'", "fsm_state": "'PENDING'", "budget": "'{}'"}
    values |= {"capsule": '\'{"objective": "count"}\'', "created_at": "current_timestamp()"}
    values |= {"updated_at": "current_timestamp()", "iter_n": "1", "attempt": "1"}
    values |= dict.fromkeys(("depth", "lease_epoch", "version"), "0")
    row = ", ".join(f"CAST({values.get(name, 'NULL')} AS {kind}) AS {name}" for name, kind in older.items())
    warehouse.execute(f"INSERT INTO {namespace.table('run_state')} SELECT {row}")
    assert migrate(warehouse, namespace) == list(MIGRATIONS)
    assert migrate(warehouse, namespace) == []
    store = store_of(warehouse, namespace)
    old = store.get("old")
    assert (old.cancel_reason, old.item_revision, old.fsm_state) == (None, None, State.PENDING)
    assert store.request_cancel("old", reason="enough")
    assert store.get("old").cancel_reason == "enough"
    store.insert([run("new", item_id="A-1", item_revision="7")])
    assert store.get("new").item_revision == "7"


def test_a_cancellation_is_kept_by_whoever_knows_nothing_of_it(
    warehouse: RetryingSession, namespace: Namespace
) -> None:
    migrate(warehouse, namespace)
    store = store_of(warehouse, namespace)
    store.insert([run("r1", item_revision="7")])
    (claimed,) = store.claim([store.get("r1")], owner="c/1", lease_s=60, write_id="w1")
    assert store.request_cancel("r1", reason="first")
    assert store.request_cancel("r1", reason="second")
    asked = claimed.after(Event.CLAIM).after(Event.ASK, outcome=RunOutcome(question="Which year?"))
    assert store.save([asked], write_id="w2") == {"r1"}
    waiting = store.get("r1")
    assert (waiting.cancel_reason, waiting.item_revision) == ("first", "7")
    # A run that waits for somebody has nothing to do, unless it was cancelled.
    assert [item.run.run_id for item in store.due(limit=9, gap_s=1e12)] == ["r1"]
    (again,) = store.claim([waiting], owner="c/2", lease_s=60, write_id="w3")
    assert store.save([again.after(Event.CANCEL)], write_id="w4") == {"r1"}
    assert not store.request_cancel("r1", reason="x") or store.get("r1").cancel_reason == "first"
    assert store.due(limit=9, gap_s=1e12) == []


def test_an_answer_is_compared_and_set(warehouse: RetryingSession, namespace: Namespace) -> None:
    migrate(warehouse, namespace)
    store = store_of(warehouse, namespace)
    asked = run("r1").after(Event.CLAIM).after(Event.ASK, outcome=RunOutcome(question="Which year?"))
    store.insert([asked])
    seen = store.get("r1")
    assert store.save([seen.answered("2013")], write_id="w1") == {"r1"}
    assert store.save([seen.answered("2014")], write_id="w2") == set()
    after = store.get("r1")
    assert (after.fsm_state, after.iter_n) == (State.PLANNING, 2)
    assert after.capsule.constraints == ["Asked: Which year? Answered: 2013"]


def test_a_damaged_row_is_due_and_can_be_cancelled(warehouse: RetryingSession, namespace: Namespace) -> None:
    migrate(warehouse, namespace)
    store = store_of(warehouse, namespace)
    store.insert([run("bad"), run("good")])
    for text in ("{", "[" * 3_000, None):
        warehouse.execute(
            f"UPDATE {namespace.table('run_state')} SET capsule = :text WHERE run_id = 'bad'", {"text": text}
        )
        problems = {item.run.run_id: item.problem for item in store.due(limit=9, gap_s=1e12)}
        assert problems["good"] is None
        assert "capsule" in str(problems["bad"])
        with pytest.raises(InvalidData, match="capsule"):
            store.get("bad")
    assert store.request_cancel("bad", reason="damaged")
    assert {item.run_id: isinstance(item, DamagedRun) for item in store.newest(limit=9)} == {
        "bad": True,
        "good": False,
    }


def names(due: list[Due]) -> set[str]:
    return {item.run.run_id for item in due}


def test_a_run_is_due_when_its_children_have_ended_or_must_be_cancelled(
    warehouse: RetryingSession, namespace: Namespace
) -> None:
    migrate(warehouse, namespace)
    store = store_of(warehouse, namespace)
    parent = run("p", fsm_state=State.WAITING_FOR_CHILDREN)
    children = [run(name, parent_run_id="p", depth=1) for name in ("a", "b")]
    below = run("aa", parent_run_id="a", depth=2, fsm_state=State.WAITING_FOR_INPUT)
    lone = run("lone", fsm_state=State.WAITING_FOR_CHILDREN)
    store.insert([parent, *children, below, lone])

    assert names(store.due(limit=10, gap_s=1e9)) == {"a", "b", "lone"}
    assert names(store.due(limit=10, gap_s=1e9, only=["p", "a"])) == {"a"}
    assert [child.run_id for child in store.children("p")] == ["a", "b"]
    assert store.family("p") == ["p", "a", "b", "aa"]
    assert (store.unfinished(), store.unfinished(only=store.family("p"))) == (3, 2)

    store.request_cancel("p", reason="enough")
    assert "p" in names(store.due(limit=10, gap_s=1e9))
    store.cancel_children("p", reason="its parent")
    assert "p" not in names(store.due(limit=10, gap_s=1e9))
    assert {child.cancel_reason for child in store.children("p")} == {"its parent"}

    claimed = store.claim(store.children("p"), owner="c1", lease_s=60, write_id="w1")
    store.save([child.after(Event.CANCEL) for child in claimed], write_id="w2")
    assert names(store.due(limit=10, gap_s=1e9)) == {"p", "lone"}
    assert [item.run_id for item in store.claim([store.get("p")], owner="c1", lease_s=60, write_id="w3")] == [
        "p"
    ]

"""Our statements on a real warehouse: SQL and Python say the same, and older tables are brought on."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from local_workspace import WorkspaceOptions, spawn

from databricks_rlm_agent.databricks.sql import WarehouseEngine
from databricks_rlm_agent.databricks.workspace import Workspace
from databricks_rlm_agent.errors import InvalidData
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.runs.fsm import Event, State
from databricks_rlm_agent.runs.run import Due, Run, RunOutcome, new_run
from databricks_rlm_agent.storage import sql
from databricks_rlm_agent.storage.migrations import MIGRATIONS, migrate
from databricks_rlm_agent.storage.poll_schedule import looks, spread
from databricks_rlm_agent.storage.schema import RunStateRow, columns
from databricks_rlm_agent.storage.stores import DeltaRunStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
_numbers = itertools.count()


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RetryingSession]:
    with spawn(WorkspaceOptions(root=tmp_path_factory.mktemp("stores") / "root")) as spawned:
        workspace = Workspace(profile=None, host=spawned.info.host, token=spawned.info.token)
        engine = WarehouseEngine(workspace, http_path=spawned.info.http_path)
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


def cases() -> list[tuple[str, float, float]]:
    """Runs, ages and first looks, most of them near the edges."""
    found: list[tuple[str, float, float]] = []
    for first_s in (0.5, 10.0, 37.25):
        marks = [first_s * 2**n for n in range(6)] + [first_s * (32 + 30 * n) for n in (1, 2, 7)]
        ages = [0.0, first_s / 3, *(mark * by for mark in marks for by in (0.97, 0.9999, 1.0, 1.0001, 1.2))]
        found += [(f"run-{number}-{first_s:.0f}", age, first_s) for number, age in enumerate(ages)]
        found += [(f"r{number * 7919}", number * 313.7, first_s) for number in range(20)]
    return found


def test_patience_in_sql_is_patience_in_python(warehouse: RetryingSession) -> None:
    given = cases()
    assert len(given) > 190
    differ = []
    for first_s in sorted({first_s for _, _, first_s in given}):
        rows = [{"run_id": name, "age": age} for name, age, of in given if of == first_s]
        found = warehouse.fetch(
            f"SELECT run_id, age, {sql._looks('age')} AS looks, {sql._SPREAD} AS spread FROM "
            "(SELECT c.* FROM (SELECT explode(from_json(:rows, 'array<struct<run_id:string,age:double>>')) "
            "AS c))",
            {"rows": json.dumps(rows), "first_s": first_s},
        )
        assert len(found) == len(rows)
        for row in found:
            expected = (looks(row["age"], first_s=first_s), spread(row["run_id"]))
            if (int(row["looks"]), pytest.approx(float(row["spread"]))) != expected:
                differ.append((dict(row), first_s, expected))
    assert differ == []


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
    assert [item.run_id for item in store.newest(limit=9)] == ["good"]


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

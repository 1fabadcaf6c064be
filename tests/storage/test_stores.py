"""RunStore, Ledger and migrations over a backend that answers from a script: no engine, no waiting."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from fake_sql import FakeSession, repeating

from databricks_rlm_agent.attempts.records import EventRow
from databricks_rlm_agent.errors import (
    ConfigError,
    Conflict,
    InvalidData,
    Rejected,
    RemoteError,
    RunNotFound,
    Unreachable,
)
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.runs.run import DamagedRun, Run, new_run
from databricks_rlm_agent.storage import sql
from databricks_rlm_agent.storage.schema import MIGRATIONS, migrate
from databricks_rlm_agent.storage.stores import DeltaLedger, DeltaRunStore, from_row, to_row

NAMESPACE = Namespace(catalog="main", schema="rlm", volume="artifacts")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
MAX_TRIES = 8


@dataclass(kw_only=True)
class FakeBackend(FakeSession):
    """Holds run_state and does what the statements say. ``faults`` happen at the calls of that number.

    A fault is an error, and whether the statement took effect all the same.
    """

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: dict[int, tuple[RemoteError, bool]] = field(default_factory=dict)
    calls: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    def fetch(self, text: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Mapping[str, Any]]:
        return self._call(text, parameters or {}, self._fetched)

    def execute(self, text: str, parameters: Mapping[str, Any] | None = None) -> int:
        return self._call(text, parameters or {}, self._executed)

    def _call(self, text: str, values: Mapping[str, Any], act: Callable[..., Any]) -> Any:
        self.calls.append((text, values))
        assert set(re.findall(r":(\w+)", re.sub(r"'[^']*'", "", text))) == set(values)
        error, took_effect = self.faults.pop(len(self.calls), (None, True))
        answer = act(text, values) if took_effect else None
        if error:
            raise error
        return answer

    def _fetched(self, text: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        if text == sql.written(NAMESPACE):
            return [row for row in self.rows.values() if row["write_id"] == values["write_id"]]
        if text == sql.due(NAMESPACE):
            return [row | {"reported_status": None} for row in self.rows.values()]
        if text == sql.unfinished(NAMESPACE):
            return [{"n": len(self.rows)}]
        return list(self.rows.values())

    def _executed(self, text: str, values: Mapping[str, Any]) -> int:
        given = {row["run_id"]: row for row in json.loads(values["rows"])}
        for run_id in self.rows.keys() & given.keys():
            row, new = self.rows[run_id], given[run_id]
            if row["version"] != new["version"] or row["lease_epoch"] != new.get(
                "lease_epoch", row["lease_epoch"]
            ):
                continue
            if text == sql.claim(NAMESPACE):
                row |= {"lease_owner": values["owner"], "lease_epoch": row["lease_epoch"] + 1}
            elif text == sql.save(NAMESPACE):
                row |= {"fsm_state": new["fsm_state"], "lease_owner": None}
            row |= {"version": row["version"] + 1, "write_id": values["write_id"]}
        return -1


@dataclass(kw_only=True)
class Sleeper:
    slept: list[float] = field(default_factory=list)

    def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)


def run(run_id: str = "r1") -> Run:
    return new_run("count", run_id=run_id, clock=lambda: NOW)


def store_of(*run_ids: str, **faults: Any) -> tuple[DeltaRunStore, FakeBackend, Sleeper]:
    backend = FakeBackend(rows={name: asdict(to_row(run(name))) for name in run_ids}, **faults)
    sleeper = Sleeper()
    return DeltaRunStore(repeating(backend, sleeper), NAMESPACE), backend, sleeper


UNKNOWN = [
    pytest.param((Unreachable("x"), True), id="reply lost"),
    pytest.param((Unreachable("x"), False), id="never arrived"),
    pytest.param((Conflict("x"), False), id="conflict"),
]


@pytest.mark.parametrize("fault", UNKNOWN)
def test_a_claim_of_unknown_outcome_is_settled_by_reading_again(fault: tuple[RemoteError, bool]) -> None:
    store, backend, sleeper = store_of("r1", "r2", faults={1: fault})
    won = store.claim([run("r1"), run("r2")], owner="c1", lease_s=2.5, write_id="w1")
    assert {item.run_id for item in won} == ({"r1", "r2"} if fault[1] else set())
    assert [text for text, _ in backend.calls] == [sql.claim(NAMESPACE), sql.written(NAMESPACE)]
    assert backend.calls[0][1]["lease_us"] == 2_500_000
    assert sleeper.slept == []  # what was lost is due again later


def test_a_claim_wins_only_what_is_as_it_was_seen() -> None:
    store, _, _ = store_of("r1", "r2")
    won = store.claim([replace(run("r1"), version=7), run("r2")], owner="c1", lease_s=1, write_id="w1")
    assert [(item.run_id, item.version, item.lease_epoch) for item in won] == [("r2", 1, 1)]


@pytest.mark.parametrize("fault", UNKNOWN)
def test_a_save_is_sent_again_only_if_nothing_landed(fault: tuple[RemoteError, bool]) -> None:
    store, backend, sleeper = store_of("r1", faults={1: fault})
    assert store.save([run()], write_id="w1") == {"r1"}
    statements = [text for text, _ in backend.calls]
    again = [] if fault[1] else [sql.save(NAMESPACE), sql.written(NAMESPACE)]
    assert statements == [sql.save(NAMESPACE), sql.written(NAMESPACE), *again]
    assert len(sleeper.slept) == len(again) // 2
    assert backend.rows["r1"]["version"] == 1  # changed once, however often it was sent


def test_a_save_outlasts_the_conflicts_of_a_busy_table() -> None:
    faults = {number: (Conflict("x"), False) for number in range(1, 2 * 20, 2)}
    store, backend, sleeper = store_of("r1", faults=faults)
    assert store.save([run()], write_id="w1") == {"r1"}
    assert len(sleeper.slept) == 20
    assert backend.rows["r1"]["version"] == 1


def test_writes_of_one_process_never_meet() -> None:
    """Where renewals are as slow as a save, they would else conflict with it for ever."""
    backend, writing, inside, most = FakeBackend(), threading.Lock(), [0], [0]
    backend.rows = {"r1": asdict(to_row(run("r1")))}
    act = backend.execute

    def slow(text: str, parameters: Mapping[str, Any] | None = None) -> int:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.001)
        inside[0] -= 1
        return 0 if text == sql.renew(NAMESPACE) else act(text, parameters)

    backend.execute = slow  # type: ignore[method-assign]
    stores = [DeltaRunStore(repeating(backend, Sleeper()), NAMESPACE, writing=writing) for _ in range(2)]
    keeper = threading.Thread(target=lambda: [stores[1].renew(owners=["c"], lease_s=1) for _ in range(50)])
    keeper.start()
    for number in range(20):
        stores[0].save([replace(run(), version=number)], write_id=f"w{number}")
    keeper.join()
    assert most == [1]
    assert backend.rows["r1"]["version"] == 20


def test_a_table_of_an_earlier_version_is_read_and_says_what_to_do_before_anything_is_claimed() -> None:
    missing = Rejected("[UNRESOLVED_COLUMN.WITH_SUGGESTION] A column with name `due_at` cannot be resolved.")
    store, backend, _ = store_of("r1", faults={1: (missing, False), 2: (missing, False)})
    with pytest.raises(ConfigError, match="rlm-agent init"):
        store.due(limit=1, gap_s=1)
    with pytest.raises(ConfigError, match="rlm-agent init"):
        store.insert([run("r2")])
    del backend.rows["r1"]["due_at"]
    assert from_row(backend.rows["r1"]).run_id == "r1"


def test_a_save_by_a_stale_epoch_changes_nothing() -> None:
    store, backend, _ = store_of("r1")
    before = dict(backend.rows["r1"])
    assert store.save([replace(run(), lease_epoch=9)], write_id="w1") == set()
    assert backend.rows["r1"] == before


def test_the_text_of_a_statement_does_not_grow_with_the_batch() -> None:
    one, few, _ = store_of("r1")
    many, lots, _ = store_of(*(f"r{n}" for n in range(100)))
    one.save([run("r1")], write_id="w")
    many.save([run(f"r{n}") for n in range(100)], write_id="w")
    assert [text for text, _ in few.calls] == [text for text, _ in lots.calls]


@pytest.mark.parametrize("error", [Unreachable("x"), Conflict("x")])
def test_patience_ends_and_nobody_really_waits(error: RemoteError) -> None:
    store, backend, sleeper = store_of("r1", faults=dict.fromkeys(range(1, 99), (error, False)))
    with pytest.raises(type(error)):
        store.insert([run()])
    assert len(backend.calls) == MAX_TRIES
    assert len(sleeper.slept) == MAX_TRIES - 1
    assert all(0 <= seconds <= 2 for seconds in sleeper.slept)


def test_what_is_refused_is_not_sent_again() -> None:
    store, backend, sleeper = store_of("r1", faults={1: (Rejected("x"), False)})
    with pytest.raises(Rejected):
        store.insert([run()])
    assert (len(backend.calls), sleeper.slept) == (1, [])


def test_reading_runs() -> None:
    store, _, _ = store_of("r1")
    assert store.get("r1") == run()
    assert store.newest(limit=3) == [run()]
    assert store.unfinished() == 1
    (due,) = store.due(limit=3, gap_s=1.0)
    assert (due.run, due.reported, due.problem) == (run(), False, None)
    with pytest.raises(RunNotFound, match=r"no run 'r9'.*rlm-agent status"):
        store_of()[0].get("r9")


@pytest.mark.fault("A16")
@pytest.mark.parametrize("column", ["created_at", "updated_at", "version", "lease_epoch", "iter_n"])
def test_a_row_without_a_value_is_named_and_hides_no_other(column: str) -> None:
    store, backend, _ = store_of("r1", "r2")
    backend.rows["r1"][column] = None
    damaged, whole = store.newest(limit=9)
    assert whole == run("r2")
    assert isinstance(damaged, DamagedRun)
    assert f"{column}: it is NULL" in damaged.problem
    due = {found.run.run_id: found for found in store.due(limit=9, gap_s=1.0)}
    assert due["r2"].problem is None
    assert column in str(due["r1"].problem)


@pytest.mark.fault("A16")
def test_a_row_that_does_not_parse_leaves_the_others_alone() -> None:
    store, backend, _ = store_of("r1", "r2")
    backend.rows["r1"]["capsule"] = "{"
    damaged, other = store.newest(limit=9)
    assert isinstance(damaged, DamagedRun)
    assert "The capsule does not parse" in damaged.problem.replace("capsule: The", "The")
    assert other == run("r2")
    broken, whole = store.due(limit=9, gap_s=1.0)
    assert (whole.run, whole.problem) == (run("r2"), None)
    # It cannot go on, and must not lie there for ever: it is ended with the reason.
    assert "The capsule does not parse" in str(broken.problem)
    assert broken.run.cancel_reason == broken.problem


def test_a_row_that_a_platform_let_through_twice_counts_once() -> None:
    store, backend, _ = store_of("r1")
    backend.rows["again"] = dict(backend.rows["r1"])
    assert len(store.due(limit=9, gap_s=1.0)) == len(store.newest(limit=9)) == 1
    assert len(store.claim([run()], owner="c", lease_s=1, write_id="w")) == 1


# The ledger


@dataclass(kw_only=True)
class Replies(FakeSession):
    """A backend that answers every query with the same rows, and fails at first."""

    rows: Sequence[Mapping[str, Any]] = ()
    errors: list[RemoteError] = field(default_factory=list)
    calls: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    def fetch(self, text: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Mapping[str, Any]]:
        self.calls.append((text, parameters or {}))
        return self.rows

    def execute(self, text: str, parameters: Mapping[str, Any] | None = None) -> int:
        self.calls.append((text, parameters or {}))
        if self.errors:
            raise self.errors.pop()
        return -1


def result(attempt: int, status: str, reported_by: str, iter_n: int = 1) -> dict[str, Any]:
    return {
        "run_id": "r1",
        "iter_n": iter_n,
        "attempt": attempt,
        "status": status,
        "reported_by": reported_by,
    }


def test_an_append_is_repeated_until_it_lands_since_a_repeat_adds_nothing() -> None:
    backend, sleeper = Replies(errors=[Conflict("x"), Unreachable("y")]), Sleeper()
    event = EventRow(run_id="r1", seq=1, at=NOW, kind="x", actor="c", epoch=1, payload="{}")
    DeltaLedger(repeating(backend, sleeper), NAMESPACE).append([event])
    assert len(backend.calls) == 3
    assert len({(text, json.dumps(values)) for text, values in backend.calls}) == 1
    assert len(sleeper.slept) == 2


def test_nothing_to_append_is_no_statement() -> None:
    backend = Replies()
    DeltaLedger(repeating(backend), NAMESPACE).append([])
    assert backend.calls == []


def test_of_two_results_the_executors_counts_whatever_their_order() -> None:
    rows = [
        result(1, "SUCCESS", "executor", iter_n=2),
        result(1, "LOST", "controller"),
        result(1, "FAILED", "executor"),
        result(2, "SUCCESS", "executor"),
        result(2, "TIMEOUT", "executor"),
    ]
    for order in (rows, rows[::-1]):
        found = DeltaLedger(repeating(Replies(rows=order)), NAMESPACE).results("r1")
        assert [(row["iter_n"], row["attempt"], row["status"]) for row in found] == [
            (1, 1, "FAILED"),
            (1, 2, "SUCCESS"),
            (2, 1, "SUCCESS"),
        ]


def test_events_and_requests_count_once_per_key() -> None:
    row = result(1, "x", "x") | {"seq": 1}
    ledger = DeltaLedger(repeating(Replies(rows=[row, dict(row)])), NAMESPACE)
    assert ledger.events("r1") == ledger.requests("r1") == [row]


def test_migrations_are_numbered_applied_once_and_safe_to_repeat() -> None:
    fresh, seen = Replies(), Replies(rows=[{"number": item.number} for item in MIGRATIONS])
    assert migrate(fresh, NAMESPACE) == list(MIGRATIONS)
    assert migrate(seen, NAMESPACE) == []
    assert [item.number for item in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))
    statements = [text for text, _ in fresh.calls]
    assert all(
        text.startswith(("CREATE TABLE IF NOT EXISTS", "SELECT", "INSERT", "DESCRIBE", "ALTER"))
        for text in statements
    )
    assert statements[-1].startswith("INSERT INTO main.rlm.schema_migrations")
    assert fresh.calls[-1][1] == {"number": MIGRATIONS[-1].number, "summary": MIGRATIONS[-1].summary}


def test_a_key_that_comes_twice_in_a_batch_is_sent_once() -> None:
    backend = Replies()
    row = EventRow(run_id="r1", seq=1, at=NOW, kind="x", actor="c", epoch=1, payload="{}")
    DeltaLedger(repeating(backend), NAMESPACE).append([row, replace(row, kind="y")])
    assert [item["kind"] for item in json.loads(backend.calls[0][1]["rows"])] == ["x"]


@pytest.mark.parametrize(("column", "value"), [("capsule", "{"), ("budget", "[]"), ("outcome", "{")])
def test_of_a_damaged_child_what_can_be_read(column: str, value: str) -> None:
    store, backend, _ = store_of("a", "b")
    backend.rows["a"][column] = value
    first, second = store.children("p")
    assert (first.run_id, first.fsm_state, second) == ("a", run("a").fsm_state, run("b"))


def test_a_child_of_which_nobody_knows_whether_it_has_ended() -> None:
    store, backend, _ = store_of("a", "b")
    backend.rows["b"]["fsm_state"] = "FROZEN"
    with pytest.raises(InvalidData, match="FROZEN") as refused:
        store.children("p")
    assert refused.value.where == "run b"


def test_a_family_in_which_somebody_made_a_circle_has_an_end() -> None:
    store, _, _ = store_of("a", "b")  # whoever is asked for: the same two
    assert store.family("a") == ["a", "b"]

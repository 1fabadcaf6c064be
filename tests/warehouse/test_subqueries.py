"""DELETE and UPDATE with subqueries do what another database does, also with NULLs and duplicates."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from local_workspace.engine import Engine, EngineError, EngineSession
from local_workspace.engine.rewrite import rewritten_query

TABLES = (
    "CREATE TABLE t (id INT, v INT)",
    "INSERT INTO t VALUES (1,1),(1,1),(1,2),(2,NULL),(3,3),(NULL,1),(NULL,NULL),(4,0)",
    "CREATE TABLE s (id INT, w INT)",
    "INSERT INTO s VALUES (1,1),(3,NULL),(3,2),(NULL,1)",
    "CREATE TABLE none (id INT, w INT)",
)
CONDITIONS = st.recursive(
    st.sampled_from(
        (
            "id IN (SELECT id FROM s)",
            "id NOT IN (SELECT id FROM s)",
            "v IN (SELECT w FROM s WHERE w IS NOT NULL)",
            "d.id NOT IN (SELECT id FROM none)",
            "EXISTS (SELECT 1 FROM s WHERE s.id = d.id)",
            "EXISTS (SELECT 1 FROM none)",
            "NOT EXISTS (SELECT 1 FROM s WHERE s.id = d.id AND s.w >= d.v)",
            "v < (SELECT max(w) FROM s)",
            "v = (SELECT max(w) FROM s WHERE s.id = d.id)",
            "id = (SELECT max(id) FROM t)",
            "v IS NULL",
            "id > 1",
        )
    ),
    lambda inner: st.one_of(
        inner.map(lambda one: f"NOT ({one})"),
        st.tuples(inner, st.sampled_from(("AND", "OR")), inner).map(lambda each: f"({' '.join(each)})"),
    ),
    max_leaves=3,
)


@pytest.fixture(scope="module")
def pair(engine: Engine) -> Iterator[tuple[EngineSession, sqlite3.Connection]]:
    """The same tables in the engine and in SQLite."""
    engine.catalog.create_schema("main", "subqueries")
    session, other = engine.session(catalog="main", schema="subqueries"), sqlite3.connect(":memory:")
    for statement in TABLES:
        session.execute(statement)
        other.execute(statement)
    yield session, other
    session.close()
    other.close()


def no_columns(query: str) -> list[str]:
    raise AssertionError(query)


def rows(found: Any) -> list[tuple[Any, ...]]:
    return sorted(found, key=repr)


def here(session: EngineSession, table: str) -> list[tuple[Any, ...]]:
    found = session.execute(f"SELECT * FROM {table}").table
    return rows(zip(*(column.to_pylist() for column in found.columns), strict=True))


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    CONDITIONS,
    st.sampled_from(("DELETE FROM d", "UPDATE d SET v = (SELECT count(*) FROM s WHERE s.id = d.id)")),
)
def test_dml_agrees_with_sqlite(
    pair: tuple[EngineSession, sqlite3.Connection], condition: str, head: str
) -> None:
    session, other = pair
    session.execute("CREATE OR REPLACE TABLE d AS SELECT * FROM t")
    other.execute("DROP TABLE IF EXISTS d")
    other.execute("CREATE TABLE d AS SELECT * FROM t")
    changed = session.execute(f"{head} WHERE {condition}").affected_rows
    assert changed == other.execute(f"{head} WHERE {condition}").rowcount
    assert here(session, "d") == rows(other.execute("SELECT * FROM d").fetchall())


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(CONDITIONS)
def test_nulls_in_queries_agree_with_sqlite(
    pair: tuple[EngineSession, sqlite3.Connection], condition: str
) -> None:
    session, other = pair
    for text in (
        f"SELECT id, v FROM t d WHERE {condition}",
        f"SELECT id, v, CASE WHEN {condition} THEN 1 WHEN NOT ({condition}) THEN 0 END AS c FROM t d",
    ):
        found = session.execute(text).table
        mine = rows(zip(*(column.to_pylist() for column in found.columns), strict=True))
        assert mine == rows(other.execute(text).fetchall())


def test_dml_as_a_merge_is_one_commit_of_its_own_kind(session: EngineSession) -> None:
    session.execute("CREATE TABLE t (id INT, n BIGINT, v STRING)")
    session.execute("INSERT INTO t VALUES (1, 1, 'a'), (1, 1, 'a'), (2, 2, 'b'), (NULL, 3, NULL)")
    changed = session.execute(
        "UPDATE t AS x SET x.n = n + 1, v = (SELECT max(y.v) FROM t y) -- a\n WHERE x.id IN (SELECT 1) -- b"
    )
    assert changed.table.to_pydict() == {"num_affected_rows": [2]}
    assert changed.affected_rows == 2
    assert here(session, "t") == rows([(1, 2, "b"), (1, 2, "b"), (2, 2, "b"), (None, 3, None)])
    assert session.execute("DELETE FROM t WHERE (SELECT count(*) FROM t) > 9").affected_rows == 0
    assert session.execute("DELETE FROM t WHERE (SELECT count(*) FROM t) > 3").affected_rows == 4
    history = session.execute("DESCRIBE HISTORY t").table.to_pylist()
    assert [entry["operation"] for entry in history] == ["DELETE", "UPDATE", "WRITE", "CREATE TABLE"]
    assert dict(history[0]["operationMetrics"])["numDeletedRows"] == "4"
    assert dict(history[1]["operationMetrics"])["numUpdatedRows"] == "2"


def test_unsupported_subqueries_change_nothing(session: EngineSession) -> None:
    session.execute("CREATE TABLE t (id INT, m MAP<STRING, INT>)")
    session.execute("INSERT INTO t VALUES (1, map('a', 1))")
    for text, reason in (
        ("UPDATE t SET (id, m) = (SELECT 1, NULL)", "SET in this form"),
        ("DELETE FROM t WHERE m['a'] IN (SELECT 1)", "MAP column m"),
        ("DELETE FROM t WHERE id IN (SELECT nope)", "nope"),
        ("DELETE FROM t WHERE id = (SELECT id FROM (VALUES (1), (2)) AS q (id))", "more than one row"),
    ):
        with pytest.raises(EngineError, match=reason):
            session.execute(text)
    assert session.execute("SELECT id FROM t").table.to_pydict() == {"id": [1]}
    assert session.execute("DELETE FROM t WHERE id IN (SELECT 1)").affected_rows == 1


def test_one_of_several_claims_by_a_subquery_wins(engine: Engine, schema: str) -> None:
    """Two sessions that saw the same state do not both change it."""
    sessions = [engine.session(catalog="main", schema=schema.split(".")[1]) for _ in range(3)]
    sessions[0].execute("CREATE TABLE t (id INT, v INT)")
    sessions[0].execute("INSERT INTO t VALUES (1, 0)")
    won: list[int] = []

    def claim(session: EngineSession, mine: int) -> None:
        try:
            text = f"UPDATE t SET v = {mine} WHERE v = 0 AND id = (SELECT max(id) FROM t)"
            won.extend([mine] * (session.execute(text).affected_rows or 0))
        except EngineError:
            pass  # a conflict

    threads = [threading.Thread(target=claim, args=(each, n + 1)) for n, each in enumerate(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert here(sessions[0], "t") == [(1, won[0])]
    assert len(won) == 1
    for each in sessions:
        each.close()


@pytest.mark.parametrize(
    "text",
    [
        "SELECT id FROM t WHERE id IN (SELECT id FROM s) AND (v = 1 OR id IN (SELECT 1))",
        "SELECT id FROM t WHERE id NOT IN (SELECT id FROM s) AND (id, v) IN (SELECT id, w FROM s)",
        "SELECT * FROM t WHERE NOT EXISTS (SELECT 1 FROM s WHERE s.id = t.id)",
        "SELECT id FROM t WHERE id NOT IN (SELECT main.x.s.id FROM main.x.s) AND nonsense (",
    ],
)
def test_queries_that_sail_answers_rightly_are_unchanged(text: str) -> None:
    assert rewritten_query(text, no_columns) == text


@pytest.mark.parametrize(
    "condition",
    [
        "st.a NOT IN (SELECT w FROM s WHERE s.id = t.id)",  # a field, or a column of s?
        "x NOT IN (SELECT max(w) FROM s WHERE s.id = t.id)",
        "(x, y) NOT IN (SELECT v, w FROM s WHERE s.id = t.id)",
    ],
)
def test_correlated_membership_under_not_is_refused(condition: str) -> None:
    with pytest.raises(EngineError, match=r"not supported.*--engine spark"):
        rewritten_query(f"SELECT 1 FROM t WHERE {condition} OR z = 1", no_columns)

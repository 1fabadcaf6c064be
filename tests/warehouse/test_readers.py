"""Any Delta reader opens the tables under the root, whatever properties their makers ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from local_workspace.engine import Engine, EngineSession
from local_workspace.engine.statements import Statement
from local_workspace.engine.tables import pairs_of, readable_by_all

PROPERTY = "TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')"
TWO_ROWS = "SELECT 1L AS id, 5 AS v UNION ALL SELECT 2L, 6"


def read(engine: Engine, schema: str, table: str = "t") -> list[dict[str, Any]]:
    from deltalake import DeltaTable

    delta = DeltaTable(str(engine.catalog.root / "tables" / Path(*schema.split(".")) / table))
    assert "deletionVectors" not in (delta.protocol().reader_features or [])
    found: list[dict[str, Any]] = delta.to_pyarrow_table().to_pylist()
    return sorted(found, key=lambda row: row["id"])


def test_after_every_kind_of_change(session: EngineSession, engine: Engine, schema: str) -> None:
    session.execute(f"CREATE TABLE t (id BIGINT, v INT) USING DELTA CLUSTER BY (id) {PROPERTY}")
    assert read(engine, schema) == []
    session.execute("INSERT INTO t VALUES (1, 1), (2, 2), (3, 3), (4, 4)")
    session.execute("UPDATE t SET v = v * 10 WHERE id = 2")
    session.execute("DELETE FROM t WHERE id = 3")
    session.execute(
        "MERGE INTO t USING (SELECT 1L AS id UNION ALL SELECT 4L UNION ALL SELECT 9L) s ON t.id = s.id "
        "WHEN MATCHED AND s.id = 4 THEN DELETE WHEN MATCHED THEN UPDATE SET v = 100 "
        "WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, 0)"
    )
    assert read(engine, schema) == [{"id": 1, "v": 100}, {"id": 2, "v": 20}, {"id": 9, "v": 0}]


@pytest.mark.parametrize(
    "create",
    [
        f"CREATE TABLE t {PROPERTY} AS {TWO_ROWS}",
        f"CREATE OR REPLACE TABLE t {PROPERTY} AS {TWO_ROWS}",
        "CREATE TABLE t TBLPROPERTIES (delta.enableDeletionVectors = true, 'team' = 'a)b') AS " + TWO_ROWS,
        "CREATE TABLE t TBLPROPERTIES ('delta.feature.deletionVectors' 'supported') AS " + TWO_ROWS,
    ],
)
def test_ways_to_set_the_property(session: EngineSession, engine: Engine, schema: str, create: str) -> None:
    session.execute(create)
    session.execute(f"ALTER TABLE t SET {PROPERTY}")
    session.execute("ALTER TABLE t SET TBLPROPERTIES ('delta.enableDeletionVectors' = true, 'owner'='it''s')")
    session.execute("DELETE FROM t WHERE id = 2")
    assert read(engine, schema) == [{"id": 1, "v": 5}]
    shown = {row["key"] for row in session.execute("SHOW TBLPROPERTIES t").table.to_pylist()}
    assert "owner" in shown
    assert "delta.enableDeletionVectors" not in shown


def test_replaced_by_an_empty_table(session: EngineSession, engine: Engine, schema: str) -> None:
    session.execute("CREATE TABLE t AS SELECT 'x' AS id")
    session.execute(f"CREATE OR REPLACE TABLE t (id BIGINT) {PROPERTY}")
    session.execute("INSERT INTO t VALUES (7), (8)")
    session.execute("DELETE FROM t WHERE id = 7")
    assert read(engine, schema) == [{"id": 8}]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("CREATE TABLE t (a INT)", "CREATE TABLE t (a INT)"),
        (f"CREATE TABLE t {PROPERTY} -- end", "CREATE TABLE t   -- end"),
        (
            "CREATE TABLE t TBLPROPERTIES ('a' = 'b', 'delta.enableDeletionVectors' = 'true', c.d = 1) AS x",
            "CREATE TABLE t TBLPROPERTIES ('a' = 'b', c.d = 1)  AS x",
        ),
        ("SELECT 'TBLPROPERTIES (' AS x", "SELECT 'TBLPROPERTIES (' AS x"),
        ("CREATE TABLE t TBLPROPERTIES (", "CREATE TABLE t TBLPROPERTIES ("),
        ("CREATE TABLE t TBLPROPERTIES", "CREATE TABLE t TBLPROPERTIES"),
    ],
)
def test_the_property_is_left_out_of_the_text(sql: str, expected: str) -> None:
    assert readable_by_all(Statement.parse(sql)).text.split() == expected.split()


def test_pairs_of_properties() -> None:
    statement = Statement.parse("x ('a.b' = 'it\\'s', c.d=1.5, 'e' true, `f` = -1, 'g' 'h')")
    assert pairs_of(statement, 1) == {"a.b": "it's", "c.d": "1.5", "e": "true", "f": "-1", "g": "h"}


def test_doubled_quotes_are_quotes_within_a_text() -> None:
    text = """SELECT 'It''s', '''', "a""b", 'c' 'd', r'x' FROM t"""
    assert Statement.parse(text).text == r"""SELECT 'It\'s', '\'', "a\"b", 'c' 'd', r'x' FROM t"""

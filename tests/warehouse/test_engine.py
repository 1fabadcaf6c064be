"""The engine by itself: catalog, DDL, concurrency, what survives a restart."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from local_workspace.engine import Engine, EngineError, EngineOptions, EngineSession, create_engine


def rows(session: EngineSession, sql: str, parameters: Any = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = session.execute(sql, parameters).table.to_pylist()
    return found


def test_importing_the_engine_imports_nothing_heavy() -> None:
    code = (
        "import sys, local_workspace.engine; "
        "print([m for m in ('deltalake', 'grpc', 'pyarrow', 'pyspark', 'sqlglot') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_state_survives_a_restart(tmp_path: Path) -> None:
    from deltalake import DeltaTable

    options = EngineOptions(root=tmp_path, catalogs=("main",))
    first = create_engine(options)
    first.start()
    session = first.session()
    session.execute("CREATE SCHEMA main.s")
    session.execute("CREATE TABLE main.s.t AS SELECT 7 AS id")
    session.execute("CREATE VIEW main.s.v AS SELECT id + 1 AS next FROM main.s.t")
    first.stop()
    assert DeltaTable(str(tmp_path / "tables/main/s/t")).version() == 0
    second = create_engine(options)
    second.start()
    assert rows(second.session(), "SELECT next FROM main.s.v") == [{"next": 8}]
    assert second.catalog.tables("main", "s") == ["t", "v"]
    second.stop()


@pytest.mark.parametrize("properties", ["", "TBLPROPERTIES ('delta.enableDeletionVectors'='true')"])
@pytest.mark.parametrize(
    "claim",
    [
        "UPDATE t SET version = version + 1, who = :me WHERE id = 1 AND version = :seen",
        (
            "MERGE INTO t USING (SELECT 1 AS id, :seen AS seen) s ON t.id = s.id AND version = seen "
            "WHEN MATCHED THEN UPDATE SET version = t.version + 1, who = :me"
        ),
    ],
)
def test_one_winner_per_version(engine: Engine, schema: str, properties: str, claim: str) -> None:
    catalog, name = schema.split(".")
    setup = engine.session(catalog=catalog, schema=name)
    setup.execute(f"CREATE TABLE t (id INT, version INT, who STRING) {properties}")
    setup.execute("INSERT INTO t VALUES (1, 0, ''), (2, 0, ''), (3, 0, '')")
    wins: list[int] = []
    unexpected: list[str] = []

    def race(me: str) -> None:
        session = engine.session(catalog=catalog, schema=name)
        for _ in range(5):
            seen = rows(session, "SELECT version FROM t WHERE id = 1")[0]["version"]
            try:
                affected = session.execute(claim, {"me": me, "seen": seen}).affected_rows
            except EngineError as error:
                if "DELTA_CONCURRENT_" not in error.message:
                    unexpected.append(error.message)
            else:
                wins.extend([seen] * (affected or 0))
        session.close()

    threads = [threading.Thread(target=race, args=(f"w{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    final = rows(setup, "SELECT version FROM t WHERE id = 1")[0]["version"]
    assert unexpected == []
    assert sorted(wins) == list(range(final))
    assert final >= 5
    setup.close()


@pytest.mark.parametrize("properties", ["", "TBLPROPERTIES ('delta.enableDeletionVectors'='true')"])
def test_one_row_per_key_by_insert_only_merge(engine: Engine, schema: str, properties: str) -> None:
    catalog, name = schema.split(".")
    setup = engine.session(catalog=catalog, schema=name)
    setup.execute(f"CREATE TABLE t (k INT, who STRING) {properties}")
    barrier = threading.Barrier(6)
    unexpected: list[str] = []
    inserted: list[int] = []

    def race(me: str) -> None:
        session = engine.session(catalog=catalog, schema=name)
        for key in range(5):
            barrier.wait()
            try:
                result = session.execute(
                    "MERGE INTO t USING (SELECT :k AS k, :me AS who) s ON t.k = s.k "
                    "WHEN NOT MATCHED THEN INSERT (k, who) VALUES (s.k, s.who)",
                    {"k": key, "me": me},
                )
            except EngineError as error:
                if "DELTA_CONCURRENT_" not in error.message:
                    unexpected.append(error.message)
            else:
                inserted.extend([key] * (result.affected_rows or 0))
        session.close()

    threads = [threading.Thread(target=race, args=(f"w{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert unexpected == []
    assert sorted(inserted) == list(range(5))
    assert sorted(row["k"] for row in rows(setup, "SELECT k FROM t")) == list(range(5))
    setup.close()


def test_merge_of_values(session: EngineSession) -> None:
    session.execute("CREATE TABLE t (id STRING, v INT)")
    merge = (
        "MERGE INTO t USING (VALUES (:a, 5), (:b, 6)) AS s(id, v) ON t.id = s.id "
        "WHEN MATCHED THEN UPDATE SET v = s.v + 1 WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, s.v)"
    )
    assert session.execute(merge, {"a": "x", "b": "y"}).affected_rows == 2
    assert session.execute(merge, {"a": "x", "b": "z"}).table.to_pylist()[0]["num_updated_rows"] == 1
    assert {row["id"]: row["v"] for row in rows(session, "SELECT * FROM t")} == {"x": 6, "y": 6, "z": 6}


def test_two_sessions_creating_one_table(engine: Engine, schema: str) -> None:
    outcomes: list[str] = []

    def create() -> None:
        session = engine.session(catalog="main", schema=schema.split(".")[1])
        try:
            session.execute("CREATE TABLE t AS SELECT 1 AS a")
            outcomes.append("made")
        except EngineError as error:
            outcomes.append(error.condition)
        session.close()

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["TABLE_OR_VIEW_ALREADY_EXISTS"] * 5 + ["made"]


def test_create_table_forms(session: EngineSession, engine: Engine, schema: str) -> None:
    session.execute(
        "CREATE TABLE t (id BIGINT NOT NULL COMMENT 'the key', v INT) CLUSTER BY (id) COMMENT 'hello' "
        "TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')"
    )
    info = engine.catalog.table("main", schema.split(".")[1], "T")
    assert info is not None
    assert [(c.name, c.type, c.nullable, c.comment) for c in info.columns] == [
        ("id", "bigint", False, "the key"),
        ("v", "int", True, None),
    ]
    assert info.comment == "hello"
    session.execute("CREATE TABLE IF NOT EXISTS t (other INT)")
    with pytest.raises(EngineError, match="TABLE_OR_VIEW_ALREADY_EXISTS"):
        session.execute("CREATE TABLE t (other INT)")
    session.execute("CREATE OR REPLACE TABLE t AS WITH q AS (SELECT 1 AS z) SELECT z, 'x' AS y FROM q")
    assert rows(session, "SELECT * FROM t") == [{"z": 1, "y": "x"}]
    session.execute("CREATE OR REPLACE TABLE t (n DECIMAL(10, 2), a ARRAY<STRUCT<k: INT>>)")
    assert rows(session, "SELECT * FROM t") == []
    assert [row["version"] for row in rows(session, "DESCRIBE HISTORY t")] == [2, 1, 0]
    assert [row["version"] for row in rows(session, "DESCRIBE HISTORY t LIMIT 1")] == [2]
    session.execute("CREATE TABLE p PARTITIONED BY (k) AS SELECT 1 AS v, 'a' AS k")
    assert rows(session, "SELECT v FROM p WHERE k = 'a'") == [{"v": 1}]
    assert {row["tableName"] for row in rows(session, "SHOW TABLES")} == {"t", "p"}


def test_failed_create_leaves_nothing(session: EngineSession) -> None:
    with pytest.raises(EngineError, match="CAST_INVALID_INPUT"):
        session.execute("CREATE TABLE t AS SELECT cast('x' AS INT) AS a")
    assert rows(session, "SHOW TABLES") == []
    session.execute("CREATE TABLE t AS SELECT 1 AS a")
    assert rows(session, "SELECT a FROM t") == [{"a": 1}]


def test_insert_leaves_nested_columns_empty(session: EngineSession) -> None:
    session.execute(
        "CREATE TABLE t (a INT, m MAP<STRING, INT>, s STRUCT<k: INT, d: DECIMAL(10, 2)>, ts TIMESTAMP)"
    )
    session.execute("INSERT INTO t (a) VALUES (1)")
    assert rows(session, "SELECT * FROM t") == [{"a": 1, "m": None, "s": None, "ts": None}]


def test_columns_with_odd_names(session: EngineSession) -> None:
    session.execute("CREATE TABLE t AS SELECT 1 AS a")
    found = rows(session, "SELECT t.a AS `../x (€) ' y`, `t`.`a` FROM t")
    assert found == [{"../x (€) ' y": 1, "a": 1}]


def test_insert_fills_missing_columns(session: EngineSession) -> None:
    session.execute("CREATE TABLE t (a INT, b STRING, c DOUBLE)")
    session.execute("INSERT INTO t (b) VALUES (:b)", {"b": "x"})
    session.execute("INSERT INTO t (c, a) SELECT 1.5, 2")
    assert rows(session, "SELECT * FROM t ORDER BY a") == [
        {"a": None, "b": "x", "c": None},
        {"a": 2, "b": None, "c": 1.5},
    ]


def test_views(session: EngineSession, engine: Engine, schema: str) -> None:
    session.execute("CREATE TABLE t AS SELECT 1 AS id, 'a' AS name")
    session.execute("CREATE VIEW v (k, label) AS WITH q AS (SELECT id, name FROM t) SELECT id, name FROM q")
    session.execute("CREATE VIEW w AS SELECT t.k FROM v AS t, t AS u WHERE t.k = u.id")
    other = engine.session()
    assert rows(other, f"SELECT * FROM {schema}.v") == [{"k": 1, "label": "a"}]
    assert rows(other, f"SELECT * FROM {schema}.w") == [{"k": 1}]
    session.execute("CREATE OR REPLACE VIEW v AS SELECT 5 AS k")
    assert rows(other, f"SELECT * FROM {schema}.v") == [{"k": 5}]
    with pytest.raises(EngineError, match="UNRESOLVED_COLUMN"):
        session.execute("CREATE VIEW bad AS SELECT nope FROM t")
    session.execute("DROP VIEW w")
    with pytest.raises(EngineError, match="TABLE_OR_VIEW_NOT_FOUND"):
        other.execute(f"SELECT * FROM {schema}.w")
    other.close()


def test_maintenance(session: EngineSession) -> None:
    session.execute("CREATE TABLE t (id INT) TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')")
    for value in range(4):
        session.execute("INSERT INTO t VALUES (:v), (:w)", {"v": value, "w": value + 10})
    session.execute("DELETE FROM t WHERE id = 2")
    session.execute("OPTIMIZE t")
    assert rows(session, "SELECT count(*) AS n FROM t") == [{"n": 7}]
    detail = rows(session, "DESCRIBE DETAIL t")[0]
    assert detail["numFiles"] == 1
    session.execute("ALTER TABLE t ADD COLUMNS (note STRING COMMENT 'why')")
    session.execute("UPDATE t SET note = 'x' WHERE id = 1")
    session.execute("ALTER TABLE t RENAME TO t2")
    assert rows(session, "SELECT note FROM t2 WHERE id = 1") == [{"note": "x"}]
    with pytest.raises(EngineError, match="TABLE_OR_VIEW_NOT_FOUND"):
        session.execute("SELECT * FROM t")
    session.execute("ALTER TABLE t2 SET TBLPROPERTIES ('owner' = 'me')")
    assert {"key": "owner", "value": "me"} in rows(session, "SHOW TBLPROPERTIES t2")
    session.execute("TRUNCATE TABLE t2")
    assert rows(session, "SELECT * FROM t2") == []
    with pytest.raises(EngineError, match="not supported by the local workspace"):
        session.execute("ALTER TABLE t2 DROP COLUMN note")


def test_schemas(session: EngineSession, engine: Engine, schema: str) -> None:
    fresh = f"{schema.split('.')[1]}_x"
    session.execute(f"CREATE SCHEMA lake.{fresh}")
    session.execute(f"CREATE TABLE lake.{fresh}.t (a INT)")
    assert engine.catalog.tables("lake", fresh) == ["t"]
    with pytest.raises(EngineError, match="SCHEMA_NOT_EMPTY"):
        session.execute(f"DROP SCHEMA lake.{fresh}")
    session.execute(f"DROP SCHEMA lake.{fresh} CASCADE")
    assert not engine.catalog.has_schema("lake", fresh)
    session.execute("USE CATALOG lake")
    session.execute("CREATE TABLE IF NOT EXISTS in_default AS SELECT 1 AS a")
    assert "in_default" in engine.catalog.tables("lake", "default")
    with pytest.raises(EngineError, match="SCHEMA_NOT_FOUND"):
        session.execute("USE lake.no_such")


@pytest.mark.parametrize("name", ["../x", "a b", "a/b", "", "x" * 300])
def test_names_that_would_leave_the_tree(session: EngineSession, root: Path, name: str) -> None:
    with pytest.raises(EngineError):
        session.execute(f"CREATE TABLE `{name}` (a INT)")
    assert not (root / "x").exists()


def test_update_under_comments_and_strings(session: EngineSession) -> None:
    session.execute("CREATE TABLE t AS SELECT 1 AS id, 'WHERE ; -- not' AS s")
    result = session.execute("UPDATE t /* WHERE */ SET s = 'a WHERE b' WHERE id = 1 OR id = 2 -- last")
    assert result.affected_rows == 1
    assert rows(session, "SELECT s FROM t;") == [{"s": "a WHERE b"}]


def test_spark_engine_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="Java"):
        create_engine(EngineOptions(root=tmp_path, kind="spark"))


@pytest.mark.parametrize(
    "make", [lambda s: s.execute("SELECT 1; SELECT 2"), lambda s: s.execute("SELECT 1 +")]
)
def test_syntax_errors(session: EngineSession, make: Callable[[EngineSession], Any]) -> None:
    with pytest.raises(EngineError) as caught:
        make(session)
    assert caught.value.condition == "PARSE_SYNTAX_ERROR"
    assert caught.value.sqlstate == "42601"


def test_no_change_data_feed_on_this_engine(session: EngineSession) -> None:
    session.execute(
        "CREATE TABLE t (id INT) TBLPROPERTIES ('delta.enableChangeDataFeed' = 'true', 'team' = 'me')"
    )
    session.execute("INSERT INTO t VALUES (1)")
    session.execute("ALTER TABLE t SET TBLPROPERTIES ('delta.enableChangeDataFeed' = 'true')")
    assert session.execute("UPDATE t SET id = 2").affected_rows == 1
    assert rows(session, "SHOW TBLPROPERTIES t") == [{"key": "team", "value": "me"}]
    assert rows(session, "DESCRIBE HISTORY t LIMIT 1")[0]["version"] == 2
    with pytest.raises(EngineError, match=r"table_changes.*--engine spark") as caught:
        session.execute("SELECT * FROM table_changes('t', 0)")
    assert (caught.value.condition, caught.value.sqlstate) == ("UNRESOLVED_ROUTINE", "42883")

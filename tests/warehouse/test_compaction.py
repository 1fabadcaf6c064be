"""`delta.autoOptimize.autoCompact`: small files are put together after a write, and nobody notices."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from local_workspace.engine import Engine, EngineError, EngineSession, sailsql

WRITES = 30  # of each writer; 100 pass as well, in three times the time
COMPACTED = "TBLPROPERTIES ('delta.autoOptimize.autoCompact' = 'true')"
MERGE = (
    "MERGE INTO {t} AS t USING (SELECT :id AS id, :who AS who) AS s ON t.id = s.id "
    "WHEN NOT MATCHED THEN INSERT (id, who) VALUES (s.id, s.who)"
)


def delta_of(root: Path, schema: str, table: str, version: int | None = None) -> Any:
    from deltalake import DeltaTable

    return DeltaTable(str(root / "tables" / Path(*schema.split(".")) / table), version=version)


def optimizes(session: EngineSession, table: str) -> int:
    history = session.execute(f"DESCRIBE HISTORY {table}").table.to_pylist()
    return sum(each["operation"] == "OPTIMIZE" for each in history)


def small_files(root: Path, schema: str, table: str, count: int) -> None:
    """Give a table `count` more rows with ids from 1000 on, each in a file of its own, quickly."""
    import pyarrow as pa
    from deltalake import write_deltalake

    delta = delta_of(root, schema, table)
    for at in range(count):
        row = pa.table({"id": pa.array([1000 + at], pa.int32()), "who": ["filler"]})
        write_deltalake(delta, row, mode="append")


def test_small_files_are_put_together(session: EngineSession, root: Path, schema: str) -> None:
    session.execute(f"CREATE TABLE t (id INT, who STRING) {COMPACTED}")
    small_files(root, schema, "t", 47)
    for id_ in range(3):
        assert session.execute(MERGE.format(t="t"), {"id": id_, "who": "m"}).affected_rows == 1
        assert optimizes(session, "t") == (id_ == 2)
    assert len(delta_of(root, schema, "t").file_uris()) == 1
    found = session.execute("SELECT id FROM t").table.column("id").to_pylist()
    assert sorted(found) == [0, 1, 2, *range(1000, 1047)]
    # Nothing is vacuumed: an older snapshot can still be read.
    assert delta_of(root, schema, "t", version=20).to_pyarrow_table().num_rows == 20


@pytest.mark.parametrize(
    "write",
    [
        "INSERT INTO t VALUES (1, 'x')",
        "UPDATE t SET who = 'x' WHERE id = 1001",
        "DELETE FROM t WHERE id = 1001",
    ],
)
def test_every_kind_of_write(session: EngineSession, root: Path, schema: str, write: str) -> None:
    session.execute("CREATE TABLE t (id INT, who STRING)")
    small_files(root, schema, "t", 52)
    assert session.execute(write).affected_rows == 1
    assert optimizes(session, "t") == 0
    session.execute("ALTER TABLE t SET TBLPROPERTIES ('delta.autoOptimize.autoCompact' = 'auto')")
    assert session.execute(write.replace("1001", "1002")).affected_rows == 1
    assert optimizes(session, "t") == 1


@pytest.mark.parametrize("value", ["false", "disabled"])
def test_not_where_it_is_switched_off(session: EngineSession, root: Path, schema: str, value: str) -> None:
    session.execute(
        f"CREATE TABLE t (id INT, who STRING) TBLPROPERTIES ('delta.autoOptimize.autoCompact' = '{value}')"
    )
    small_files(root, schema, "t", 60)
    session.execute("INSERT INTO t VALUES (1, 'x')")
    assert optimizes(session, "t") == 0


def test_files_that_stay_apart_do_not_count_again(session: EngineSession) -> None:
    session.execute(f"CREATE TABLE t (id INT, part INT) PARTITIONED BY (part) {COMPACTED}")
    session.execute("INSERT INTO t SELECT id, id AS part FROM range(60)")
    for _ in range(3):
        session.execute("INSERT INTO t VALUES (0, 100)")
    assert optimizes(session, "t") == 0  # one file a partition: nothing to put together
    for _ in range(47):
        session.execute("INSERT INTO t VALUES (0, 100)")
    assert optimizes(session, "t") == 1
    assert session.execute("DESCRIBE DETAIL t").table.to_pylist()[0]["numFiles"] == 61


def test_lost_compaction_is_dropped(
    session: EngineSession, root: Path, schema: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    session.execute(f"CREATE TABLE t (id INT, who STRING) {COMPACTED}")
    small_files(root, schema, "t", 49)
    real, stale = sailsql.DeltaTable, delta_of(root, schema, "t")
    # Between the snapshot that it compacts and its commit, somebody changes a file.
    monkeypatch.setattr(sailsql, "DeltaTable", lambda path: stale)
    session.execute("UPDATE t SET who = 'new' WHERE id = 1007")
    caplog.set_level(logging.DEBUG, sailsql.__name__)
    assert session.execute(MERGE.format(t="t"), {"id": 1, "who": "m"}).affected_rows == 1
    assert "dropped" in caplog.text
    monkeypatch.setattr(sailsql, "DeltaTable", real)
    assert optimizes(session, "t") == 0
    for id_ in range(2, 12):  # not at every statement: ten files later
        assert session.execute(MERGE.format(t="t"), {"id": id_, "who": "m"}).affected_rows == 1
        assert optimizes(session, "t") == (id_ == 11)
    assert session.execute("SELECT count(*) AS n FROM t").table.to_pylist() == [{"n": 60}]
    assert session.execute("SELECT id FROM t WHERE who = 'new'").table.to_pylist() == [{"id": 1007}]


def test_writes_of_jobs(engine: Engine, session: EngineSession, root: Path, schema: str) -> None:
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.remote(engine.connect_url).create()
    try:
        session.execute(f"CREATE TABLE by_sql (id INT, who STRING) {COMPACTED}")
        session.execute(f"CREATE TABLE by_frame (id INT, who STRING) {COMPACTED}")
        for table in ("by_sql", "by_frame"):
            small_files(root, schema, table, 49)
        spark.sql(f"INSERT INTO {schema}.by_sql VALUES (1, 'x')").collect()
        spark.createDataFrame([(1, "x")], "id INT, who STRING").write.mode("append").saveAsTable(
            f"{schema}.by_frame"
        )
    finally:
        spark.stop()
    assert optimizes(session, "by_sql") == 1
    deadline = time.monotonic() + 120  # the job has its answer before a DataFrame's table is compacted
    while optimizes(session, "by_frame") == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert delta_of(root, schema, "by_frame").to_pyarrow_table().num_rows == 50
    assert len(delta_of(root, schema, "by_frame").file_uris()) == 1


def test_writers_by_the_connector_while_one_compacts(
    connect: Callable[..., Any], session: EngineSession, root: Path, schema: str
) -> None:
    """As controllers do it: insert-only MERGE, read and tried again after a conflict."""
    session.execute(f"CREATE TABLE t (id STRING, who STRING) {COMPACTED}")
    unexpected: list[BaseException] = []
    merged: list[str] = []
    connections = [connect(catalog="main", schema=schema.split(".")[1]) for _ in range(4)]

    def write(me: int) -> None:
        try:
            with connections[me].cursor() as cursor:
                for number in range(WRITES):
                    id_ = f"{me}-{number}"
                    _until_it_holds(cursor, MERGE.format(t="t"), {"id": id_, "who": str(me)})
                    merged.extend([id_] * cursor.rowcount)
        except BaseException as error:  # handed to the test's own thread
            unexpected.append(error)

    threads = [threading.Thread(target=write, args=(me,)) for me in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert unexpected == []
    ids = {f"{me}-{number}" for me in range(4) for number in range(WRITES)}
    found = Counter(session.execute("SELECT id FROM t").table.column("id").to_pylist())
    assert found == Counter(dict.fromkeys(ids, 1))
    assert Counter(merged) == found
    assert optimizes(session, "t") >= 1
    assert len(delta_of(root, schema, "t").file_uris()) < 100
    with connections[0].cursor() as cursor:
        cursor.execute("SELECT who, count(*) AS n FROM t WHERE id LIKE '%9' GROUP BY who ORDER BY who")
        assert [tuple(row) for row in cursor.fetchall()] == [(str(me), WRITES // 10) for me in range(4)]


def _until_it_holds(cursor: Any, statement: str, parameters: dict[str, str]) -> None:
    from databricks.sql import exc

    while True:
        try:
            cursor.execute(statement, parameters)
        except exc.ServerOperationError as error:
            if "DELTA_CONCURRENT" not in str(error):
                raise
        else:
            return


def test_one_winner_per_version_while_one_compacts(engine: Engine, session: EngineSession) -> None:
    """A compare-and-set and a compaction of its file: either may lose, and no update is ever lost."""
    session.execute("CREATE TABLE t (id INT, version INT)")
    session.execute("INSERT INTO t VALUES (1, 0), (2, 0)")
    catalog, schema = session._session.namespace.catalog, session._session.namespace.schema
    location = str(engine.catalog.schema_path(catalog, schema) / "t")
    over = threading.Event()
    wins: list[int] = []
    unexpected: list[str] = []

    def race() -> None:
        mine = engine.session(catalog=catalog, schema=schema)
        while not over.is_set():
            try:
                seen = mine.execute("SELECT version FROM t WHERE id = 1").table.column(0)[0].as_py()
                claim = mine.execute(f"UPDATE t SET version = {seen + 1} WHERE id = 1 AND version = {seen}")
                wins.extend([seen] * (claim.affected_rows or 0))
            except EngineError as error:
                if "DELTA_CONCURRENT" not in error.message:
                    unexpected.append(error.message)
        mine.close()

    threads = [threading.Thread(target=race) for _ in range(2)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 240
    number = 0
    while len(wins) < 5 and not unexpected and time.monotonic() < deadline:
        number += 1
        _insert_and_compact(session, location, 10 + number)
    over.set()
    for thread in threads:
        thread.join()
    rows = session.execute("SELECT id, version FROM t").table.to_pylist()
    assert unexpected == []
    assert sorted(wins) == list(range(len(wins)))
    assert {row["id"]: row["version"] for row in rows if row["id"] < 10} == {1: len(wins), 2: 0}
    assert len(rows) == 2 + number


def _insert_and_compact(session: EngineSession, location: str, id_: int) -> None:
    from deltalake import DeltaTable
    from deltalake.exceptions import CommitFailedError

    while True:
        try:
            session.execute(f"INSERT INTO t VALUES ({id_}, 0)")
        except EngineError as error:
            if "DELTA_CONCURRENT" not in error.message:
                raise
        else:
            break
    with suppress(CommitFailedError):  # it may lose
        DeltaTable(location).optimize.compact()

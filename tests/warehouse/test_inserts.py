"""INSERT by names, and in place of rows: what it writes, keeps and refuses."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from local_workspace.engine import Engine, EngineError, EngineSession
from local_workspace.options import installed_engine


@pytest.fixture
def table(session: EngineSession) -> EngineSession:
    session.execute("CREATE TABLE t (k INT, Name STRING, d INT)")
    session.execute("INSERT INTO t VALUES (1, 'a', 1), (1, 'b', 1), (2, 'c', 2), (NULL, 'n', 3)")
    return session


def content(session: EngineSession) -> list[tuple[Any, ...]]:
    found = session.execute("SELECT * FROM t ORDER BY k, Name").table.to_pylist()
    return [tuple(row.values()) for row in found]


@pytest.mark.fault("C3")
def test_a_column_list_finds_names_with_capitals(session: EngineSession) -> None:
    session.execute("CREATE TABLE t (Id INT, FullName STRING, n INT)")
    session.execute("INSERT INTO t (Id, FullName, n) VALUES (1, 'a', 1)")
    session.execute("INSERT INTO t (fullname, ID) SELECT 'b', 2")
    session.execute("INSERT INTO t BY NAME SELECT 'c' AS FULLNAME, 3 AS id")
    with pytest.raises(EngineError, match=r"no column `other`|DELTA_METADATA_MISMATCH"):
        session.execute("INSERT INTO t BY NAME SELECT 1 AS other")
    found = session.execute("SELECT * FROM t ORDER BY Id").table.to_pylist()
    assert [tuple(row.values()) for row in found] == [(1, "a", 1), (2, "b", None), (3, "c", None)]


@pytest.mark.fault("D7")
def test_replace_on_as_dbt_writes_it(table: EngineSession) -> None:
    result = table.execute(
        "insert into table t AS t replace on (t.`k` <=> s.`k`) (select `k`, `Name`, NULL as `d` from "
        "(SELECT 1 AS k, 'new' AS Name UNION ALL SELECT 1, 'newer' UNION ALL SELECT NULL, 'x')) AS s"
    )
    assert result.affected_rows == 3
    assert content(table) == [(None, "x", None), (1, "new", None), (1, "newer", None), (2, "c", 2)]
    table.execute(
        "INSERT INTO t AS target REPLACE ON (target.k = temp.k AND target.d <=> temp.d) "
        "(SELECT k, 'kept' AS Name, d FROM t WHERE k IS NULL) AS temp"
    )
    assert content(table)[:2] == [(None, "kept", None), (None, "x", None)]  # NULL equals nothing
    with pytest.raises(EngineError, match="REPLACE ON by anything but equal columns"):
        table.execute("INSERT INTO t AS t REPLACE ON (t.k > s.k) (SELECT 1 AS k, 'x' AS Name, 1 AS d) AS s")


@pytest.mark.fault("D7")
def test_replace_where_by_name(table: EngineSession) -> None:
    table.execute("CREATE TABLE rows_of_2 AS SELECT 5 AS d, 'by name' AS NAME, 2 AS k")
    assert table.execute("INSERT INTO t BY NAME REPLACE WHERE k = 2 TABLE rows_of_2").affected_rows == 1
    table.execute("CREATE VIEW some AS SELECT * FROM t WHERE k = 1 AND d = 1 LIMIT 1")
    table.execute("INSERT INTO t BY NAME REPLACE WHERE k = 1 and d = 1 SELECT d, k FROM some WHERE d = 1")
    expected = [(None, "n", 3), (1, None, 1), (2, "by name", 5)]
    assert content(table) == expected
    for outside in ("SELECT 3, 'x', 1", "SELECT NULL, 'x', 1"):
        with pytest.raises(EngineError, match="REPLACE_WHERE_MISMATCH"):
            table.execute(f"INSERT INTO t REPLACE WHERE k = 2 {outside}")
    assert content(table) == expected


@pytest.mark.fault("C2")
def test_an_overwrite_of_a_partition_keeps_the_others_or_is_refused(session: EngineSession) -> None:
    session.execute("CREATE TABLE t (k INT, d INT) PARTITIONED BY (d)")
    session.execute("INSERT INTO t VALUES (1, 1), (2, 2)")
    with suppress(EngineError):
        session.execute("INSERT OVERWRITE t PARTITION (d = 1) SELECT 9")
    assert {"k": 2, "d": 2} in session.execute("SELECT * FROM t").table.to_pylist()


def give(table: Path, column: str, key: str, value: Any) -> None:
    """Change a column's metadata in the first commit, as another engine would have written it."""
    commit = table / "_delta_log" / f"{0:020d}.json"
    actions = [json.loads(line) for line in commit.read_text().splitlines()]
    for action in actions:
        if "metaData" in action:
            schema = json.loads(action["metaData"]["schemaString"])
            next(f for f in schema["fields"] if f["name"] == column)["metadata"][key] = value
            action["metaData"]["schemaString"] = json.dumps(schema)
    commit.write_text("\n".join(map(json.dumps, actions)) + "\n")
    commit.with_suffix(".crc").unlink(missing_ok=True)  # says what the schema is, too


@pytest.mark.skipif(installed_engine() == "spark", reason="Spark writes such columns itself")
@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        pytest.param("delta.identity.start", 1, "identity", marks=pytest.mark.fault("C4")),
        pytest.param("delta.generationExpression", "k + 1", "generated", marks=pytest.mark.fault("C4")),
        pytest.param(
            "__CHAR_VARCHAR_TYPE_STRING", "varchar(2)", r"VARCHAR\(n\)", marks=pytest.mark.fault("C6")
        ),
    ],
)
def test_columns_of_another_engine_are_not_written(
    session: EngineSession, root: Path, schema: str, key: str, value: Any, named: str
) -> None:
    session.execute("CREATE TABLE t (k BIGINT, other STRING)")
    give(root / "tables" / "main" / schema.removeprefix("main.") / "t", "k", key, value)
    for statement in (
        "INSERT INTO t (other) VALUES ('abc')",
        "UPDATE t SET other = 'abc'",
        "MERGE INTO t USING (SELECT 'x' AS o) s ON false WHEN NOT MATCHED THEN INSERT (other) VALUES (s.o)",
    ):
        with pytest.raises(EngineError, match=f"of a table with an? .*{named}.*--engine spark"):
            session.execute(statement)
    assert session.execute("SELECT * FROM t").table.num_rows == 0


@pytest.mark.fault("C4")
@pytest.mark.fault("C6")
@pytest.mark.parametrize("column", ["BIGINT GENERATED ALWAYS AS IDENTITY", "VARCHAR(2)", "CHAR(2)"])
def test_identity_and_varchar_are_right_or_refused(
    engine: Engine, session: EngineSession, schema: str, column: str
) -> None:
    with suppress(EngineError):
        session.execute(f"CREATE TABLE t (c {column}, other INT)")
    if engine.catalog.tables(*schema.split(".")) == []:
        with pytest.raises(EngineError, match="--engine spark"):
            session.execute(f"CREATE TABLE t (c {column}, other INT)")
        return
    if "IDENTITY" in column:
        session.execute("INSERT INTO t (other) VALUES (1), (2)")
        found = session.execute("SELECT c FROM t").table.to_pylist()
        assert len({row["c"] for row in found} - {None}) == 2
    else:
        with pytest.raises(EngineError):
            session.execute("INSERT INTO t VALUES ('abc', 1)")


@pytest.mark.fault("D7")
def test_a_check_constraint_is_never_passed_over(session: EngineSession) -> None:
    session.execute("CREATE TABLE t (k INT)")
    session.execute("ALTER TABLE t ADD CONSTRAINT positive CHECK (k > 0)")
    session.execute("INSERT INTO t VALUES (1)")
    for statement in (
        "UPDATE t SET k = -1",
        "MERGE INTO t USING (SELECT -1 AS k) s ON false WHEN NOT MATCHED THEN INSERT (k) VALUES (s.k)",
        "INSERT OVERWRITE t VALUES (-1)",
    ):
        with pytest.raises(EngineError):
            session.execute(statement)
    assert session.execute("SELECT k FROM t").table.to_pylist() == [{"k": 1}]
    assert session.execute("DELETE FROM t WHERE k = 1").affected_rows == 1

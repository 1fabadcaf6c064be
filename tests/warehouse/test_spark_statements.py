"""What the reference engine does rightly where the quick one is wrong or refuses: a statement of each kind.

`make test-spark` runs this in the environment that has Spark. The tests share one workspace.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from databricks.sql import exc
from local_workspace import WorkspaceInfo
from warehouse_support import connected, rows

pytestmark = [pytest.mark.reference_engine, pytest.mark.fault("C15")]


@pytest.fixture(scope="module")
def schema(shared_workspace: WorkspaceInfo) -> str:
    with connected(shared_workspace) as cursor:
        cursor.execute("CREATE SCHEMA main.statements")
        cursor.execute("CREATE TABLE main.statements.pairs AS SELECT id, id % 3 AS part FROM range(9)")
    return "statements"


@pytest.fixture
def cursor(shared_workspace: WorkspaceInfo, schema: str) -> Iterator[Any]:
    with connected(shared_workspace, catalog="main", schema=schema) as cursor:
        yield cursor


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("SELECT '1' + 1", 2),
        ("SELECT 7 DIV 2", 3),
        ("SELECT conv('ff', 16, 10)", "255"),
        ("SELECT count(*) FROM pairs WHERE exists(array(id), x -> x > 5)", 3),
        ("SELECT aggregate(array(1, 2, 3), 0, (a, x) -> a + x)", 6),
        ("SELECT map_filter(map('a', 1, 'b', 2), (k, v) -> v > 1)['b']", 2),
        (
            "WITH RECURSIVE r (n) AS (VALUES 1 UNION ALL SELECT n+1 FROM r WHERE n < 4) SELECT sum(n) FROM r",
            10,
        ),
        ("SELECT id FROM pairs QUALIFY row_number() OVER (ORDER BY id DESC) = 1", 8),
        ("FROM pairs |> WHERE part = 1 |> AGGREGATE sum(id) AS s", 12),
        ("SELECT parse_json('{\"a\": [1, 2.5]}'):a[1]::DECIMAL(3, 1)", Decimal("2.5")),
        ("SELECT schema_of_variant(parse_json('{\"a\": 1}'))", "OBJECT<a: BIGINT>"),
        ("SELECT try_divide(1, 0) IS NULL AND try_add(2147483647, 1) IS NULL", True),
        ("SELECT named_struct('k', 7).k", 7),
        ("SELECT max(v) FROM pairs LATERAL VIEW explode(array(id, id * 2)) AS v", 16),
        ("SELECT * FROM (SELECT part FROM pairs) PIVOT (count(*) FOR part IN (0 AS zero))", 3),
        ("SELECT sum(u) FROM (SELECT 1 AS a, 2 AS b) UNPIVOT (u FOR c IN (a, b))", 3),
        ("SELECT count(*) FROM pairs TABLESAMPLE (100 PERCENT)", 9),
        ("SELECT count(*) FILTER (WHERE part = 0) FROM pairs", 3),
        ("SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY id) FROM pairs", 4.0),
        ("SELECT count(*) FROM (SELECT part, id, sum(id) FROM pairs GROUP BY CUBE (part, id))", 22),
        ("SELECT count(*) FROM pairs AS p, LATERAL (SELECT p.id AS x WHERE p.id > 6)", 2),
        ("SELECT date_format(TIMESTAMP '2026-01-31' + INTERVAL 1 MONTH, 'yyyy-MM-dd')", "2026-02-28"),
        ("SELECT to_json(from_csv('1,x', 'a INT, b STRING'))", '{"a":1,"b":"x"}'),
        (
            "SELECT listagg(part, '-') WITHIN GROUP (ORDER BY part) FROM (SELECT DISTINCT part FROM pairs)",
            "0-1-2",
        ),
    ],
)
def test_queries(cursor: Any, query: str, value: Any) -> None:
    cursor.execute(query)
    found = cursor.fetchone()[0]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("query", "condition"),
    [
        ("SELECT 2147483647 + 1", "ARITHMETIC_OVERFLOW"),
        ("SELECT 9223372036854775807 + id FROM pairs", "ARITHMETIC_OVERFLOW"),
        ("SELECT sum(n) FROM VALUES (9223372036854775807), (1) AS t (n)", "ARITHMETIC_OVERFLOW"),
        ("SELECT CAST(300 AS TINYINT)", "CAST_OVERFLOW"),
        ("SELECT array(1)[5]", "INVALID_ARRAY_INDEX"),
        ("SELECT CAST('x' AS INT)", "CAST_INVALID_INPUT"),
    ],
)
def test_values_that_do_not_fit_are_errors(cursor: Any, query: str, condition: str) -> None:
    with pytest.raises(exc.ServerOperationError, match=rf"\[{condition}"):
        rows(cursor, query)


def test_variables_and_statements_made_of_text(cursor: Any) -> None:
    cursor.execute("DECLARE VARIABLE least INT DEFAULT 5")
    cursor.execute("SET VARIABLE least = (SELECT max(id) - 1 FROM pairs)")
    assert rows(cursor, "SELECT id FROM pairs WHERE id >= least ORDER BY id") == [{"id": 7}, {"id": 8}]
    assert rows(cursor, "EXECUTE IMMEDIATE 'SELECT :a + 1 AS n' USING 6 AS a") == [{"n": 7}]
    assert rows(cursor, "EXECUTE IMMEDIATE 'SELECT count(*) AS n FROM pairs WHERE id >= least'") == [{"n": 2}]
    cursor.execute("DROP TEMPORARY VARIABLE least")
    with pytest.raises(exc.ServerOperationError, match="UNRESOLVED_COLUMN"):
        cursor.execute("SELECT least")


def test_scripts(cursor: Any) -> None:
    script = """BEGIN
      DECLARE total INT DEFAULT 0;
      FOR row AS SELECT id FROM pairs WHERE part = 2 DO SET total = total + row.id; END FOR;
      IF total > 10 THEN SELECT total AS n; ELSE SELECT -1 AS n; END IF;
    END"""
    assert rows(cursor, script) == [{"n": 15}]
    handled = """BEGIN
      DECLARE EXIT HANDLER FOR DIVIDE_BY_ZERO BEGIN SELECT 'caught' AS n; END;
      SELECT 1 / 0;
    END"""
    assert rows(cursor, handled) == [{"n": "caught"}]


def test_identity_columns_and_generated_ones(cursor: Any) -> None:
    cursor.execute(
        "CREATE TABLE numbered (k BIGINT GENERATED ALWAYS AS IDENTITY (START WITH 5 INCREMENT BY 2), v INT, "
        "w INT GENERATED ALWAYS AS (v * 2), d STRING DEFAULT 'none') "
        "TBLPROPERTIES ('delta.feature.allowColumnDefaults' = 'supported')"
    )
    cursor.execute("INSERT INTO numbered (v) VALUES (1)")
    cursor.execute("INSERT INTO numbered (v, d) VALUES (2, 'some')")
    found = rows(cursor, "SELECT * FROM numbered ORDER BY v")
    assert [(row["v"], row["w"], row["d"]) for row in found] == [(1, 2, "none"), (2, 4, "some")]
    assert found[0]["k"] == 5
    assert found[1]["k"] > 5
    with pytest.raises(exc.ServerOperationError, match="IDENTITY"):
        cursor.execute("INSERT INTO numbered (k, v) VALUES (1, 1)")


def test_what_a_table_refuses(cursor: Any) -> None:
    cursor.execute("CREATE TABLE narrow (code VARCHAR(2), n INT NOT NULL)")
    cursor.execute("INSERT INTO narrow VALUES ('ab', 1)")
    with pytest.raises(exc.ServerOperationError, match="DELTA_EXCEED_CHAR_VARCHAR_LIMIT"):
        cursor.execute("INSERT INTO narrow VALUES ('abc', 1)")
    with pytest.raises(exc.ServerOperationError, match="DELTA_NOT_NULL_CONSTRAINT_VIOLATED"):
        cursor.execute("INSERT INTO narrow VALUES ('a', NULL)")
    cursor.execute("ALTER TABLE narrow ADD CONSTRAINT positive CHECK (n > 0)")
    with pytest.raises(exc.ServerOperationError, match="DELTA_VIOLATE_CONSTRAINT"):
        cursor.execute("INSERT INTO narrow VALUES ('a', 0)")
    assert rows(cursor, "SELECT * FROM narrow") == [{"code": "ab", "n": 1}]


def test_an_overwrite_of_some_partitions_keeps_the_others(cursor: Any) -> None:
    cursor.execute("CREATE TABLE parted (v INT, day STRING) PARTITIONED BY (day)")
    cursor.execute("INSERT INTO parted VALUES (1, 'mon'), (2, 'tue')")
    cursor.execute("SET spark.sql.sources.partitionOverwriteMode = dynamic")
    cursor.execute("INSERT OVERWRITE parted VALUES (9, 'tue')")
    found = rows(cursor, "SELECT v, day FROM parted ORDER BY day")
    assert found == [{"v": 1, "day": "mon"}, {"v": 9, "day": "tue"}]
    cursor.execute("INSERT INTO parted REPLACE WHERE day = 'mon' SELECT 7, 'mon'")
    assert rows(cursor, "SELECT sum(v) AS s FROM parted") == [{"s": 16}]


def test_columns_with_capitals_and_by_name(cursor: Any) -> None:
    cursor.execute("CREATE TABLE capitals (Id INT, Label STRING)")
    cursor.execute("INSERT INTO capitals (Label, id) VALUES ('a', 1)")
    cursor.execute("INSERT INTO capitals BY NAME SELECT 'b' AS label, 2 AS ID")
    found = rows(cursor, "SELECT * FROM capitals ORDER BY id")
    assert found == [{"Id": 1, "Label": "a"}, {"Id": 2, "Label": "b"}]


def test_changes_by_a_subquery(cursor: Any) -> None:
    cursor.execute("CREATE TABLE some AS SELECT id FROM pairs")
    cursor.execute("DELETE FROM some WHERE id IN (SELECT id FROM pairs WHERE part = 0)")
    assert cursor.rowcount == 3
    cursor.execute("UPDATE some SET id = id + (SELECT max(id) FROM pairs) WHERE EXISTS (SELECT 1 FROM pairs)")
    assert rows(cursor, "SELECT min(id) AS least, count(*) AS n FROM some") == [{"least": 9, "n": 6}]


def test_statements_of_the_classic_workflow(cursor: Any) -> None:
    cursor.execute("CREATE TABLE classic AS SELECT 7 AS e UNION ALL SELECT NULL")
    query = "SELECT a FROM (SELECT filter(array(e), x -> x IS NOT NULL) a FROM classic) WHERE size(a) > 0"
    assert [list(row["a"]) for row in rows(cursor, query)] == [[7]]
    assert rows(cursor, "SELECT conv(CAST(5 AS BIGINT), 10, 16) AS c") == [{"c": "5"}]


def test_functions_stay(cursor: Any, shared_workspace: WorkspaceInfo) -> None:
    cursor.execute("CREATE FUNCTION plus(x INT, y INT DEFAULT 1) RETURNS INT COMMENT 'adds' RETURN x + y")
    cursor.execute(
        "CREATE FUNCTION parts() RETURNS TABLE (part BIGINT) RETURN SELECT DISTINCT part FROM pairs"
    )
    cursor.execute("CREATE FUNCTION twice(x INT) RETURN x + x + (SELECT min(id) FROM pairs)")
    with pytest.raises(exc.ServerOperationError, match="calls another one"):
        cursor.execute("CREATE FUNCTION more(x INT) RETURN plus(x, x)")
    assert rows(cursor, "SELECT plus(1) AS a, twice(plus(3)) AS b") == [{"a": 2, "b": 8}]
    assert rows(cursor, "SELECT count(*) AS n FROM pairs WHERE plus(CAST(id AS INT), y => 2) > 5") == [
        {"n": 5}
    ]
    cursor.execute("CREATE VIEW counted AS SELECT plus(count(*)::INT) AS n FROM parts()")
    with connected(shared_workspace) as other:
        assert rows(other, "SELECT main.statements.twice(3) AS n") == [{"n": 6}]
        assert rows(other, "SELECT n FROM main.statements.counted") == [{"n": 4}]
        with pytest.raises(exc.ServerOperationError, match="UNRESOLVED_ROUTINE"):
            other.execute("SELECT twice(3)")
        other.execute(
            "CREATE OR REPLACE FUNCTION main.statements.plus(x INT, y INT) RETURNS INT RETURN x - y"
        )
    assert rows(cursor, "SELECT plus(4, 4) AS n") == [{"n": 0}]
    with pytest.raises(exc.ServerOperationError, match="ROUTINE_ALREADY_EXISTS"):
        cursor.execute("CREATE FUNCTION plus(x INT) RETURNS INT RETURN x")
    cursor.execute("CREATE FUNCTION IF NOT EXISTS plus(x INT) RETURNS INT RETURN x")
    shown = [row["function"] for row in rows(cursor, "SHOW USER FUNCTIONS")]
    assert shown == [f"main.statements.{name}" for name in ("parts", "plus", "twice")]
    assert "RETURN x - y" in str(rows(cursor, "DESCRIBE FUNCTION EXTENDED plus"))
    cursor.execute("DROP FUNCTION plus")
    with pytest.raises(exc.ServerOperationError, match="ROUTINE_NOT_FOUND"):
        cursor.execute("DROP FUNCTION plus")
    with pytest.raises(exc.ServerOperationError, match="UNRESOLVED_ROUTINE"):
        cursor.execute("SELECT plus(1, 2)")
    with pytest.raises(exc.ServerOperationError, match="UNRESOLVED_COLUMN"):
        cursor.execute("CREATE FUNCTION wrong(x INT) RETURNS INT RETURN x + nowhere")


def test_temporary_functions(cursor: Any) -> None:
    cursor.execute("CREATE TEMPORARY FUNCTION half(x INT) RETURNS DOUBLE RETURN x / 2")
    assert rows(cursor, "SELECT half(3) AS n") == [{"n": 1.5}]
    cursor.execute("DROP TEMPORARY FUNCTION half")
    with pytest.raises(exc.ServerOperationError, match="UNRESOLVED_ROUTINE"):
        cursor.execute("SELECT half(3)")


@pytest.fixture(scope="module")
def folder(shared_workspace: WorkspaceInfo, schema: str) -> str:
    path = f"/Volumes/main/{schema}/landing"
    local = Path(shared_workspace.root, path.lstrip("/"))
    local.mkdir(parents=True)
    (local / "1.csv").write_text("id;name\n1;a\n2;b\n")
    (local / "2.csv").write_text("id;name\n3;c\n")
    (local / "more.json").write_text('{"id": 4, "name": "d"}\n')
    return path


def test_read_files(cursor: Any, folder: str) -> None:
    query = (
        f"SELECT * FROM read_files('{folder}/*.csv', format => 'csv', header => true, sep => ';') ORDER BY id"
    )
    found = rows(cursor, query)
    assert [(row["id"], row["name"], row["_rescued_data"]) for row in found][:2] == [
        (1, "a", None),
        (2, "b", None),
    ]
    assert rows(cursor, f"SELECT name FROM read_files('{folder}/more.json')") == [{"name": "d"}]
    options = "header => true, sep => ';', schema => 'id STRING, name STRING'"
    given = rows(cursor, f"SELECT * FROM read_files('{folder}/1.csv', {options})")
    assert given[0] == {"id": "1", "name": "a"}
    with pytest.raises(exc.ServerOperationError, match="PATH_NOT_FOUND"):
        cursor.execute(f"SELECT * FROM read_files('{folder}/none', format => 'csv')")


def test_copy_into_loads_each_file_once(cursor: Any, folder: str, shared_workspace: WorkspaceInfo) -> None:
    cursor.execute("CREATE TABLE loaded (id BIGINT, name STRING)")
    copy = (
        f"COPY INTO loaded FROM '{folder}' FILEFORMAT = CSV PATTERN = '*.csv' "
        "FORMAT_OPTIONS ('header' = 'true', 'sep' = ';', 'inferSchema' = 'true')"
    )
    assert rows(cursor, copy)[0]["num_inserted_rows"] == 3
    assert cursor.rowcount == 3
    assert rows(cursor, copy)[0]["num_inserted_rows"] == 0
    cursor.execute(
        f"COPY INTO loaded FROM (SELECT id + 10 AS id, upper(name) AS name FROM '{folder}') "
        "FILEFORMAT = JSON FILES = ('more.json') COPY_OPTIONS ('force' = 'true')"
    )
    found = rows(cursor, "SELECT * FROM loaded ORDER BY id")
    assert [(row["id"], row["name"]) for row in found] == [(1, "a"), (2, "b"), (3, "c"), (14, "D")]
    Path(shared_workspace.root, folder.lstrip("/"), "3.csv").write_text("id;name\n9;z\n")
    assert rows(cursor, copy)[0]["num_inserted_rows"] == 1
    with pytest.raises(exc.ServerOperationError, match="VALIDATE"):
        cursor.execute(f"COPY INTO loaded FROM '{folder}' FILEFORMAT = CSV VALIDATE ALL")


@pytest.mark.parametrize(
    "statement",
    [
        "GRANT SELECT ON pairs TO someone",
        "CREATE MATERIALIZED VIEW m AS SELECT 1",
        "CREATE STREAMING TABLE s AS SELECT 1",
        "CREATE TABLE c (a INT) USING CSV",
        "SELECT ai_query('model', 'text')",
    ],
)
def test_what_it_cannot_do_is_refused_by_name(cursor: Any, statement: str) -> None:
    with pytest.raises(
        exc.ServerOperationError, match=r"not supported by the local workspace|UNRESOLVED_ROUTINE"
    ):
        cursor.execute(statement)


def test_a_variant_is_sent_as_json_with_its_name(cursor: Any) -> None:
    cursor.execute("SELECT parse_json('{\"a\": [1, 2.5]}') AS v, array(parse_json('1')) AS nested")
    assert [column[1] for column in cursor.description] == ["variant", "array"]
    assert cursor.fetchone()[0] == '{"a":[1,2.5]}'


def test_timestamps_have_the_time_zone_of_a_warehouse(cursor: Any) -> None:
    cursor.execute("SELECT current_timestamp() AS t")
    assert str(cursor.fetchall_arrow().schema.field("t").type) == "timestamp[us, tz=Etc/UTC]"

"""Databricks SQL that Sail lacks is rewritten or refused by name; statements of everyday SQL run."""

from __future__ import annotations

import sys
import threading

import pytest
from local_workspace.engine import EngineError, EngineSession
from local_workspace.engine.errors import at_place
from local_workspace.engine.names import folder_of, name_of
from local_workspace.engine.rewrite import rewritten
from local_workspace.engine.statements import Statement, tokenize


def rewrite(text: str) -> str:
    return rewritten(Statement.parse(text), lambda _query: ["id", "v", "Name"]).text


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM t",
        "SELECT * FROM a EXCEPT (SELECT * FROM b)",
        "SELECT count(*) EXCEPT SELECT 1",
        "SELECT 'QUALIFY x', `qualify` FROM t GROUP BY a",
        "CREATE OR REPLACE TABLE t AS SELECT 1 AS x",
    ],
)
def test_sql_that_sail_has_is_unchanged(text: str) -> None:
    assert rewrite(text) == text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("SELECT k, max(v) AS m FROM t GROUP BY ALL", "SELECT k, max(v) AS m FROM t GROUP BY k"),
        (
            "SELECT a + 1 AS b, 'x' AS c, count(*) FROM t GROUP BY ALL ORDER BY ALL",
            "SELECT a + 1 AS b, 'x' AS c, count(*) FROM t GROUP BY a + 1 ORDER BY 1, 2, 3",
        ),
        ("CREATE TABLE x AS SELECT * EXCEPT (v) FROM t", "CREATE TABLE x AS SELECT `id`, `Name` FROM t"),
        ("SELECT u.* REPLACE (1 AS v) FROM u", "SELECT `u`.`id`, 1 AS v, `u`.`Name` FROM u"),
        (
            "INSERT INTO x SELECT * FROM t PIVOT (sum(v) FOR m IN (1 AS a))",
            "INSERT INTO x SELECT * FROM t PIVOT(sum(v) FOR (m) IN (1 AS a))",
        ),
        (
            "WITH q AS (SELECT 1 AS x) INSERT INTO t (x) SELECT x FROM q",
            "INSERT INTO t (x) WITH q AS (SELECT 1 AS x) SELECT x FROM q",
        ),
    ],
)
def test_constructs_that_sail_lacks_are_rewritten(text: str, wanted: str) -> None:
    assert " ".join(rewrite(text).split()).replace("u.`", "`u`.`") == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("SELECT a.*, z FROM a JOIN b USING (k)", "SELECT a.id, a.k, z FROM a JOIN b ON a.k = b.k"),
        (
            "SELECT k, b.k AS q FROM a LEFT JOIN b USING (k) WHERE b.k IS NULL GROUP BY k ORDER BY k",
            "SELECT a.k, b.k AS q FROM a LEFT JOIN b ON a.k = b.k WHERE b.k IS NULL GROUP BY a.k ORDER BY k",
        ),
        (
            "SELECT k, b.z FROM a RIGHT JOIN b USING (k) JOIN c USING (k) WHERE a.k > 1",
            "SELECT b.k, b.z FROM a RIGHT JOIN b ON a.k = b.k JOIN c ON b.k = c.k WHERE a.k > 1",
        ),
        (
            "SELECT k FROM a FULL JOIN b USING (k) WHERE a.k IS NULL",
            "SELECT coalesce(a.k, b.k) AS k FROM a FULL JOIN b ON a.k = b.k WHERE a.k IS NULL",
        ),
        ("SELECT * FROM a JOIN b USING (k)", "SELECT * FROM a JOIN b USING (k)"),
        ("SELECT 1 FROM IDENTIFIER('a' || '.b')", "SELECT 1 FROM a.b"),
    ],
)
def test_join_using_gives_columns_of_both_tables(text: str, wanted: str) -> None:
    tables = {"a": ["id", "k"], "b": ["k", "z"], "c": ["k"]}
    found = rewritten(Statement.parse(text), lambda query: tables[query.split()[3]]).text
    assert " ".join(found.replace("`", "").split()) == wanted


def test_columns_of_a_star_are_asked_with_the_ctes_around_it() -> None:
    asked: list[str] = []

    def columns(query: str) -> list[str]:
        asked.append(query)
        return ["x"]

    text = (
        "WITH a AS (SELECT * EXCEPT (v) FROM t), b AS (SELECT * FROM (SELECT * EXCEPT (y) FROM a)) SELECT 1"
    )
    rewritten(Statement.parse(text), columns)
    assert asked == ["SELECT * FROM t LIMIT 0", "WITH a AS (SELECT `x` FROM t) SELECT * FROM a LIMIT 0"]


@pytest.mark.parametrize("name", ["plain", "tablé", "日本", "a%b", "u00e9"])
def test_every_name_has_a_folder(name: str) -> None:
    assert folder_of(name).isascii()
    assert name_of(folder_of(name)) == name


def test_dollar_quotes_are_strings() -> None:
    assert [token.kind for token in tokenize("AS $$ a; b $$ $x$ ; $x$")] == ["word", "string", "string"]


def test_threads_do_not_read_each_others_statements() -> None:
    texts = [f"MERGE INTO t{index} USING s{index} ON a = b{index}" for index in range(6)]
    expected = [[token.text for token in tokenize(text)] for text in texts]
    wrong: list[object] = []

    def read(index: int) -> None:
        for _ in range(100):
            try:
                found = [token.text for token in tokenize(texts[index])]
            except Exception as error:
                wrong.append(error)
            else:
                wrong.extend([found] if found != expected[index] else [])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=read, args=(index,)) for index in range(len(texts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


def test_a_syntax_error_has_its_place_in_the_original_text() -> None:
    error = EngineError.of("PARSE_SYNTAX_ERROR", "Syntax error. (found = at 18:19 expected x)", "42601")
    error.sent = "SELECT a WHERE b == 1"
    placed = at_place(error, "CREATE TABLE t AS\nSELECT a\nWHERE b == 1")
    assert "at or near '='" in placed.message
    assert placed.message.endswith("(line 3, pos 9)")
    error.sent = "something else that is written at another place"
    assert at_place(error, "SELECT 1") is error


def run(session: EngineSession, *texts: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for text in texts:
        rows = session.execute(text).table.to_pylist()
    return rows


def test_everyday_statements_run(session: EngineSession) -> None:
    run(
        session,
        "CREATE OR REPLACE TABLE t COMMENT 'c; d' AS SELECT id, id * 2 AS v, 'x' AS Name FROM range(4)",
        "INSERT INTO t VALUES (9, NULL, NULL)",  # columns of a query may be NULL
        "INSERT INTO t SELECT id, id, Name FROM t WHERE id = 1",
        "CREATE TABLE c DEEP CLONE t VERSION AS OF 0",
        "CREATE TABLE l (id BIGINT, CONSTRAINT pk PRIMARY KEY (id))",
        "CREATE TABLE m LIKE t",
        "CREATE OR REPLACE TABLE `tablé` AS SELECT 1 AS `é`",
        "INSERT INTO `tablé` SELECT * FROM `tablé`",
        "SET TIME ZONE 'UTC'",
        "SET use_cached_result = false",
    )
    assert (
        len(run(session, "SELECT * FROM t QUALIFY row_number() OVER (PARTITION BY id ORDER BY v) = 1")) == 5
    )
    counts = run(session, "SELECT (SELECT count(*) FROM c) AS a, (SELECT count(*) FROM m) AS b")
    assert list(counts[0].values()) == [4, 0]
    assert run(session, "SELECT * FROM `tablé`") == [{"é": 1}, {"é": 1}]
    with_strings = "SELECT count(*) AS n FROM IDENTIFIER('c' || '2')"
    session.execute("CREATE TABLE c2 AS SELECT 1 AS x")
    assert run(session, with_strings) == [{"n": 1}]
    joined = run(session, "SELECT a.*, b.v AS w FROM t a JOIN c b USING (id) WHERE a.id = 2")
    assert joined == [{"id": 2, "v": 4, "Name": "x", "w": 4}]
    shown = {row["tableName"] for row in run(session, "SHOW TABLES")}
    assert shown == {"t", "c", "c2", "l", "m", "tablé"}


def test_create_table_as_returns_columns_without_rows(session: EngineSession) -> None:
    for text in ("CREATE TABLE t AS SELECT 1 AS x", "CREATE OR REPLACE TABLE t AS SELECT 2 AS x"):
        result = session.execute(text)
        assert result.table.column_names == ["num_affected_rows", "num_inserted_rows"]
        assert (result.table.num_rows, result.affected_rows) == (0, None)


@pytest.mark.parametrize(
    ("text", "construct"),
    [
        ("BEGIN SELECT 1; SELECT 2; END", "A SQL script"),
        ("DECLARE VARIABLE n INT", "DECLARE VARIABLE"),
        ("SET VAR n = 1", "SET VARIABLE"),
        ("CREATE OR REPLACE FUNCTION f() RETURNS INT LANGUAGE PYTHON AS $$ a; b $$", "CREATE FUNCTION"),
        ("EXECUTE IMMEDIATE 'SELECT 1'", "EXECUTE IMMEDIATE"),
        ("COPY INTO t FROM '/Volumes/x'", "COPY INTO"),
        (
            "MERGE INTO t USING t AS s ON exists(array(t.a), x -> x = 1) WHEN MATCHED THEN DELETE",
            "A lambda in MERGE … ON",
        ),
        ("GRANT SELECT ON t TO me", "GRANT"),
        ("SHOW PARTITIONS t", "SHOW PARTITIONS"),
        ("CREATE TABLE x (a INT) USING PARQUET", "USING PARQUET"),
    ],
)
def test_unsupported_statements_are_named(session: EngineSession, text: str, construct: str) -> None:
    with pytest.raises(EngineError, match=f"UNSUPPORTED_FEATURE.*{construct}"):
        session.execute(text)


@pytest.mark.parametrize(
    ("item", "wanted"),
    [
        ("charindex('b', 'abc')", 2),
        ("decode(NULL, 1, 'a', NULL, 'n', 'other')", "n"),
        ("decode(3, 1, 'a')", None),
        ("'abc' LIKE ANY ('x', 'a%') AND 'abc' NOT LIKE ALL ('x', 'y')", True),
        ("'abc' NOT LIKE ALL ('x', 'a%')", False),
        ("conv(CAST(5 AS BIGINT), 10, 16)", "5"),
        ("conv('ff', 16, 10)", "255"),
        ("j:a.b[1]::int", 3),
    ],
)
def test_functions_that_sail_lacks(session: EngineSession, item: str, wanted: object) -> None:
    source = """SELECT 1 AS id, '{"a": {"b": [2, 3]}}' AS j"""
    assert session.execute(f"SELECT {item} AS r FROM ({source}) AS s").table.to_pydict() == {"r": [wanted]}


def test_lambdas_in_predicates(session: EngineSession) -> None:
    """Sail pushes a filter with a lambda down to where it no longer finds the lambda's columns."""
    session.execute("CREATE TABLE t (e STRING, k INT)")
    session.execute("CREATE TABLE s AS SELECT 1 AS k")
    session.execute("INSERT INTO t VALUES ('x', 1), (NULL, 2)")
    filtered = "SELECT filter(array(e), x -> x IS NOT NULL) AS a FROM t"
    assert run(session, f"SELECT a FROM ({filtered}) WHERE size(a) > 0") == [{"a": ["x"]}]
    assert run(session, f"WITH q AS ({filtered}) SELECT a FROM q WHERE size(a) > 0") == [{"a": ["x"]}]
    assert run(session, "SELECT k FROM t AS u WHERE exists(array(u.e), x -> x = u.e)") == [{"k": 1}]
    joined = "SELECT t.k FROM t JOIN s ON t.k = s.k AND exists(array(t.e), x -> x = 'x')"
    assert run(session, joined) == [{"k": 1}]
    assert run(session, f"CREATE VIEW v AS {filtered}", "SELECT a FROM v WHERE size(a) > 0") == [{"a": ["x"]}]
    changed = session.execute("UPDATE t SET k = 9 WHERE exists(array(e), x -> x = 'x')")
    assert changed.affected_rows == 1
    assert session.execute("DELETE FROM t WHERE exists(array(e), x -> x = 'x')").affected_rows == 1


def test_names_are_the_same_in_capitals(session: EngineSession) -> None:
    rows = run(
        session,
        "CREATE TABLE Orders (`Id` BIGINT, `Name` STRING, n INT)",
        "INSERT INTO ORDERS (name, Id) VALUES ('a', 1), ('b', 2)",
        "INSERT INTO Orders SELECT Id + 10, Name, n FROM orders WHERE Orders.id = 1",
        "UPDATE Orders SET Name = 'c' WHERE ORDERS.Id = 2",
        "MERGE INTO Orders USING (SELECT 1 AS Id) S ON Orders.Id = s.Id WHEN MATCHED THEN UPDATE SET n = 5",
        "WITH Q AS (SELECT * FROM Orders) SELECT O.* FROM q AS o ORDER BY Id",
    )
    assert [tuple(row.values()) for row in rows] == [(1, "a", 5), (2, "c", None), (11, "a", None)]
    assert list(rows[0]) == ["Id", "Name", "n"]


def test_qualify_keeps_the_names_of_columns(session: EngineSession) -> None:
    text = (
        "SELECT upper('x'), id + 1, conv(id, 10, 16) AS c FROM range(3) QUALIFY rank() OVER (ORDER BY id) = 2"
    )
    assert run(session, text) == [{"upper(x)": "X", "(id + 1)": 2, "c": "1"}]


@pytest.mark.parametrize(
    ("text", "construct"),
    [
        ("CREATE TABLE x (a VARCHAR(2))", r"VARCHAR\(n\)"),
        ("CREATE TABLE x (id BIGINT GENERATED ALWAYS AS IDENTITY, a INT)", "identity column"),
        ("CREATE TABLE x (id BIGINT, a BIGINT GENERATED ALWAYS AS (id + 1))", "generated or identity"),
        ("CREATE TABLE x (a INT CHECK (a > 0))", "CHECK constraint"),
        ("ALTER TABLE t ADD COLUMNS (v VARCHAR(2))", r"VARCHAR\(n\)"),
        ("ALTER TABLE t DROP COLUMN id", "DROP COLUMN"),
        ("SET spark.sql.sources.partitionOverwriteMode = dynamic", "Dynamic partition overwrite"),
        ("SELECT zip_with(array(1), array(2), (x, y) -> x + y)", "zip_with"),
        ("SELECT transform_keys(map('a', 1), (k, v) -> upper(k))", "transform_keys"),
        ("SELECT ai_query('m', 'p')", "ai_query"),
        ("SELECT * FROM t |> WHERE id > 1", "pipe syntax"),
        ("WITH RECURSIVE r AS (SELECT 1 AS n) SELECT * FROM r", "recursive CTE"),
        ("SELECT id FROM t WHERE NOT (id IN (SELECT id FROM t AS u WHERE u.id = t.id) OR id = 1)", "IN"),
    ],
)
def test_refusals_name_the_construct_and_the_other_engine(
    session: EngineSession, text: str, construct: str
) -> None:
    session.execute("CREATE TABLE t (id INT)")
    with pytest.raises(EngineError, match=f"{construct}.*--engine spark"):
        session.execute(text)
    assert [row["tableName"] for row in run(session, "SHOW TABLES")] == ["t"]


def test_comments_on_columns(session: EngineSession) -> None:
    rows = run(session, "CREATE TABLE t (id INT)", "COMMENT ON COLUMN t.id IS 'the key'", "DESCRIBE t")
    assert rows == [{"col_name": "id", "data_type": "int", "comment": "the key"}]


def test_show_table_extended_shows_tables_of_other_sessions(session: EngineSession, schema: str) -> None:
    session.execute("CREATE TABLE made (id INT)")
    assert [row["tableName"] for row in run(session, f"SHOW TABLE EXTENDED IN {schema} LIKE '*'")] == ["made"]


def test_functions_that_sail_lacks_in_dml(session: EngineSession) -> None:
    session.execute("CREATE TABLE t (id INT, w STRING)")
    session.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    session.execute("DELETE FROM t AS d WHERE d.w LIKE ANY ('a%') AND d.id IN (SELECT id FROM t)")
    session.execute("UPDATE t SET w = decode(w, 'b', 'B', w) WHERE w NOT LIKE ALL ('c')")
    session.execute(
        "MERGE INTO t USING (SELECT 3 AS id) AS s ON t.id = s.id AND t.w LIKE ANY ('c') "
        "WHEN MATCHED THEN UPDATE SET w = concat(w, '!')"
    )
    assert session.execute("SELECT * FROM t ORDER BY id").table.to_pydict() == {
        "id": [2, 3],
        "w": ["B", "c!"],
    }


@pytest.mark.fault("C9")
def test_qualify_keeps_names_and_functions(session: EngineSession) -> None:
    session.execute("CREATE TABLE t AS SELECT 1 AS id, 'x' AS v, 200L AS n")
    items = "upper(v), conv(n, 10, 16), id + 1, v || 'y', count(*)"
    plain = session.execute(f"SELECT {items} FROM t GROUP BY id, v, n").table
    qualified = session.execute(
        f"SELECT {items} FROM t GROUP BY id, v, n QUALIFY row_number() OVER (ORDER BY id) = 1"
    ).table
    assert qualified.to_pylist() == plain.to_pylist()
    assert qualified.column_names[:2] == ["upper(v)", "conv(n, 10, 16)"]
    assert list(qualified.to_pylist()[0].values()) == ["X", "C8", 2, "xy", 1]


@pytest.mark.fault("C1")
@pytest.mark.reference_engine
@pytest.mark.parametrize(
    "expression",
    ["2147483647 + 1", "-2147483648 - 1", "9223372036854775807 + id", "9223372036854775807 * 2", "sum(n)"],
)
def test_an_overflow_of_integers_is_an_error(session: EngineSession, expression: str) -> None:
    session.execute("CREATE TABLE t AS SELECT 1L AS id, 9223372036854775807 AS n UNION ALL SELECT 2L, 1L")
    with pytest.raises(EngineError, match="OVERFLOW"):
        session.execute(f"SELECT {expression} AS x FROM t")


@pytest.mark.fault("C1")
@pytest.mark.parametrize("value", ["3000000000", "CAST(3000000000 AS BIGINT)", "1e10"])
def test_a_value_out_of_range_is_not_cast(session: EngineSession, value: str) -> None:
    session.execute("CREATE TABLE t (id INT)")
    for statement in (f"SELECT CAST({value} AS INT)", f"INSERT INTO t SELECT {value}"):
        with pytest.raises(EngineError, match="OVERFLOW"):
            session.execute(statement)
    assert session.execute("SELECT * FROM t").table.num_rows == 0

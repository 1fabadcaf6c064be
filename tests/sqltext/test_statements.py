from __future__ import annotations

import pytest

from databricks_rlm_agent.sqlflow.model import SqlFile
from databricks_rlm_agent.sqlflow.plan.files import sql_file, stage_of
from databricks_rlm_agent.sqltext.names import Name, shown
from databricks_rlm_agent.sqltext.statement import StatementKind


def read(text: str, **place: str) -> SqlFile:
    return sql_file("01_a.sql", text, **place)


def names(found: tuple[Name, ...]) -> set[str]:
    return {shown(name) for name in found}


@pytest.mark.parametrize(
    ("text", "reads", "writes", "makes"),
    [
        ("SELECT 1", "", "", ""),
        ("SELECT * FROM a JOIN c.s.b WHERE x IN (SELECT y FROM d)", "a c.s.b d", "", ""),
        ("CREATE OR REPLACE TABLE t USING DELTA CLUSTER BY AUTO AS SELECT * FROM a", "a", "t", "t"),
        ("CREATE TABLE IF NOT EXISTS t (a INT, CONSTRAINT k PRIMARY KEY (a)) USING DELTA", "", "t", "t"),
        ("REPLACE TABLE t AS SELECT /*+ BROADCAST(a) */ 10L FROM a -- b", "a", "t", "t"),
        ("CREATE TABLE t DEEP CLONE s VERSION AS OF 3", "s", "t", "t"),
        ("CREATE TABLE t LIKE s", "s", "t", "t"),
        ("CREATE OR REFRESH MATERIALIZED VIEW m AS SELECT * FROM a", "a", "m", "m"),
        ("CREATE VIEW v (a COMMENT 'x') AS SELECT 1 FROM a WHERE EXISTS (SELECT 1 FROM b)", "a b", "v", "v"),
        ("INSERT INTO t (a) VALUES (1)", "", "t", ""),
        ("INSERT OVERWRITE TABLE t SELECT * FROM a", "a", "t", ""),
        ("INSERT INTO t BY NAME SELECT * FROM a", "a", "t", ""),
        ("MERGE WITH SCHEMA EVOLUTION INTO t USING (SELECT * FROM a) s ON t.x = s.x WHEN MATCHED THEN DELETE",
         "a", "t", ""),
        ("UPDATE t SET a = (SELECT max(b) FROM u)", "u", "t", ""),
        ("DELETE FROM t WHERE a IN (SELECT a FROM t2)", "t2", "t", ""),
        ("TRUNCATE TABLE t", "", "t", ""),
        ("ALTER TABLE c.s.t RENAME TO u", "", "c.s.t c.s.u", "c.s.u"),
        ("ALTER TABLE t SET TBLPROPERTIES ('a' = 'b')", "", "t", ""),
        ("DROP TABLE IF EXISTS t", "", "t", ""),
        ("OPTIMIZE t ZORDER BY (a)", "", "t", ""),
        ("DESCRIBE HISTORY t", "t", "", ""),
        ("CREATE SCHEMA IF NOT EXISTS c.s", "", "c.s.*", "c.s.*"),
        ("DROP CATALOG c CASCADE", "", "c.*.*", ""),
        ("WITH a AS (SELECT * FROM b), c AS (SELECT * FROM a) SELECT * FROM c", "b", "", ""),
        ("WITH a AS (SELECT * FROM a) SELECT * FROM a", "a", "", ""),
        ("WITH a AS (SELECT 1) SELECT * FROM s.a", "s.a", "", ""),
        ("WITH RECURSIVE r AS (SELECT 1 FROM b UNION ALL SELECT n + 1 FROM r) SELECT * FROM r", "b", "", ""),
        ("SELECT * FROM (WITH a AS (SELECT * FROM b) SELECT * FROM a) JOIN a", "a b", "", ""),
        ("WITH a AS (SELECT * FROM b) INSERT INTO t SELECT * FROM a", "b", "t", ""),
        ("WITH a AS (SELECT * FROM b) MERGE INTO t USING a ON t.x = a.x WHEN MATCHED THEN DELETE", "b", "t",
         ""),
        ("SELECT * FROM IDENTIFIER('c.s.t')", "c.s.t", "", ""),
        ("SELECT * FROM delta.`/data/x`", "delta./data/x", "", ""),
        ("CREATE OR REPLACE TABLE `C`.`b c`.T AS FROM x SELECT a", "x", "c.b c.t", "c.b c.t"),
        ("SELECT f(1), s.g(x) FROM t", "t f() s.g()", "", ""),
        ("CREATE FUNCTION s.f() RETURNS INT LANGUAGE PYTHON AS $$ 'it' ; $$", "", "s.f()", "s.f()"),
        ("SET x = 1; DECLARE y INT; CACHE TABLE q", "q", "", ""),
        ("GRANT SELECT ON TABLE t TO `a b`", "t", "", ""),
        ("TABLE t", "t", "", ""),
        ("CONVERT TO DELTA t", "", "t", ""),
    ],
)  # fmt: skip
def test_what_a_statement_reads_and_writes(text: str, reads: str, writes: str, makes: str) -> None:
    file = read(text)
    assert file.problem is None
    assert names(file.makes) == ({makes} if makes else set())
    paths = {"c.b c.t"}  # the only ones with a gap
    assert names(file.writes) == ({writes} & paths or set(writes.split()))
    assert names(file.reads) == set(reads.split())


@pytest.mark.parametrize(
    "text",
    [
        "SELECT FROM WHERE",
        "BEGIN SELECT 1; END",
        "CALL p()",
        "EXECUTE IMMEDIATE 'DROP TABLE t'",
        "SELECT * FROM IDENTIFIER(:name)",
        "CREATE TABLE IDENTIFIER(:a || '.t') AS SELECT 1",
        "FROBNICATE t",
        "INSERT OVERWRITE DIRECTORY '/Volumes/a/b/c' USING csv SELECT 1",
        "SET VAR x = (SELECT max(a) FROM t)",
        "DECLARE x INT DEFAULT (SELECT 1 FROM t)",
        "ALTER VIEW v AS SELECT * FROM t",
    ],
)
def test_what_cannot_be_told_may_be_anything(text: str) -> None:
    file = read(f"SELECT 1;\n{text}")
    assert (file.problem or "").startswith("01_a.sql:2: ")
    assert ("*",) in file.reads
    assert ("*",) in file.writes


def test_names_are_those_of_the_session() -> None:
    file = read("USE CATALOG c; USE s; SELECT * FROM a; USE d.t; SELECT * FROM a, b.a; USE u; TABLE a")
    assert names(file.reads) == {"c.s.a", "d.t.a", "d.b.a", "d.u.a"}
    assert names(read("USE c.s; USE IDENTIFIER(:x); SELECT * FROM a").reads) == {"a"}
    assert names(read("SELECT * FROM a, b.a", catalog="C", schema="S").reads) == {"c.s.a", "c.b.a"}


def test_what_the_file_has_made_is_no_need() -> None:
    file = read(
        "CREATE TEMP VIEW v AS SELECT * FROM a; CREATE TABLE t AS TABLE v; CREATE TABLE u AS TABLE t;"
        "DROP TABLE t; DROP VIEW v; SELECT * FROM v"
    )
    assert names(file.reads) == {"a", "v"}
    assert names(file.makes) == {"u"}
    assert [statement.session_only for statement in file.statements][:2] == [True, False]


@pytest.mark.parametrize(
    ("text", "kind", "repeatable"),
    [
        ("CREATE OR REPLACE TABLE t AS SELECT * FROM a", StatementKind.REPLACE, True),
        ("CREATE OR REPLACE TABLE t AS SELECT * FROM t", StatementKind.REPLACE, False),
        ("CREATE TABLE t AS SELECT 1", StatementKind.CREATE, False),
        ("DROP TABLE IF EXISTS t", StatementKind.REPLACE, True),
        ("DROP TABLE t", StatementKind.DROP, False),
        ("INSERT INTO t SELECT 1", StatementKind.INSERT, False),
        ("INSERT OVERWRITE t SELECT 1", StatementKind.REPLACE, True),
        ("WITH a AS (SELECT 1) INSERT INTO t TABLE a", StatementKind.INSERT, False),
        ("DELETE FROM t WHERE a = 1", StatementKind.DELETE, True),
        ("UPDATE t SET a = a + 1", StatementKind.UPDATE, False),
        ("OPTIMIZE t", StatementKind.MAINTAIN, True),
        ("SELECT 1", StatementKind.QUERY, True),
        ("BEGIN SELECT 1; END", StatementKind.BLOCK, False),
    ],
)
def test_what_may_be_done_again(text: str, kind: StatementKind, repeatable: bool) -> None:
    (statement,) = read(text).statements
    assert statement.kind is kind
    assert statement.repeatable is repeatable


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("create /* x */ or replace\n temp table t as select 1", "CREATE OR REPLACE TEMP TABLE"),
        ("CREATE TABLE IF NOT EXISTS t AS SELECT 'IF'", "CREATE TABLE IF NOT EXISTS"),
        ("ALTER VIEW v AS SELECT 1", "ALTER VIEW"),
        ("BEGIN TRANSACTION", "BEGIN TRANSACTION"),
        ("begin select 1; end", "BEGIN"),
        ("call p()", "CALL P ( )"),
    ],
)
def test_first_words(text: str, words: str) -> None:
    (statement,) = read(text).statements
    assert statement.words == words


@pytest.mark.parametrize(
    ("name", "stage"),
    [("01_a.sql", 1), ("2-b.sql", 2), ("0010.sql", 10), ("03b_c.sql", 3), ("a_1.sql", None)],
)  # fmt: skip
def test_a_prefix_is_a_stage(name: str, stage: int | None) -> None:
    assert stage_of(name) == stage

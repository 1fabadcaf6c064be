"""Statements that carry their data are read by a part of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from databricks_rlm_agent.sqlflow.plan.files import sql_file
from databricks_rlm_agent.sqltext.reader import abbreviate, parse_query

ROW = "({}, 'from a; it''s \\' select {}', -{}.5e3, NULL, timestamp'2024-01-01', f(1, array({}, 2)))"
LITERALS = ["1", "- 2.5", "'a'", "'it''s from t'", "NULL", "true", "date '2024-01-01'", '"q"']


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO b VALUES {rows}",
        "CREATE OR REPLACE TABLE b AS SELECT * FROM VALUES {rows} AS t(a, b), other",
        "MERGE INTO b USING (SELECT * FROM (VALUES {rows}) AS s(a)) s ON b.a = s.a WHEN MATCHED THEN DELETE",
        "CREATE TABLE b AS SELECT * FROM t WHERE (a, b, c, d, e, f) IN ({rows}) AND x IN (SELECT y FROM u)",
    ],
)
def test_rows_that_are_written_out_are_not_parsed(text: str) -> None:
    many, few = (",\n".join(ROW.format(i, i, i, i) for i in range(count)) for count in (2_000, 3))
    plain = [" ".join(text.format(rows=rows).split()) for rows in (many, few)]
    file, other = (sql_file("1.sql", text.format(rows=rows), catalog="c", schema="s") for rows in (many, few))
    assert (file.reads, file.writes, file.problem) == (other.reads, other.writes, None)
    assert len(abbreviate(plain[0])) < len(plain[0])


def test_strings_do_not_make_an_insert_a_query() -> None:
    assert sql_file("1.sql", "INSERT INTO t VALUES ('select x from y')").reads == ()


@pytest.mark.parametrize("text", ["SELECT map('k')", "SELECT map(1, 2, 3) FROM t"])
def test_what_the_parser_stumbles_on_runs_alone(text: str) -> None:
    assert "parser" in (sql_file("1.sql", text).problem or "")


_rows = st.lists(
    st.lists(st.sampled_from(LITERALS), min_size=1, max_size=4).map(lambda row: f"( {' , '.join(row)} )"),
    min_size=1,
    max_size=40,
).map(" , ".join)


@settings(max_examples=60)
@given(_rows, st.lists(st.sampled_from(["a", "b . c", "`d e`"]), min_size=1, max_size=3))
def test_a_brief_statement_reads_the_same_tables(rows: str, tables: list[str]) -> None:
    text = f"CREATE TABLE x AS SELECT CASE a WHEN 'k' THEN 1 END FROM ( VALUES {rows} ) AS v , "
    text += " , ".join(tables) + f" WHERE a IN ( {rows} ) AND b = 1 AND c LIKE 'x' AND d IS NOT NULL"
    short = abbreviate(text, long=0)
    assert len(short) <= len(text)
    assert parse_query(short) == parse_query(text)

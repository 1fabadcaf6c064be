from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.runs.checks import MAX_CHARS, MAX_CHECKS, Check, parse_check, parse_checks

GOOD = [
    ("sql: SELECT count(*) > 0 FROM t", {"sql": "SELECT count(*) > 0 FROM t"}),
    ("sql:select true", {"sql": "select true"}),
    ("sql: SELECT 1 ;; -- twice", {"sql": "SELECT 1"}),
    ("sql: -- why\nSELECT 1 -- one\n", {"sql": "SELECT 1"}),
    ("sql: SELECT count(*) FROM größe => 42", {"sql": "SELECT count(*) FROM größe", "equals": "42"}),
    ("sql: SELECT a FROM t=>'New York'", {"sql": "SELECT a FROM t", "equals": "New York"}),
    ("sql: SELECT a FROM t => -1.5 ; -- so", {"sql": "SELECT a FROM t", "equals": "-1.5"}),
    ('sql: SELECT a FROM t => "it\'s"', {"equals": "it's"}),
    ("sql: SELECT '=> 5' = s FROM t", {"sql": "SELECT '=> 5' = s FROM t"}),
    (
        "sql: SELECT count(*) FROM read_files('/Volumes/a/b/c', format => 'csv') => 3",
        {"sql": "SELECT count(*) FROM read_files('/Volumes/a/b/c', format => 'csv')", "equals": "3"},
    ),
    ("sql: WITH a AS (SELECT 1 AS n) SELECT n = 1 FROM a", {}),
    ("sql: SELECT 'DROP TABLE x; DELETE FROM y' = s FROM t", {}),
    ("sql: SELECT 1 UNION ALL SELECT 2", {}),
    ("table: a.b.c", {"table": "a.b.c", "columns": (), "min_rows": 0}),
    ("table: a.b.c columns=x,y rows>=10", {"table": "a.b.c", "columns": ("x", "y"), "min_rows": 10}),
    ("table:a.b.c rows>=1", {"min_rows": 1}),
    ("file: /Volumes/a/b/c/my report.csv", {"path": "/Volumes/a/b/c/my report.csv", "min_bytes": 1}),
    ("file: /Volumes/a/b/c//d.csv bytes>=10", {"path": "/Volumes/a/b/c/d.csv", "min_bytes": 10}),
    ('{"kind": "sql", "sql": "SELECT true;"}', {"sql": "SELECT true"}),
    ('{"kind": "sql", "sql": "SELECT a FROM t", "equals": "x y"}', {"equals": "x y"}),
    ('{"kind": "table", "table": "a.b.c", "columns": ["x y"], "min_rows": 2}', {"columns": ("x y",)}),
    ('{"kind": "file", "path": "/Volumes/a/b/c/d", "min_bytes": 0}', {"min_bytes": 0}),
]


@pytest.mark.parametrize(("text", "expected"), GOOD)
def test_a_check(text: str, expected: dict) -> None:
    check = parse_check(text)
    assert {name: getattr(check, name) for name in expected} == expected
    if check.min_bytes:
        assert parse_check(json.dumps(check.model_dump(include=check.model_fields_set))) == check
    if not any(" " in column for column in check.columns):
        assert parse_check(str(check)) == check


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not an acceptance check"),
        ("SELECT 1", "not an acceptance check"),
        ("sql:", "cannot run"),
        ("sql: ; -- nothing", "cannot run"),
        ("sql: DELETE FROM t", "cannot run"),
        ("sql: EXPLAIN SELECT 1", "cannot run"),
        ("sql: SELECT 1; DROP TABLE x", "not one query"),
        ("sql: WITH a AS (SELECT 1) INSERT INTO x SELECT * FROM a", "change something"),
        ("sql: WITH a AS (DELETE FROM x RETURNING y) SELECT * FROM a", "change something|does not parse"),
        ("sql: SELECT * INTO x FROM y", "change something"),
        ("sql: SELECT", "not one query"),
        ("sql: SELECT (", "does not parse"),
        ("sql: SELECT 'open", "cannot be read"),
        ("sql: SELECT 1 =>", "nothing after"),
        ("sql: SELECT 1 => 2 => 3", "does not parse"),
        ("sql: SELECT :n", "parameter"),
        ("sql: SELECT ?", "parameter"),
        ("sql: SELECT http_request(conn => 'a')", "has effects"),
        ("sql: SELECT Reflect('java.lang.System', 'exit')", "has effects"),
        ("sql: SELECT " + "(" * 3_000 + "1" + ")" * 3_000, "nested|does not parse"),
        ("table: flights", "not a full table name"),
        ("table: a.b.c; DROP", "a name, columns and rows"),
        ("table: a.b.c columns=x,,y", "no name"),
        ("table: a.b.c rows>=-1", "a name, columns and rows"),
        ("table: a.b.`c`", "not a valid table name"),
        ("file: /etc/passwd", "not a path in a Volume"),
        ("file: /Volumes/a/b/c/../../x", "not a path in a Volume"),
        ("file:", "a path and a size"),
        ('{"kind": "shell"}', "does not parse"),
        ('{"kind": "sql", "sql": "SELECT 1", "rows": 3}', "does not parse"),
        ('{"kind": "sql", "sql": "SELECT 1", "min_rows": 3}', "has no 'min_rows'"),
        ('{"kind": "sql"}', "cannot run"),
        ("{", "does not parse"),
        ("file: /Volumes/a/b/c/\ud800", "not valid UTF-8"),
    ],
)
def test_what_is_no_check(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        parse_check(text)
    assert str(caught.value).encode()
    assert len(str(caught.value)) < 600


def test_bounds() -> None:
    assert len(parse_checks(["sql: SELECT true"] * MAX_CHECKS)) == MAX_CHECKS
    with pytest.raises(UsageError, match="17 checks"):
        parse_checks(["sql: SELECT true"] * (MAX_CHECKS + 1))
    with pytest.raises(UsageError, match="the limit is 8,000"):
        parse_checks(["sql: SELECT '" + "x" * MAX_CHARS + "'"])


TOKENS = """SELECT WITH a AS ( ) 1 => FROM t ; , ' " -- /* */ { INSERT INTO sql: table: file: rows>=1
columns= ` \\ : ? é"""
WORDS = st.sampled_from(TOKENS.split())


@given(st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=12).map(" ".join)), st.booleans())
def test_any_text_is_a_check_or_wrong_usage(text: str, sql: bool) -> None:
    try:
        check = parse_check(f"sql: SELECT {text}" if sql else text)
    except UsageError:
        return
    again = Check.model_validate_json(check.model_dump_json())
    assert again == check
    assert check.kind != "sql" or parse_check(f"sql: {check.sql}").sql == check.sql

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.sqltext.split import split


def texts(text: str) -> list[str]:
    return [piece.text for piece in split(text, "a.sql")]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", []),
        (" ;;\n; -- nothing ; here\n /* nor ; here */", []),
        ("SELECT 1", ["SELECT 1"]),
        ("SELECT 1; ", ["SELECT 1"]),
        ("SELECT ';', \"a;b\", `c;d`; SELECT 2", ["SELECT ';', \"a;b\", `c;d`", "SELECT 2"]),
        ("SELECT 'it''s;', 'a\\';b'; SELECT 2", ["SELECT 'it''s;', 'a\\';b'", "SELECT 2"]),
        ("SELECT r'\\;' ; SELECT 2", ["SELECT r'\\;'", "SELECT 2"]),
        ("-- a;b\nSELECT 1 -- c;d\n; SELECT 2 /* e;f */", ["SELECT 1", "SELECT 2"]),
        ("/* a /* b ; */ ; */ SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
        (
            "SELECT /* a;b */ 1; SELECT /*+ HINT(t) ; */ 2",
            ["SELECT /* a;b */ 1", "SELECT /*+ HINT(t) ; */ 2"],
        ),
        ("SELECT 1;\r\nSELECT\r\n 2;\r\n", ["SELECT 1", "SELECT\r\n 2"]),
        (
            "EXECUTE IMMEDIATE 'a;b' -- c;\n; SHOW TABLES LIKE ';'",
            ["EXECUTE IMMEDIATE 'a;b'", "SHOW TABLES LIKE ';'"],
        ),
        ("SELECT 10L; SELECT 1.5BD", ["SELECT 10L", "SELECT 1.5BD"]),
        ("x AS $$ a; 'b $$; y AS $t$ ; $$ $t$", ["x AS $$ a; 'b $$", "y AS $t$ ; $$ $t$"]),
        ("BEGIN TRANSACTION; COMMIT; BEGIN; ROLLBACK", ["BEGIN TRANSACTION", "COMMIT", "BEGIN", "ROLLBACK"]),
        ("SELECT CASE WHEN a THEN 1 END; SELECT 2", ["SELECT CASE WHEN a THEN 1 END", "SELECT 2"]),
        ("SELECT begin, t.end FROM t; SELECT 2", ["SELECT begin, t.end FROM t", "SELECT 2"]),
    ],
)
def test_statements_are_told_apart(text: str, wanted: list[str]) -> None:
    assert texts(text) == wanted


@pytest.mark.parametrize(
    "block",
    [
        "BEGIN SELECT 1; END",
        "BEGIN ATOMIC INSERT INTO t VALUES (1); END",
        "a: BEGIN SELECT 1; BEGIN SELECT 2; END; END a",
        "BEGIN IF x THEN SELECT 1; END IF; SELECT CASE WHEN a THEN 1 END; END",
        "BEGIN CASE x WHEN 1 THEN SELECT 1; ELSE SELECT CASE 1 WHEN 1 THEN 2 END; END CASE; END",
        "BEGIN WHILE a DO SELECT 1; END WHILE; FOR r AS SELECT 1 DO SELECT 2; END FOR; END",
        "BEGIN l: LOOP LEAVE l; END LOOP l; REPEAT SELECT 1; UNTIL true END REPEAT; END",
        "BEGIN DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN SELECT 1; END; SELECT a, end FROM t; END",
        "CREATE OR REPLACE PROCEDURE p() LANGUAGE SQL AS BEGIN SELECT 1; SELECT 2; END",
    ],
)
def test_a_block_is_one_statement(block: str) -> None:
    assert texts(f"SELECT 0; {block}; SELECT 3") == ["SELECT 0", block, "SELECT 3"]


def test_lines_are_those_of_the_first_words() -> None:
    text = "-- one\n\nSELECT '\n';\n;\n/* six\n*/ SELECT 2;\r\nSELECT 3"
    assert [piece.line for piece in split(text, "a.sql")] == [3, 7, 8]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("SELECT 1;\nSELECT 'a;\nSELECT 2", 2),
        ("SELECT 'a\n';\n\nSELECT `b", 4),
        ("SELECT 1 /* x\n", 1),
        ('SELECT 1;\n\n"a\\"', 3),
        ("a;\nx AS $$ y;\n", 2),
        ("SELECT 1;\nBEGIN\nSELECT 2;\n", 2),
    ],
)
def test_what_has_no_end_is_told_with_its_line(text: str, line: int) -> None:
    with pytest.raises(UsageError) as caught:
        split(text, "a.sql")
    assert caught.value.where == f"a.sql:{line}"


WORDS = st.sampled_from(
    [
        "SELECT",
        "a",
        "1",
        "'x;y'",
        '"q;"',
        "`n;m`",
        "(",
        ")",
        ",",
        "$$ ; ' $$",
        "/* in;ner */",
        "r'\\'",
        "10L",
        "end",
    ]
)
STATEMENTS = st.lists(WORDS, max_size=6).map(lambda words: " ".join(["SELECT", *words, "z"]))
GAPS = st.sampled_from(
    [";", " ; ", ";\n", ";;", "; -- so; so\n", ";/* out;er */\n", "\r\n;\r\n", "; /* a /* b */ c */ "]
)


@given(st.lists(st.tuples(STATEMENTS, GAPS), max_size=6))
def test_only_what_is_between_is_lost(parts: list[tuple[str, str]]) -> None:
    text = "".join(statement + gap for statement, gap in parts)
    pieces = split(text, "a.sql")
    assert [piece.text for piece in pieces] == [statement for statement, _ in parts]
    for piece in pieces:
        assert text.splitlines()[piece.line - 1].count(piece.text.split()[0])


@given(st.text(alphabet="SELECT ;'\"`$/*-\nabBEGINDx()", max_size=60))
def test_any_text_is_split_or_refused(text: str) -> None:
    try:
        pieces = split(text, "a.sql")
    except UsageError:
        return
    at = 0
    for piece in pieces:
        assert piece.text
        at = text.index(piece.text, at) + len(piece.text)
        assert piece.line == 1 + text.count("\n", 0, at - len(piece.text))

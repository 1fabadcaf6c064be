"""Rows that an INSERT writes out arrive as the engine itself would have written them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from local_workspace.engine import EngineError, EngineSession, literals, sailsql
from local_workspace.engine.literals import rows_in_a_file

ROWS = (
    """(1, 'it\\'s', 0.5, 1.5D, TRUE, DATE '2024-02-29', TIMESTAMP '2024-01-01 10:00:00', 12.34, 5, NULL)""",
    """(-2147483648, "b", -12.25, -1e3, false, NULL, NULL, -0.10, 9000000000, NULL)""",
    """(NULL, NULL, NULL, NULL, NULL, date'1969-12-31', TIMESTAMP '1960-01-01 00:00:01', 1.005, -7L, NULL)""",
    """(7, r'\\n', 100.125, .5e-2, true, DATE '2024-01-01', NULL, 99999999.99, 0, NULL)""",
)
COLUMNS = (
    "a INT, b STRING, c DOUBLE, d DOUBLE, e BOOLEAN, f DATE, g TIMESTAMP, h DECIMAL(10,2), i BIGINT, j DATE"
)


@pytest.mark.parametrize("columns", ["", " (b, a)"])
def test_rows_by_file_are_the_rows_by_text(
    session: EngineSession, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    rows = ROWS if not columns else ("('x', 1)", "(NULL, 2)")
    for table, limit in (("own", 10**9), ("filed", 0)):
        for module in (literals, sailsql):
            monkeypatch.setattr(module, "LARGE_INSERT", limit)
        session.execute(f"CREATE TABLE {table} ({COLUMNS})")
        result = session.execute(f"INSERT INTO {table}{columns} VALUES\n  {', '.join(rows)} -- all\n;")
        assert result.affected_rows == len(rows)
    one, other = (
        session.execute(f"SELECT * FROM {t} ORDER BY a").table.to_pylist() for t in ("own", "filed")
    )
    assert one == other
    assert len(session.execute("DESCRIBE HISTORY filed").table) == 2


@pytest.mark.parametrize(
    "rows", ["(1), (1, 2)", "(1 + 1)", "(1), ('a')", "(now())", "(NULL)", "(1),", "('a' 'b')", "(1"]
)
def test_rows_that_are_not_plain_literals_stay_in_the_text(
    rows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(literals, "LARGE_INSERT", 0)
    statement = f"INSERT INTO t VALUES {rows}"
    with rows_in_a_file(statement) as found:
        assert found is statement


def test_the_statement_selects_from_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(literals, "LARGE_INSERT", 0)
    with rows_in_a_file("INSERT INTO t (b, a) VALUES (1, NULL), (2, NULL)") as found:
        assert found.startswith("INSERT INTO t (b, a) SELECT _c0, NULL AS _c1 FROM parquet.`")


def test_no_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: EngineSession) -> None:
    monkeypatch.setattr(literals, "LARGE_INSERT", 0)
    monkeypatch.setattr(literals.tempfile, "tempdir", str(tmp_path))
    session.execute("CREATE TABLE t (a INT)")
    with pytest.raises(EngineError):
        session.execute("INSERT INTO t VALUES (1, 2)")
    assert not list(tmp_path.iterdir())


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(alphabet="(),'1a.-;NULL \\", max_size=20))
def test_no_text_makes_the_reader_fail(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(literals, "LARGE_INSERT", 0)
    with rows_in_a_file(f"INSERT INTO t VALUES {text}") as found:
        assert found

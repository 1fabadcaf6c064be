"""What strangers' directories, addresses and loops have, over fakes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlflow_rig import FakeEngine, FakeSession, MemoryRecord, file_of, loop_step, plan, runner

from databricks_rlm_agent.databricks import sql as sqlsessions
from databricks_rlm_agent.databricks.sql import WarehouseEngine
from databricks_rlm_agent.errors import Rejected, Unreachable, UsageError
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.sqlflow.handover import read_directory
from databricks_rlm_agent.sqlflow.model import Iteration
from databricks_rlm_agent.sqlflow.run.measures import ChangeCounter
from databricks_rlm_agent.sqlflow.run.outcome import LoopEnd, Measure
from databricks_rlm_agent.sqlflow.run.workflow import verify_place
from databricks_rlm_agent.sqltext.errors import Cause, classify


class Table:
    """A table of one column: what its loop does to it, and what it looks like."""

    def __init__(self, contents: Sequence[str], affected: Sequence[int | None]) -> None:
        self.contents, self.affected = list(contents), list(affected)

    def execute(self, sql: str, _session: FakeSession) -> int | None:
        return self.affected.pop(0) if sql.startswith("UPDATE") else None

    def fetch(self, sql: str) -> Sequence[Mapping[str, Any]]:
        if sql.startswith("DESCRIBE TABLE"):
            return [{"col_name": "x", "data_type": "int", "comment": None}]
        return [{"n": 1, "h": self.contents.pop(0) if "xxhash64" in sql else None}]


@pytest.mark.parametrize(
    ("contents", "affected", "changed", "end"),
    [
        ("abb", [3, 2, 0], [3, 2, 0], LoopEnd.CONVERGED),
        ("abb", [3, 2, 7], [3, 2, 0], LoopEnd.CONVERGED),  # the same rows were written once more
        ("abb", [None, None, None], [None, None, 0], LoopEnd.CONVERGED),  # the warehouse does not say
        ("abcc", [0, 0, 0, 0], [None, None, None, 0], LoopEnd.CONVERGED),  # another statement changed it
        ("aba", [1, 1, 1], [1, 1, 1], LoopEnd.OSCILLATING),
        ("abc", [1, 1, 1], [1, 1, 1], LoopEnd.NOT_CONVERGED),
    ],
)
def test_a_loop_in_place_ends_when_its_table_stays_as_it_is(
    contents: str, affected: list[int | None], changed: list[int | None], end: LoopEnd
) -> None:
    table = Table(contents, affected)
    made = loop_step("4_iter", ["UPDATE t SET x = x - 1 WHERE x > 0"])
    engine = FakeEngine(on_execute=table.execute, on_fetch=table.fetch)
    report = runner(plan(made), engine, max_iterations=3 + (len(contents) > 3)).run()
    assert [measure.changed for measure in report.steps[0].iterations] == changed
    assert report.steps[0].end is end


def test_a_loop_in_place_goes_on_from_what_was_measured_last() -> None:
    table = Table("b", [])
    measurer = ChangeCounter(RetryingSession(FakeEngine(on_fetch=table.fetch).session, lambda _s: None))
    name = ("main", "default", "t")
    now = Iteration(
        number=3,
        file=file_of("4_iter_3.sql", "UPDATE t SET x = 1"),
        generated=True,
        table=name,
        before=name,
        convergence=None,
    )
    last = Measure(n=2, changed=1, rows=1, fingerprint="b")
    assert measurer.measure(now, affected=5, last=last).changed == 0


def test_what_is_no_file_is_an_error_and_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "1_a.sql").write_text("SELECT 1")
    (tmp_path / "x.sql").mkdir()
    assert read_directory(tmp_path).notices == ("x.sql/ is not looked into.",)
    (tmp_path / "2_b.sql").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="a link to what is not there"):
        read_directory(tmp_path)
    (tmp_path / "2_b.sql").unlink()
    for name in ("2_b.sql", "workflow.yml"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(UsageError, match="no regular file"):
            read_directory(tmp_path)
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    ("message", "line", "shown"),
    [
        (
            "[PARSE_SYNTAX_ERROR] Syntax error at or near '='. SQLSTATE: 42601 (line 3, pos 9)",
            12,
            "WHERE a = = 1",
        ),
        ("[UNRESOLVED_COLUMN.WITH_SUGGESTION] … SQLSTATE: 42703; line 2 pos 7", 11, "FROM t"),
        ("[PARSE_SYNTAX_ERROR] Syntax error (line 1, pos 9)", 10, "SELECT a FROM t WHERE a = = 1"),
        ("[PARSE_SYNTAX_ERROR] Syntax error (line 99, pos 9)", 10, "SELECT a FROM t WHERE a = = 1"),
    ],
)
def test_an_error_has_its_own_line(message: str, line: int, shown: str) -> None:
    problem = classify(Rejected(message), file="1.sql", line=10, statement="SELECT a\nFROM t\nWHERE a = = 1")
    assert (problem.line, problem.statement) == (line, shown)


def test_a_missing_column_is_not_looked_for_in_the_catalog() -> None:
    problem = classify(Rejected("[UNRESOLVED_COLUMN.WITHOUT_SUGGESTION] x"), statement="SELECT x")
    assert problem.kind is Cause.MISSING
    assert "column" in problem.hint


def test_what_cannot_be_a_schema_is_wrong_usage() -> None:
    def refuse(sql: str, _session: FakeSession) -> int | None:
        if sql.startswith("USE SCHEMA"):
            raise Rejected("[INVALID_PARAMETER_VALUE] 'a b' is not a valid name")
        return None

    with pytest.raises(UsageError, match="schema main") as caught:
        verify_place(FakeEngine(on_execute=refuse), ("main", "a b"), lambda prefix: f"{prefix}1")
    assert caught.value.exit_code == 2


class Place:
    host = "https://example.test"

    def renewing(self, work: Any) -> Any:
        return work(None)


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("Error during request to server, HTTP 404.", "no SQL warehouse /sql/1.0/x", "--http-path"),
        ("Error during request to server.", "not a Databricks SQL warehouse", "--server-hostname"),
        ("Connection refused.", "Connection refused", ""),
    ],
)
def test_an_address_that_is_no_warehouse_is_explained(
    monkeypatch: pytest.MonkeyPatch, text: str, what: str, fix: str
) -> None:
    def refuse(*_args: Any, **_options: Any) -> Any:
        raise Unreachable(text)

    monkeypatch.setattr(sqlsessions, "_connect", refuse)
    with pytest.raises(Unreachable, match=what) as caught:
        WarehouseEngine(Place(), http_path="sql/1.0/x").session()  # type: ignore[arg-type]
    assert fix in (caught.value.fix or "")
    assert caught.value.exit_code == 3


def test_a_loop_from_zero_is_gone_on_with_where_it_was() -> None:
    texts = [
        "CREATE OR REPLACE TABLE l_0 AS SELECT 1 AS x",
        "CREATE OR REPLACE TABLE l_1 AS SELECT * FROM l_0",
    ]
    made = plan(loop_step("4_iter", texts, first=0, convergence="SELECT {iteration} AS n"))
    record = MemoryRecord()
    failing = {"CREATE OR REPLACE TABLE l_3"}

    def execute(sql: str, _session: FakeSession) -> int | None:
        if sql.startswith(tuple(failing)):
            raise Rejected("[DIVIDE_BY_ZERO] no")
        return None

    def fetch(sql: str) -> Sequence[Mapping[str, Any]]:
        if sql.startswith("DESCRIBE"):
            return [{"col_name": "x", "data_type": "int", "comment": None}]
        asked = sql.split()[1]  # the convergence query: how far it is to iteration 4
        return [{"n": 4 - int(asked)} if asked.isdigit() else {"n": 1, "h": sql}]

    engine = FakeEngine(on_execute=execute, on_fetch=fetch)
    assert runner(made, engine, record).run().exit_code == 1
    assert record.done() == ["4_iter#1", "4_iter#2", "4_iter#3"]  # the iterations 0, 1 and 2
    failing.clear()
    engine.ran.clear()
    report = runner(made, engine, record, resume=True).run()
    assert [measure.n for measure in report.steps[0].iterations] == [0, 1, 2, 3, 4]
    assert [sql[:27] for sql in engine.ran if " l_" in sql[:26]] == [
        f"CREATE OR REPLACE TABLE l_{n}" for n in (3, 4)
    ]

"""What is done about statements whose effect is in doubt, or was done with another text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlflow_rig import MemoryRecord, file_of, loop_step, plan, runner, step
from sqlflow_world import Killed, World

from databricks_rlm_agent.sqlflow.model import Step
from databricks_rlm_agent.sqlflow.run.checkpoints import new_checkpoint, required_checkpoints
from databricks_rlm_agent.sqlflow.run.outcome import LoopEnd, Report, RunStatus
from databricks_rlm_agent.sqlflow.run.runner import FailureDecision
from databricks_rlm_agent.sqlflow.run.versions import (
    Checkpoint,
    Commit,
    Effect,
    StatementOutcome,
    TableState,
    commit_of,
    is_undone,
    judge_effect,
)
from databricks_rlm_agent.sqltext.errors import Cause
from databricks_rlm_agent.sqltext.statement import StatementKind

GOOD = RunStatus.SUCCEEDED


class Life:
    """A warehouse with a table ``t``, and the record of one workflow run."""

    def __init__(self) -> None:
        self.world, self.record = World(), MemoryRecord()
        self.world.make("t", (1,), "CREATE TABLE")

    def run(self, *steps: Step, **options: Any) -> Report:
        made = runner(plan(*steps), self.world, self.record, max_parallel=1, run_id="w1", **options)
        return made.run()

    def dies(self, when: str, part: str, *steps: Step) -> None:
        def die(now: str, sql: str) -> None:
            if now == when and part in sql:
                raise Killed(sql)

        self.world.die = die
        with pytest.raises(Killed):
            self.run(*steps)
        self.world.die = lambda _when, _sql: None

    def rows(self, table: str = "t") -> list[int]:
        return sorted(self.world.of(table).rows)

    def restore(self, version: int, table: str = "t") -> None:
        made = self.world.of(table)
        made.add("RESTORE", made.commits[version].rows, 0, version=str(version))


def problem_of(report: Report) -> Any:
    (problem,) = [outcome.problem for outcome in report.steps if outcome.problem is not None]
    assert problem is not None
    return problem


def test_a_corrected_file_goes_on_after_what_it_has_done() -> None:
    life = Life()
    bad = step("01_a.sql", "INSERT INTO t VALUES (7); SELEC 1; INSERT INTO t VALUES (8)")
    assert life.run(bad).status is RunStatus.FAILED
    assert life.run(bad).status is RunStatus.FAILED  # it runs from where it stands, every time
    good = step("01_a.sql", "INSERT INTO t VALUES (7); INSERT INTO t VALUES (9); INSERT INTO t VALUES (8)")
    assert life.run(good).status is GOOD
    assert life.rows() == [1, 7, 8, 9]
    assert life.world.commits()["t"] == ["CREATE TABLE", "WRITE", "WRITE", "WRITE"]


def test_a_retry_in_the_same_run_goes_on_after_what_is_done() -> None:
    life = Life()
    refused = [True]

    def die(when: str, sql: str) -> None:
        if when == "before" and "VALUES (8)" in sql and refused:
            refused.clear()
            life.world.start("SELEC")

    life.world.die = die
    report = life.run(
        step("01_a.sql", "INSERT INTO t VALUES (7); INSERT INTO t VALUES (8)"),
        decide=lambda _step, _outcome: FailureDecision.RETRY,
    )
    assert report.status is GOOD
    assert life.rows() == [1, 7, 8]


def test_a_statement_that_was_changed_after_it_took_effect() -> None:
    life = Life()
    life.dies("after", "INSERT", step("01_a.sql", "INSERT INTO t VALUES (7)"))
    other = step("01_a.sql", "INSERT INTO t VALUES (8)")
    for _again in range(2):  # to try again is no answer
        problem = problem_of(life.run(other))
        assert (problem.kind, problem.line) == (Cause.DOUBT, 1)
        assert "RESTORE TABLE `main`.`default`.`t` TO VERSION AS OF 0" in problem.hint
    assert life.rows() == [1, 7]
    life.restore(0)
    assert life.run(other).status is GOOD
    assert life.rows() == [1, 8]


def test_changing_the_text_resolves_a_reported_doubt() -> None:
    life = Life()
    life.dies("after", "INSERT", step("01_a.sql", "INSERT INTO t VALUES (7)"))
    life.world.of("t").add("WRITE", (1, 7, 70), 1, mode="Append")  # another writer
    for _again in range(2):
        assert "not known" in problem_of(life.run(step("01_a.sql", "INSERT INTO t VALUES (7)"))).message
    assert life.run(step("01_a.sql", "INSERT INTO t VALUES (9)")).status is GOOD
    assert life.rows() == [1, 7, 9, 70]


def test_a_statement_in_doubt_may_be_removed() -> None:
    life = Life()
    both = step("01_a.sql", "BEGIN INSERT INTO t VALUES (7); END; CREATE OR REPLACE TABLE s AS VALUES (1)")
    life.dies("before", "BEGIN", both)
    assert problem_of(life.run(both)).kind is Cause.DOUBT
    assert life.run(step("01_a.sql", "CREATE OR REPLACE TABLE s AS VALUES (1)")).status is GOOD


def test_an_effect_without_a_history_is_recorded_when_it_is_done() -> None:
    life = Life()
    file = step("01_a.sql", "SET x = 1; CALL p(); SELEC 1")
    start = life.world.start
    life.world.start = lambda sql: start(sql.replace("CALL p()", "SELECT 1"))  # type: ignore[method-assign]
    sent: list[str] = []
    life.world.die = lambda when, sql: sent.append(sql) if when == "before" else None
    assert life.run(file).status is RunStatus.FAILED
    assert life.run(step("01_a.sql", "SET x = 1; CALL p(); SELECT 1")).status is GOOD
    assert sent.count("CALL p()") == 1
    assert sent.count("SET x = 1") == 2


@pytest.mark.parametrize("op", ["OPTIMIZE", "VACUUM END", "SET TBLPROPERTIES", "ADD COLUMNS"])
def test_commits_that_change_no_row_do_not_count(op: str) -> None:
    life = Life()
    file = step("01_a.sql", "INSERT INTO t VALUES (7)")
    life.dies("before", "INSERT", file)
    life.world.of("t").add(op, life.world.of("t").rows, 0)
    assert life.run(file).status is GOOD
    assert life.rows() == [1, 7]
    life.dies("after", "INSERT", step("02_a.sql", "INSERT INTO t VALUES (8)"))
    life.world.of("t").add(op, life.world.of("t").rows, 0)
    assert life.run(step("02_a.sql", "INSERT INTO t VALUES (8)")).status is GOOD
    assert life.rows() == [1, 7, 8]


def test_a_file_changed_before_what_it_has_done_begins_again_when_that_is_undone() -> None:
    life = Life()
    life.dies("after", "INSERT INTO t SELECT", step("01_a.sql", "CREATE OR REPLACE TABLE a AS VALUES (2);"
        "INSERT INTO t SELECT * FROM a; INSERT INTO t VALUES (9)"))  # fmt: skip
    changed = step("01_a.sql", "CREATE OR REPLACE TABLE a AS VALUES (3); INSERT INTO t SELECT * FROM a")
    assert "has changed up to line" in problem_of(life.run(changed)).message
    life.restore(0)
    assert life.run(changed).status is GOOD
    assert life.rows() == [1, 3]


def test_a_file_that_makes_the_table_anew_now_needs_nothing_undone() -> None:
    life = Life()
    life.dies("after", "INSERT", step("01_a.sql", "INSERT INTO t VALUES (7)"))
    assert life.run(step("01_a.sql", "CREATE OR REPLACE TABLE t AS VALUES (5)")).status is GOOD
    assert life.rows() == [5]


def test_what_an_earlier_file_has_changed_for() -> None:
    """A step that is done, and not safe to repeat, must run again: it may if its table was made anew."""
    life = Life()
    add = step("02_b.sql", "INSERT INTO t VALUES (7)", "01_a.sql")
    bad = step("03_c.sql", "SELEC 1")
    first = step("01_a.sql", "CREATE OR REPLACE TABLE t AS VALUES (5)")
    life.run(first, add, bad)
    assert life.run(step("01_a.sql", "CREATE OR REPLACE TABLE t AS VALUES (6)"), add).status is GOOD
    assert life.rows() == [6, 7]
    life = Life()
    life.run(step("01_a.sql", "SELECT 1"), add, bad)
    report = life.run(step("01_a.sql", "SELECT 2"), add)
    assert "comes after has changed" in problem_of(report).message
    life.restore(0)
    assert life.run(step("01_a.sql", "SELECT 2"), add).status is GOOD
    assert life.rows() == [1, 7]


def test_values_that_a_session_has_read_cannot_be_read_again() -> None:
    life = Life()
    texts = (
        "CREATE TEMPORARY TABLE x AS SELECT * FROM t; INSERT INTO t SELECT * FROM t; INSERT INTO t VALUES (9)"
    )
    life.dies("after", "INSERT INTO t SELECT", step("01_a.sql", texts))
    assert "cannot be read again" in problem_of(life.run(step("01_a.sql", texts))).message


def in_place(text: str, convergence: str = "SELECT sum(v) FROM t") -> Step:
    return loop_step("01_loop", [text], convergence=convergence)


def test_the_iterations_of_another_text_do_not_count() -> None:
    life = Life()
    life.world.make("t", (9, 9), "CREATE TABLE")  # version 1
    down = in_place("UPDATE t SET v = v - 1 WHERE v > 0")
    report = life.run(down, max_iterations=3)
    assert report.steps[0].end is LoopEnd.NOT_CONVERGED
    other = in_place("UPDATE t SET v = v - 1 WHERE v > 0 AND true")
    assert "RESTORE TABLE `main`.`default`.`t` TO VERSION AS OF 1" in problem_of(life.run(other)).hint
    life.restore(1)
    report = life.run(other)
    assert report.status is GOOD
    assert [measure.n for measure in report.steps[0].iterations] == list(range(1, 10))
    assert life.rows() == [0, 0]


def test_a_failed_measure_is_repeated_when_its_query_is_corrected() -> None:
    life = Life()
    life.world.make("t", (2, 1), "CREATE TABLE")
    broken = in_place("UPDATE t SET v = v - 1 WHERE v > 0", "SELECT sum(v) FROM nowhere")
    later = step("02_b.sql", "CREATE OR REPLACE TABLE b AS VALUES (1)")
    report = life.run(broken, later, decide=lambda _step, _outcome: FailureDecision.CONTINUE)
    assert (report.steps[0].end, report.steps[1].status.value) == (LoopEnd.MEASURE_FAILED, "done")
    report = life.run(in_place("UPDATE t SET v = v - 1 WHERE v > 0"), later)
    assert report.status is GOOD
    assert life.rows() == [0, 0]
    assert life.world.commits()["t"].count("UPDATE") == 2


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("CREATE OR REPLACE TABLE a AS SELECT * FROM s; INSERT INTO a VALUES (1)", {}),
        ("INSERT INTO t VALUES (1); CREATE OR REPLACE TABLE s AS SELECT * FROM t", {0: False}),
        ("INSERT INTO t VALUES (1); DELETE FROM t WHERE v = 1", {0: False, 1: True}),
        ("CREATE OR REPLACE TABLE s AS SELECT * FROM t; DELETE FROM t WHERE v = 1", {1: True}),
        ("CREATE TEMP VIEW x AS SELECT * FROM t; CREATE OR REPLACE TABLE t AS SELECT * FROM x", {1: False}),
        ("INSERT OVERWRITE t SELECT v + 1 FROM t", {0: False}),
        ("DROP TABLE t; CREATE TABLE t (a INT); INSERT INTO t VALUES (1)", {}),
        ("CREATE TABLE t (a INT); INSERT INTO t VALUES (1)", {0: False, 1: False}),
        ("CREATE FUNCTION f() RETURNS INT RETURN 1; CREATE SCHEMA main.x; DROP TABLE y", {}),
        ("BEGIN TRANSACTION; INSERT INTO t VALUES (1); COMMIT", {0: False}),
        ("INSERT INTO t VALUES (1); OPTIMIZE t; SELECT * FROM t", {0: False}),
        ("REFRESH MATERIALIZED VIEW m", {}),
        ("CALL p()", {0: False}),
        ("ALTER VIEW v AS SELECT 1 AS a", {}),
        ("ALTER VIEW v RENAME TO w", {0: False}),
    ],
)
def test_where_notes_are_due(text: str, due: dict[int, bool]) -> None:
    assert required_checkpoints(file_of("01_a.sql", text)) == due


def test_a_note_survives_its_record() -> None:
    file = file_of("01_a.sql", "INSERT INTO t VALUES (1); ALTER TABLE t RENAME TO u")
    for index in (0, 1):
        note = new_checkpoint(file, index, safe=False, rows={"t": 3}, first=True)
        assert Checkpoint.from_dict(note.to_dict()) == note


def note(kind: StatementKind = StatementKind.INSERT, **more: Any) -> Checkpoint:
    fields = {"table": ("t",), "existed": True, "version": 0, "at": "a0", **more}
    return Checkpoint(index=0, before="", statement="", kind=kind, line=1, **fields)


def commits(*operations: str) -> TableState:
    made = [Commit(version=n, at=f"a{n}", operation=each) for n, each in enumerate(operations)]
    return TableState(exists=True, commits=tuple(reversed(made)))


@pytest.mark.parametrize(
    ("kind", "now", "effect"),
    [
        (StatementKind.INSERT, commits("CREATE TABLE"), Effect.NONE),
        (StatementKind.INSERT, commits("CREATE TABLE", "WRITE"), Effect.TAKEN),
        (StatementKind.INSERT, commits("CREATE TABLE", "WRITE", "OPTIMIZE", "VACUUM START"), Effect.TAKEN),
        (StatementKind.INSERT, commits("CREATE TABLE", "WRITE", "WRITE"), Effect.DOUBT),
        (StatementKind.INSERT, commits("CREATE TABLE", "MERGE"), Effect.DOUBT),
        (StatementKind.MERGE, commits("CREATE TABLE", "MERGE"), Effect.TAKEN),
        (StatementKind.UPDATE, commits("CREATE TABLE", "UPDATE"), Effect.TAKEN),
        (StatementKind.DELETE, commits("CREATE TABLE", "DELETE"), Effect.TAKEN),
        (StatementKind.REPLACE, commits("CREATE TABLE", "CREATE OR REPLACE TABLE AS SELECT"), Effect.TAKEN),
        (StatementKind.ALTER, commits("CREATE TABLE", "ADD COLUMNS"), Effect.TAKEN),
        (StatementKind.ALTER, commits("CREATE TABLE", "UPGRADE PROTOCOL", "SET TBLPROPERTIES"), Effect.TAKEN),
        (StatementKind.ALTER, commits("CREATE TABLE", "WRITE"), Effect.DOUBT),
        (StatementKind.ALTER, commits("CREATE TABLE", "OPTIMIZE"), Effect.NONE),
        (StatementKind.INSERT, TableState(exists=False), Effect.DOUBT),
        (StatementKind.INSERT, TableState(exists=True), Effect.DOUBT),
    ],
)
def test_judgements(kind: StatementKind, now: TableState, effect: Effect) -> None:
    assert judge_effect(note(kind), now).effect is effect


def test_a_fence_is_no_alter_and_another_table_is_in_doubt() -> None:
    fence = Commit(version=1, at="a1", operation="SET TBLPROPERTIES", parameters={"properties": "rlm.fence"})
    now = TableState(exists=True, commits=(fence, *commits("CREATE TABLE").commits))
    assert judge_effect(note(StatementKind.ALTER), now).effect is Effect.NONE
    assert judge_effect(note(at="before"), commits("CREATE TABLE", "WRITE")).effect is Effect.DOUBT
    assert (
        judge_effect(note(at="before", outcome=StatementOutcome.UNDONE), commits("CREATE TABLE")).effect
        is Effect.NONE
    )


def test_views_and_names() -> None:
    view, gone = TableState(exists=True), TableState(exists=False)
    renamed = note(StatementKind.ALTER, new=("u",), version=None, at=None)
    assert judge_effect(renamed, view, gone).effect is Effect.NONE
    assert judge_effect(renamed, gone, view).effect is Effect.TAKEN
    assert judge_effect(renamed, view, view).effect is Effect.DOUBT
    table = note(StatementKind.ALTER, new=("u",))
    assert judge_effect(table, gone, commits("CREATE TABLE")).effect is Effect.TAKEN
    assert judge_effect(table, commits("CREATE TABLE"), view).effect is Effect.NONE
    made = note(StatementKind.CREATE, existed=False, version=None, at=None)
    assert judge_effect(made, gone).effect is Effect.NONE
    assert judge_effect(made, view).effect is Effect.TAKEN
    assert judge_effect(made, commits("CREATE TABLE", "WRITE")).effect is Effect.DOUBT


OPS = ["WRITE", "MERGE", "OPTIMIZE", "SET TBLPROPERTIES", "RESTORE 0", "RESTORE 1", "RESTORE 2"]


@given(
    st.lists(st.sampled_from(OPS), max_size=7), st.sampled_from([StatementKind.INSERT, StatementKind.MERGE])
)
def test_nothing_is_left_only_where_no_row_is(operations: list[str], kind: StatementKind) -> None:
    """Against a table that holds the versions that wrote it."""
    held: list[frozenset[int]] = [frozenset()]
    made = []
    for version, name in enumerate(operations, start=1):
        operation, restored = ("RESTORE", name[-1]) if "RESTORE" in name else (name, "")
        if restored and int(restored) >= version:
            operation, restored = "OPTIMIZE", ""
        more = {version} if operation in {"WRITE", "MERGE"} else set()
        held.append(held[int(restored)] if restored else held[-1] | more)
        made.append(
            Commit(
                version=version,
                at=f"a{version}",
                operation=operation,
                parameters={"version": restored} if restored else {},
            )
        )
    now = TableState(exists=True, commits=(*reversed(made), *commits("CREATE TABLE").commits))
    effect = judge_effect(note(kind), now).effect
    assert (effect is Effect.NONE) == (not held[-1])
    if effect is Effect.TAKEN:
        (version,) = held[-1]
        assert operations[version - 1] == {StatementKind.INSERT: "WRITE", StatementKind.MERGE: "MERGE"}[kind]
    assert is_undone(note(kind), now) or held[-1]


def test_rows_of_a_history_come_as_pairs() -> None:
    row = {
        "version": 3,
        "timestamp": "t",
        "operation": "merge",
        "operationParameters": [("a", None)],
        "operationMetrics": [("numTargetRowsInserted", "2"), ("numTargetRowsUpdated", "1")],
    }
    found = commit_of(row)
    assert (found.version, found.operation, found.rows, found.parameters) == (3, "MERGE", 3, {})

"""The record that is written in the background while the next steps run."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlflow_rig import WAIT_S, FakeEngine, MemoryRecord, loop_step, plan, runner, step

from databricks_rlm_agent.errors import Unreachable
from databricks_rlm_agent.sqlflow.model import Plan
from databricks_rlm_agent.sqlflow.plan.plan import SqlSource, plan_of
from databricks_rlm_agent.sqlflow.run.outcome import RunStatus
from databricks_rlm_agent.sqlflow.run.record import (
    DONE,
    DeferrableRows,
    StepRow,
    WriteBehindRecord,
    deferrable_rows,
)
from databricks_rlm_agent.sqlflow.run.sessions import TakenOverError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("a", "b", "c")


def row(name: str, status: str = DONE, iteration: int = 0) -> StepRow:
    return StepRow(
        step=name,
        iteration=iteration,
        status=status,
        file=name,
        sha256="0",
        started_at=NOW,
        finished_at=NOW,
    )


class Slow(MemoryRecord):
    """Writes when it may; remembers what it was given at once."""

    def __init__(self) -> None:
        super().__init__()
        self.may, self.begun = threading.Event(), threading.Event()
        self.commits: list[list[str]] = []

    def append(self, rows: Sequence[StepRow]) -> None:
        self.begun.set()
        assert self.may.wait(WAIT_S)
        self.commits.append([each.step for each in rows])
        super().append(rows)


def test_deferrable_rows_are_written_together_in_the_background() -> None:
    record = Slow()
    write_behind = WriteBehindRecord(record, DeferrableRows(steps=frozenset(NAMES)))
    write_behind.append([row("a")])
    assert record.begun.wait(WAIT_S)
    write_behind.append([row("b")])
    write_behind.append([row("c")])
    assert record.rows == []
    record.may.set()
    write_behind.end("succeeded", {})
    assert record.commits == [["a"], ["b", "c"]]
    assert record.status == "succeeded"


@pytest.mark.parametrize("waited_for", [row("z"), row("a", "begun"), row("a", "failed"), row("a", "void")])
def test_other_rows_are_durable_at_once_with_all_rows_before_them(waited_for: StepRow) -> None:
    record = MemoryRecord()
    write_behind = WriteBehindRecord(record, DeferrableRows(steps=frozenset(NAMES)))
    write_behind.append([row("b")])
    write_behind.append([waited_for])
    assert record.rows == [row("b"), waited_for]


def test_an_iteration_is_durable_before_the_one_after_the_next_begins() -> None:
    record = Slow()
    write_behind = WriteBehindRecord(record, DeferrableRows(loops=frozenset({"loop"})))
    write_behind.append([row("loop", iteration=1)])
    ended = threading.Thread(target=write_behind.append, args=([row("loop", iteration=2)],))
    ended.start()
    ended.join(0.05)
    assert ended.is_alive()
    record.may.set()
    ended.join(WAIT_S)
    assert record.rows[0] == row("loop", iteration=1)
    write_behind.end("succeeded", {})


def test_an_error_of_a_write_is_raised_and_its_rows_are_written_later() -> None:
    record = MemoryRecord()
    write_behind = WriteBehindRecord(record, DeferrableRows(steps=frozenset(NAMES)))

    def fail(_rows: Sequence[StepRow]) -> None:
        raise Unreachable("Nothing answers.")

    record.before_write = fail
    write_behind.append([row("a")])
    with pytest.raises(Unreachable):
        write_behind.end("succeeded", {})
    with pytest.raises(Unreachable):
        write_behind.check_owner()
    with pytest.raises(Unreachable):
        write_behind.append([row("b")])  # it may be deferrable_rows, but not after that
    record.before_write = lambda _rows: None
    write_behind.append([row("z")])
    write_behind.check_owner()
    assert [each.step for each in record.rows] == ["a", "b", "z"]


def test_a_takeover_is_noticed_by_a_write_in_the_background() -> None:
    record = MemoryRecord()
    write_behind = WriteBehindRecord(record, DeferrableRows(steps=frozenset(NAMES)))
    record.taken_over = True
    write_behind.append([row("a")])
    with pytest.raises(TakenOverError):
        write_behind.end("succeeded", {})
    with pytest.raises(TakenOverError):
        write_behind.check_owner()


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.booleans()), max_size=12))
def test_rows_become_durable_in_their_order(
    given_rows: list[tuple[str, bool]],
) -> None:
    record = MemoryRecord()
    write_behind = WriteBehindRecord(record, DeferrableRows(steps=frozenset(NAMES)))
    rows = [row(name, DONE if done else "failed") for name, done in given_rows]
    for each in rows:
        write_behind.append([each])
    write_behind.end("failed", {})
    assert record.rows == rows


def test_a_whole_workflow_is_on_record_at_its_end() -> None:
    made = plan(
        step("01_a.sql", make("a", "src")), step("02_b.sql", make("b", "a")), step("03_c.sql", make("c", "b"))
    )
    record = MemoryRecord()
    report = runner(made, FakeEngine(), WriteBehindRecord(record, deferrable_rows(made))).run()
    assert report.status is RunStatus.SUCCEEDED
    assert record.done() == ["01_a.sql#0", "02_b.sql#0", "03_c.sql#0"]
    assert record.status == "succeeded"


def make(table: str, source: str) -> str:
    return f"CREATE OR REPLACE TABLE {table} AS SELECT * FROM {source}"


PLANS = {
    "tables made anew": (
        plan(step("01_a", make("a", "src")), step("02_b", make("b", "a"))),
        {"01_a", "02_b"},
    ),
    "a later step makes anew what it read": (
        plan(step("01_a", make("a", "src")), step("02_b", make("src", "a"))),
        {"02_b"},
    ),
    "a later step adds to what it read": (
        plan(step("01_a", make("a", "src")), step("02_b", "INSERT INTO src SELECT * FROM a")),
        set(),
    ),
    "a later step drops what it read": (
        plan(step("01_a", make("a", "src")), step("02_b", "DROP TABLE IF EXISTS src")),
        {"02_b"},
    ),
    "a later step drops what it made": (
        plan(step("01_a", make("a", "src")), step("02_b", "DROP TABLE IF EXISTS a")),
        {"01_a", "02_b"},
    ),
    "an earlier step makes what it reads": (
        plan(step("01_a", make("a", "src")), step("01_b", make("b", "a"), "01_a")),
        {"01_a", "01_b"},
    ),
    "one beside it makes what it reads": (
        plan(step("01_a", make("a", "src")), step("01_b", make("b", "a"))),
        {"01_a"},
    ),
    "not safe to repeat": (plan(step("01_a", "INSERT INTO log SELECT * FROM src")), set()),
    "a later step of which not all is known": (
        plan(step("01_a", make("a", "src")), step("02_b", "CALL anything()")),
        set(),
    ),
}


@pytest.mark.parametrize(("made", "steps"), PLANS.values(), ids=PLANS)
def test_which_steps_are_deferrable(made: Plan, steps: set[str]) -> None:
    assert deferrable_rows(made).steps == steps


LOOPS = {
    "each its own table": (["CREATE OR REPLACE TABLE l_1 AS SELECT * FROM l_0", make("l_2", "l_1")], True),
    "with a table in between": (
        [f"{make('tmp', f'l_{n - 1}')}; {make(f'l_{n}', 'tmp')}" for n in (1, 2)],
        True,
    ),
    "in place": (["DELETE FROM l WHERE x > 1", "DELETE FROM l WHERE x > 2"], False),
    "two tables in turn": ([make("l_b", "l_a"), make("l_a", "l_b")], False),
    "adds to a history": (
        [f"{make(f'l_{n}', f'l_{n - 1}')}; INSERT INTO log SELECT * FROM l_{n}" for n in (1, 2)],
        False,
    ),
}


@pytest.mark.parametrize(("texts", "may_be"), LOOPS.values(), ids=LOOPS)
def test_which_loops_are_deferrable(texts: list[str], may_be: bool) -> None:
    assert deferrable_rows(plan(loop_step("03_loop", texts))).loops == ({"03_loop"} if may_be else set())


def test_a_loop_whose_tables_a_later_step_drops_is_on_record_before_that() -> None:
    texts = {f"03_x_loop_iteration_0{n}.sql": make(f"x_loop_{n}", f"x_loop_{n - 1}") for n in (1, 2)}
    cleaning = {"04_clean.sql": "DROP TABLE IF EXISTS x_loop_2"}
    alone, cleaned = (
        deferrable_rows(plan_of(SqlSource(texts=files, catalog="main", schema="s")))
        for files in (texts, texts | cleaning)
    )
    (loop,) = alone.loops
    assert loop in alone.steps
    assert cleaned.steps == {"04_clean"}

"""Nothing twice: a workflow is killed at every call and every row on record, and resumed."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlflow_rig import MemoryRecord, loop_step, plan, runner, step
from sqlflow_world import Killed, World

from databricks_rlm_agent.errors import Unreachable
from databricks_rlm_agent.sqlflow.model import Plan
from databricks_rlm_agent.sqlflow.run.outcome import Report, RunStatus
from databricks_rlm_agent.sqlflow.run.record import StepRow, WriteBehindRecord, deferrable_rows

FLOW = plan(
    step("01_new.sql", "CREATE OR REPLACE TABLE a AS VALUES (1), (2); INSERT INTO a VALUES (3)"),
    step("02_add.sql", "INSERT INTO t VALUES (7); INSERT INTO t SELECT * FROM a; OPTIMIZE t", "01_new.sql"),
    step(
        "03_more.sql",
        "USE SCHEMA default; MERGE INTO t USING a ON x WHEN MATCHED THEN UPDATE SET v = t.v + 10;"
        "DELETE FROM t WHERE v = 7; INSERT INTO t VALUES (7);"
        "DELETE FROM t WHERE v IN (SELECT max(v) FROM t); CREATE OR REPLACE TABLE s AS SELECT * FROM t",
        "02_add.sql",
    ),
    loop_step(
        "04_loop",
        ["UPDATE w SET v = v - 1 WHERE v > 0"],
        "03_more.sql",
        convergence="SELECT sum(v) FROM w",
    ),
    step(
        "05_names.sql",
        "CREATE TABLE c AS SELECT * FROM s; INSERT INTO c VALUES (5); ALTER TABLE c RENAME TO d;"
        "INSERT INTO d VALUES (6); DROP TABLE a",
        "04_loop",
    ),
)


def world() -> World:
    made = World()
    made.make("t", (1, 2, 40), "CREATE TABLE")
    made.make("w", (3, 1), "CREATE TABLE")
    return made


def run(made: World, record: Any, flow: Plan = FLOW) -> Report:
    """One process: it goes on with what is on record."""
    return runner(flow, made, record, max_parallel=1, run_id="w1").run()


def run_behind(made: World, record: MemoryRecord) -> Report:
    """The same, as ``prepared`` does it: with a record that is written in the background."""
    return run(made, WriteBehindRecord(record, deferrable_rows(FLOW)))


def counting(limit: int) -> tuple[list[str], Callable[[str], None]]:
    """Counts every effect, and kills at the one of that number; who is dead does nothing more."""
    seen: list[str] = []

    def look(what: str) -> None:
        seen.append(what)
        if len(seen) >= limit:
            raise Killed(what)

    return seen, look


def mortal(made: World, record: MemoryRecord, limit: int) -> list[str]:
    """From now on the process dies at its n-th point; the points passed."""
    seen, look = counting(limit)
    made.die = lambda when, sql: look(f"{when} {sql}")
    writing = MemoryRecord.append

    def steps(rows: Sequence[StepRow]) -> None:
        look(f"before record {rows[0].status}")
        writing(record, rows)
        look(f"after record {rows[0].status}")

    record.append = steps  # type: ignore[method-assign]
    return seen


def undisturbed() -> tuple[World, list[str]]:
    made, record = world(), MemoryRecord()
    seen = mortal(made, record, 10**9)
    assert run(made, record).status is RunStatus.SUCCEEDED
    return made, seen


WANTED, POINTS = undisturbed()


def compare(made: World) -> None:
    made.arrive()
    assert made.state() == WANTED.state()
    assert made.commits() == WANTED.commits()


def test_the_points_are_many() -> None:
    assert len(POINTS) > 100
    assert WANTED.state()["w"] == (0, 0)


@pytest.mark.parametrize("process", [run, run_behind])
@pytest.mark.parametrize("early", [True, False], ids=["lands", "deferrable_rows"])
def test_killed_at_every_point_and_resumed(early: bool, process: Callable[..., Report]) -> None:
    """What was on its way commits before the next process begins, or after it has looked."""
    for at in range(1 + (process is run), len(POINTS) + 1, 2):  # each of the two at every other one
        made, record = world(), MemoryRecord()
        seen = mortal(made, record, at)
        with contextlib.suppress(Killed):
            process(made, record)
            assert len(seen) < at, "it has survived"
        mortal(made, record, 10**9)
        if early:
            made.arrive()
        else:
            made.die = arriving(made)
        assert process(made, record).status is RunStatus.SUCCEEDED, seen[-1]
        compare(made)


def arriving(made: World) -> Callable[[str, str], None]:
    """What is on its way arrives when the next statement that changes something begins."""

    def die(when: str, sql: str) -> None:
        if when == "during" and not sql.startswith("ALTER"):
            made.arrive()

    return die


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(1, len(POINTS)), st.integers(0, 12)), min_size=2, max_size=5))
def test_killed_again_and_again(deaths: list[tuple[int, int]]) -> None:
    made, record = world(), MemoryRecord()
    for at, lands in deaths:
        mortal(made, record, at)
        steps = itertools.count()
        dying = made.die

        def die(when: str, sql: str, dying: Any = dying, steps: Any = steps, lands: int = lands) -> None:
            if next(steps) == lands:
                made.arrive()
            dying(when, sql)

        made.die = die
        with contextlib.suppress(Killed):
            run(made, record)
    mortal(made, record, 10**9)
    assert run(made, record).status is RunStatus.SUCCEEDED
    compare(made)


def test_answers_that_are_lost_change_nothing() -> None:
    """Every statement of a file, once: its effect took place and its answer is lost, or it never arrived."""
    for when, at in itertools.product(("before", "after"), range(60)):
        made, record = world(), MemoryRecord()
        left = [at]

        def die(now: str, sql: str, when: str = when, left: list[int] = left) -> None:
            if now == when and sql != "open" and not sql.startswith("DESCRIBE"):
                left[0] -= 1
                if left[0] == -1:
                    raise Unreachable("No answer.")

        made.die = die
        report = run(made, record)
        assert report.status is RunStatus.SUCCEEDED, report.next
        compare(made)
    assert left[0] >= 0, "all statements were reached"

"""The tables in the end: what is looked at, and that a check that fails is never taken for a good one."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from sqlflow_rig import EventRecorder, FakeEngine, FakeSession, loop_step, plan, runner, step

from databricks_rlm_agent.databricks.sql import WarehouseEngine, WarehouseSession
from databricks_rlm_agent.errors import NotFound, Rejected, Unreachable
from databricks_rlm_agent.sqlflow.model import CoverageRule, Expectation, Plan
from databricks_rlm_agent.sqlflow.run.events import EventKind
from databricks_rlm_agent.sqlflow.run.measures import coverage_query
from databricks_rlm_agent.sqlflow.run.outcome import LoopEnd, Report, RunStatus

A, B = ("main", "default", "a"), ("main", "default", "b")
MAKE = "CREATE OR REPLACE TABLE {} AS SELECT 1 AS id"


def expecting(*wanted: Expectation) -> Plan:
    steps = (step("01_a.sql", MAKE.format("a")), step("02_b.sql", MAKE.format("b")))
    return Plan(steps=steps, expectations=wanted)


class Answers:
    """Answers queries by what they have in them."""

    def __init__(self, **answers: Any) -> None:
        self.asked: list[str] = []
        self._answers = answers

    def __call__(self, sql: str) -> Sequence[Mapping[str, Any]]:
        self.asked.append(sql)
        for part, answer in self._answers.items():
            if part in sql:
                if isinstance(answer, Exception):
                    raise answer
                return [answer]
        return [{"n": 5, "u": 5}]


def checked(made: Plan, answers: Answers, **options: Any) -> Report:
    return runner(made, FakeEngine(on_fetch=answers), **options).run()


def test_tables_are_counted_in_one_statement() -> None:
    answers = Answers(n1={"n0": 7, "n1": 8})
    report = checked(expecting(), answers)
    assert [table.rows for table in report.tables] == [7, 8]
    assert len(answers.asked) == 1


def test_where_one_is_missing_each_is_counted_by_itself() -> None:
    answers = Answers(n1=NotFound("no table"), **{"`b`": NotFound("no table")})
    report = checked(expecting(), answers)
    assert [(table.exists, table.rows) for table in report.tables] == [(True, 5), (False, None)]
    assert len(answers.asked) == 3


def test_a_declared_key_that_is_not_unique_fails_the_run() -> None:
    wanted = Expectation(table=A, key=("id", "kind"), min_rows=6, steps=("01_a.sql",))
    report = checked(expecting(wanted), Answers(DISTINCT={"n": 5, "u": 3}))
    found = report.tables[0]
    assert (found.rows, found.duplicates, found.good) == (5, 2, False)
    assert len(found.faults) == 2
    assert (report.status, report.exit_code) == (RunStatus.FAILED, 1)


@pytest.mark.parametrize(("found", "good"), [(90, True), (89, False)])
def test_coverage_is_counted_against_the_other_table(found: int, good: bool) -> None:
    cover = CoverageRule(table=B, on=(("id", "other`id"),), share=0.9)
    answers = Answers(all_keys={"all_keys": 100, "found_keys": found})
    report = checked(expecting(Expectation(table=A, covers=(cover,), steps=("01_a.sql",))), answers)
    assert report.tables[0].good is good
    assert report.tables[0].coverage[0].found == found
    assert any("`other``id`" in sql for sql in answers.asked)
    assert (report.status is RunStatus.SUCCEEDED) is good


def test_a_check_that_fails_is_a_fault_and_hides_no_other() -> None:
    cover = CoverageRule(table=B, on=(("id", "id"),))
    wanted = Expectation(table=A, key=("nope",), covers=(cover,), steps=("01_a.sql",))
    answers = Answers(all_keys=NotFound("Gone."), nope=Rejected("[UNRESOLVED_COLUMN] nope"))
    found = checked(expecting(wanted), answers).tables[0]
    assert (found.exists, found.rows, found.unique, found.coverage) == (True, 5, None, ())
    assert len(found.errors) == 2
    assert not found.good


def test_a_missing_table_is_reported() -> None:
    report = checked(expecting(), Answers(**{"`a`": NotFound("No such table.")}))
    assert [(table.exists, table.good) for table in report.tables] == [(False, False), (True, True)]
    assert report.status is RunStatus.FAILED


def test_what_is_declared_of_steps_that_are_not_done_or_not_chosen_is_left_out() -> None:
    chosen = Expectation(table=B, key=("id",), steps=("02_b.sql",))
    elsewhere = Expectation(table=("main", "default", "c"), key=("id",), steps=("03_c.sql",))
    before = Expectation(table=("main", "raw", "d"), min_rows=1)

    def execute(sql: str, _session: Any) -> int:
        if "`b`" in sql or " b " in sql:
            raise Rejected("[DIVIDE_BY_ZERO] no")
        return 1

    made = expecting(chosen, elsewhere, before)
    report = runner(made, FakeEngine(execute, Answers())).run()
    assert [table.table for table in report.tables] == ["main.default.a", "main.raw.d"]


def test_a_loop_is_checked_by_its_alias_and_its_key() -> None:
    made = plan(
        loop_step(
            "03_l_iter",
            ["CREATE OR REPLACE TABLE l_1 AS SELECT 1 AS id"],
            key_columns=("id",),
            convergence="q",
        )
    )
    report = checked(made, Answers(DESCRIBE=Rejected("No."), q={"n": 0}))
    assert [(table.table, table.key, table.unique) for table in report.tables] == [
        ("main.default.loop_final", ("id",), True)
    ]


def test_views_are_looked_at_and_counted_only_where_something_is_declared() -> None:
    text = "CREATE OR REPLACE VIEW v AS SELECT 1 AS a; CREATE OR REPLACE VIEW w AS SELECT 1 AS a"
    wanted = Expectation(table=("main", "default", "w"), min_rows=1, steps=("01_v.sql",))
    answers = Answers()
    report = checked(Plan(steps=(step("01_v.sql", text),), expectations=(wanted,)), answers)
    assert [(table.view, table.rows) for table in report.tables] == [(True, None), (True, 5)]
    assert answers.asked[0] == "SELECT 1 FROM `main`.`default`.`v` LIMIT 0"


def test_once_the_warehouse_is_gone_nothing_more_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(SELECT=Unreachable("Nobody answers."))
    session = "databricks_rlm_agent.retry.RetryingSession.fetch"
    monkeypatch.setattr(session, lambda _self, sql, _parameters=None: answers(sql))
    report = checked(expecting(), answers, max_parallel=1)
    assert len(answers.asked) == 1
    assert all(len(table.errors) == 1 for table in report.tables)
    assert report.status is RunStatus.FAILED


def test_interrupted_while_it_is_checked() -> None:
    asked = threading.Event()
    engine = FakeEngine()

    def fetch(_sql: str) -> Sequence[Mapping[str, Any]]:
        made.interrupt()
        asked.set()
        assert engine.sessions[-1].cancelled.wait(120)
        raise Rejected("[CANCELED] Query was cancelled.")

    engine.on_fetch = fetch
    made = runner(expecting(), engine, max_parallel=1)
    report = made.run()
    assert asked.is_set()
    assert report.status is RunStatus.INTERRUPTED
    assert all("interrupted" in table.errors[0] for table in report.tables)


def test_checks_have_events() -> None:
    watcher = EventRecorder()
    runner(expecting(), FakeEngine(), observer=watcher).run()
    assert watcher.of(EventKind.CHECKING)[0].statements == 2
    assert {event.text for event in watcher.of(EventKind.CHECKED)} == {"main.default.a", "main.default.b"}


def test_coverage_on_a_real_engine(engine: WarehouseEngine, session: WarehouseSession, schema: str) -> None:
    session.execute(
        "CREATE OR REPLACE TABLE here AS SELECT * FROM VALUES (1, 'a'), (1, 'b'), (NULL, 'c') AS t(x, y)"
    )
    session.execute("CREATE OR REPLACE TABLE there AS SELECT * FROM VALUES (1), (1), (2), (NULL) AS t(id)")
    name = ("main", schema, "there")
    row = session.fetch(
        coverage_query(("main", schema, "here"), CoverageRule(table=name, on=(("x", "id"),)))
    )[0]
    assert (row["all_keys"], row["found_keys"]) == (2, 1)


def test_an_interrupted_loop_reports_its_iterations() -> None:
    engine = FakeEngine()

    def execute(sql: str, session: FakeSession) -> int:
        if "l_3" in sql:
            made.interrupt()
            session.until_cancelled()
        return 1

    def fetch(sql: str) -> Sequence[Mapping[str, Any]]:
        if sql.startswith("DESCRIBE"):
            raise Rejected("[UNSUPPORTED] no")
        return [{"n": 7}]

    engine.on_execute, engine.on_fetch = execute, fetch
    texts = [f"CREATE OR REPLACE TABLE l_{n} AS SELECT 1 AS id" for n in (1, 2, 3)]
    made = runner(plan(loop_step("03_l_iter", texts, convergence="SELECT 7")), engine)
    report = made.run()
    assert report.steps[0].end is LoopEnd.INTERRUPTED
    assert [each.changed for each in report.steps[0].iterations] == [7, 7]
    assert report.status is RunStatus.INTERRUPTED

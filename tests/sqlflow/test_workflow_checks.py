"""What ``workflow.yml`` declares of tables, and what is checked of them at the end."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.sqlflow.model import CoverageRule, Expectation, Plan, percent
from databricks_rlm_agent.sqlflow.plan.declarations import parse_declarations
from databricks_rlm_agent.sqlflow.plan.plan import SqlSource, plan_of
from databricks_rlm_agent.sqlflow.report.plans import as_table
from databricks_rlm_agent.sqlflow.run.outcome import (
    Coverage,
    Report,
    RunStatus,
    StepOutcome,
    StepStatus,
    TableCheck,
    advice,
    run_status,
)

DECLARED = """
name: identity
tables:
  master:
    key: canonical_id
    min_rows: 1_000
    covers:
      - {table: nodes, on: [node_id, kind], share: 0.99}
      - {table: main.crm.people, on: {node_id: id}}
  main.s.plain: {key: [a, b]}
"""


def test_tables_are_declared_with_key_rows_and_coverage() -> None:
    document = parse_declarations(DECLARED, schema="s")
    assert document.name == "identity"
    assert document.tables == (
        Expectation(
            table=("s", "master"),
            key=("canonical_id",),
            min_rows=1000,
            covers=(
                CoverageRule(table=("s", "nodes"), on=(("node_id", "node_id"), ("kind", "kind")), share=0.99),
                CoverageRule(table=("main", "crm", "people"), on=(("node_id", "id"),)),
            ),
        ),
        Expectation(table=("main", "s", "plain"), key=("a", "b")),
    )


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("tables: [a]", 1, "tables must have keys and values"),
        ("tables:\n  t:", 2, "t must have keys and values"),
        ("tables:\n  t: {}", 2, "Nothing is declared of t"),
        ("tables:\n  t: {keys: a}", 2, "The key 'keys' is not known"),
        ("tables:\n  t: {key: a}\n  T: {key: b}", 3, "t is declared twice"),
        ("tables:\n  t: {min_rows: some}", 2, "min_rows is 'some'"),
        ("tables:\n  t:\n    covers: {on: a}", 3, "needs a table and the columns"),
        ("tables:\n  t:\n    covers: {table: n}", 3, "needs a table and the columns"),
        ("tables:\n  t:\n    covers: {table: n, on: []}", 3, "needs a table and the columns"),
        ("tables:\n  t:\n    covers: {table: n, on: a, share: 1.5}", 3, "a share from 0 to 1"),
        ("tables:\n  t:\n    covers: {table: n, on: a, share: 99%}", 3, "a share from 0 to 1"),
        ("tables:\n  t:\n    covers: {table: n, on: {a: [b]}}", 3, "a must be a text"),
        ("name: [a]", 1, "name must be a text"),
    ],
)
def test_errors_have_their_line(text: str, line: int, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        parse_declarations(text)
    assert caught.value.where == f"workflow.yml:{line}"


@given(st.text("tables:\n -{}[]aky,.0'%&*!", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse_declarations(f"tables:\n  t: {text}").tables[0].table == ("t",)


def planned(declared: str, **more: Any) -> Plan:
    texts = {"01_a.sql": "CREATE OR REPLACE TABLE a AS SELECT 1 AS id", "02_b.sql": "SELECT * FROM a"}
    return plan_of(SqlSource(texts=texts, declared=declared, catalog="main", schema="s", **more))


def test_expectations_have_full_names_and_the_steps_that_make_them() -> None:
    plan = planned("tables: {A: {key: id, covers: {table: '{where}', on: id}}}", variables={"where": "x.y"})
    cover = CoverageRule(table=("main", "x", "y"), on=(("id", "id"),))
    assert plan.expectations == (
        Expectation(table=("main", "s", "a"), key=("id",), covers=(cover,), steps=("01_a",)),
    )
    assert plan.to_dict()["checks"] == [
        {
            "table": "main.s.a",
            "key": ["id"],
            "min_rows": None,
            "covers": [{"table": "main.x.y", "on": {"id": "id"}, "share": 1.0}],
        }
    ]


def test_the_plan_lists_what_will_be_checked() -> None:
    table = as_table(planned("tables: {a: {key: [id, b], min_rows: 1_000, covers: {table: n, on: {id: x}}}}"))
    assert (
        "  main.s.a: key id, b is unique; 1,000 rows or more; covers 100% of main.s.n on id = x"
        in table.splitlines()
    )
    assert "Checked" not in as_table(planned(""))


def test_a_workflow_may_have_a_name_of_its_own() -> None:
    assert planned("name: identity").name == "identity"
    assert planned("tables: {a: {key: id}}").name is None


def test_a_table_that_no_file_makes_is_a_notice() -> None:
    plan = planned("tables: {elsewhere: {key: id}}")
    assert plan.expectations[0].steps == ()
    assert any("no file makes main.s.elsewhere" in notice for notice in plan.notices)


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ("tables: {a: {key: id}, main.s.a: {key: id}}", "main.s.a is declared twice"),
        ("tables: {'a b': {key: id}}", "'a b' is not the name of a table"),
        ("tables: {a: {covers: {table: a.b.c.d, on: id}}}", "is not the name of a table"),
    ],
)
def test_names_that_cannot_be_are_refused(declared: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        planned(declared)


def test_faults_are_sentences() -> None:
    coverage = Coverage(table="n", on=(("id", "id"),), keys=1000, found=989, wanted=0.99)
    found = TableCheck(
        table="t", exists=True, rows=3, min_rows=10, key=("a", "b"), duplicates=2, coverage=(coverage,)
    )
    assert found.faults == (
        "it has 3 rows, and 10 are the least",
        "2 rows have the a, b of another row",
        "11 of 1,000 keys of n are missing (98.90% are there, 99% are the least)",
    )
    assert not found.good
    assert found.unique is False


def test_what_could_not_be_checked_is_never_good() -> None:
    assert not TableCheck(table="t", exists=True, rows=1, errors=("It could not be checked: …",)).good
    assert not TableCheck(table="t", exists=False).good
    assert Coverage(table="n", on=(), keys=0, found=0).good  # there is nothing to find


@given(st.integers(1, 10**9), st.data(), st.floats(0, 1))
def test_coverage_is_a_share_of_keys(keys: int, data: st.DataObject, wanted: float) -> None:
    found = data.draw(st.integers(0, keys))
    coverage = Coverage(table="n", on=(("a", "b"),), keys=keys, found=found, wanted=wanted)
    assert coverage.good == (found / keys >= wanted)
    assert (percent(found / keys) == "100%") == (found == keys)
    assert coverage.to_dict()["on"] == {"a": "b"}


def test_an_interrupted_run_that_was_not_checked_has_not_succeeded() -> None:
    done = [StepOutcome(id="a", status=StepStatus.DONE)]
    good, bad = TableCheck(table="t", exists=True, rows=1), TableCheck(table="t", exists=False)
    assert run_status(done, [], interrupted=True) is RunStatus.INTERRUPTED
    assert run_status(done, [bad], interrupted=True) is RunStatus.INTERRUPTED
    assert run_status(done, [good], interrupted=True) is RunStatus.SUCCEEDED
    assert run_status(done, [bad]) is RunStatus.FAILED


def report(**more: Any) -> Report:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    done = StepOutcome(id="01_a", status=StepStatus.DONE, stage=1, started_at=at, seconds=2.0)
    values: dict[str, Any] = {
        "workflow_run_id": "w1",
        "workflow": "flow",
        "status": RunStatus.SUCCEEDED,
        "started_at": at,
        "finished_at": at + timedelta(seconds=4),
        "steps": (done,),
        "place": "main.s",
    }
    return Report(**(values | more))


def test_advice_after_success_says_where_the_record_is_and_what_more_could_be_done() -> None:
    tables = (TableCheck(table="main.s.a", exists=True, rows=1),)
    sentences = " ".join(advice(report(tables=tables)))
    for words in ("--optimize-tables", "workflow.yml", "main.s.sql_workflow_runs", "'w1'"):
        assert words in sentences
    assert "--optimize-tables" not in " ".join(advice(report(tables=tables, optimized=True)))


def test_advice_after_failure_says_what_to_mend() -> None:
    tables = (
        TableCheck(table="main.s.a", exists=True, step="01_a", rows=2, key=("id",), duplicates=1),
        TableCheck(table="main.s.b", exists=False, step="02_b"),
        TableCheck(table="main.s.c", exists=False),
        TableCheck(table="main.s.d", exists=True, errors=("It could not be checked: x",)),
    )
    left = StepOutcome(id="03_c", status=StepStatus.NOT_RUN)
    sentences = advice(report(tables=tables, status=RunStatus.FAILED, steps=(left,)))
    for line, words in zip(
        sentences,
        ["look at what makes it (01_a)", "drops or renames", "no file makes it", "could not be"],
        strict=False,
    ):
        assert words in line
    assert sentences[-1] == "1 of 1 steps are left: run the same command with --resume."

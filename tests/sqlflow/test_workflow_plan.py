from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.sqlflow.model import Plan, Step
from databricks_rlm_agent.sqlflow.plan.order import Selection, conflict, required, select
from databricks_rlm_agent.sqlflow.plan.plan import SqlSource, plan_of
from databricks_rlm_agent.sqlflow.report.plans import as_dot, as_mermaid, as_table, direct_needs
from databricks_rlm_agent.sqltext.names import common, may_be_same
from databricks_rlm_agent.sqltext.split import parse_variables


def plan(texts: dict[str, str], **more: object) -> Plan:
    return plan_of(SqlSource(texts=texts, **more))  # type: ignore[arg-type]


def ids(found: Plan) -> list[str]:
    return [step.id for step in found.steps]


def needs(found: Plan) -> dict[str, set[str]]:
    return {step.id: {need.step for need in step.needs} for step in found.steps}


def test_stages_come_in_the_order_of_their_numbers_and_files_without_one_last() -> None:
    found = plan(
        {"a.sql": "SELECT 1", "10_b.sql": "SELECT 1", "2_c.sql": "SELECT 1", "002_d.sql": "SELECT 1"}
    )
    assert [(stage, [step.id for step in steps]) for stage, steps in found.stages] == [
        (2, ["2_c", "002_d"]),
        (10, ["10_b"]),
        (None, ["a"]),
    ]


def test_what_does_not_clash_is_free_and_reasons_say_why_the_rest_is_not() -> None:
    found = plan(
        {
            "1_a.sql": "CREATE TABLE s.t AS SELECT * FROM src",
            "1_b.sql": "CREATE TABLE s.u AS SELECT * FROM src",
            "1_c.sql": "INSERT INTO u SELECT 1",
            "1_d.sql": "OPTIMIZE c.s.t",
        }
    )
    assert needs(found) == {"1_a": set(), "1_b": set(), "1_c": {"1_b"}, "1_d": {"1_a"}}
    assert found.steps[2].needs[0].reason == "writes u as well"
    assert found.steps[3].needs[0].reason == "writes c.s.t as well"


def test_makers_come_before_users_whatever_their_names_are() -> None:
    found = plan(
        {
            "1_a.sql": "CREATE VIEW v AS SELECT * FROM t",
            "1_b.sql": "INSERT INTO t SELECT * FROM u",
            "1_c.sql": "CREATE TABLE t (a INT)",
            "1_d.sql": "CREATE TABLE u AS SELECT f(1)",
            "1_e.sql": "CREATE FUNCTION f() RETURNS INT RETURN 1",
            "1_z.sql": "CREATE SCHEMA IF NOT EXISTS s",
            "1_y.sql": "CREATE TABLE s.q (a INT)",
        }
    )
    order = ids(found)
    for before, after in ["ca", "cb", "db", "ed", "zy"]:
        assert order.index(f"1_{before}") < order.index(f"1_{after}")
    assert needs(found)["1_d"] == {"1_e", "1_z"}  # u may be a table of s


def test_tables_of_the_workflow_are_filled_before_they_are_read() -> None:
    found = plan(
        {
            "a.sql": "SELECT * FROM t JOIN source",
            "b.sql": "INSERT INTO t SELECT 1",
            "c.sql": "CREATE TABLE t (a INT)",
            "d.sql": "INSERT INTO source SELECT 1",
        }
    )
    assert ids(found) == ["c", "b", "a", "d"]


def test_a_circle_is_ordered_by_names_with_a_notice() -> None:
    found = plan({"a.sql": "CREATE TABLE t AS SELECT * FROM u", "b.sql": "CREATE TABLE u AS SELECT * FROM t"})
    assert needs(found) == {"a": set(), "b": {"a"}}
    assert "a needs what b makes, and the other way round" in found.notices[0]


def test_a_file_that_is_not_fully_known_runs_alone() -> None:
    found = plan({"1_a.sql": "SELECT 1", "1_b.sql": "\nCALL p()", "1_c.sql": "SELECT 2"})
    assert needs(found) == {"1_a": set(), "1_b": {"1_a"}, "1_c": {"1_b"}}
    assert found.notices == ("1_b runs alone: 1_b.sql:2: what it does is not known here.",)


def test_functions_of_others_are_no_reads() -> None:
    (step,) = plan({"a.sql": "SELECT read_files('/x'), s.f(1) FROM t"}).steps
    assert step.reads == (("t",),)


def test_a_temporary_view_of_another_file_has_a_notice() -> None:
    found = plan({"1_a.sql": "CREATE TEMP VIEW v AS SELECT 1", "2_b.sql": "SELECT * FROM v"})
    assert found.notices == ("2_b reads v, a temporary view of 1_a: no other file can see it.",)


def test_variables_are_put_in_before_all_else() -> None:
    found = plan(
        {
            "1_a.sql": "CREATE TABLE {s}.t_${n} AS SELECT '{\"a\": {other}}' -- {x}",
            "1_b.sql": "TABLE main.s.t_1",
        },
        variables={"s": "main.s", "n": "1", "spare": "x"},
    )
    assert needs(found)["1_b"] == {"1_a"}
    assert found.notices == ("--var spare is used by no file.",)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (
            {"a.sql": "SELECT 1;\nSELECT * FROM {s}.t"},
            r"The variable \{s\} has no value. \(a.sql:2\) Give --var s=",
        ),
        ({"a.sql": "\nSELECT * FROM `{s}`.t"}, r"The variable \{s\} has no value. \(a.sql:2\)"),
        ({"a.sql": "SELECT {iteration}"}, "Declare the file as the template of a loop"),
        ({"a.sql": "SELECT '", "b.sql": "\n/* x"}, r"2 files cannot be read: a.sql:1: .* b.sql:2: "),
        ({"a.sql": "SELECT 1", "A.sql": "SELECT 1"}, "Two steps have the name"),
    ],
)
def test_a_directory_that_cannot_be_planned_is_an_error(texts: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan(texts)


@pytest.mark.parametrize("given", [["x"], ["=1"], ["a b=1"], ["iteration=3"], ["a=1", "a=2"], ["a=1\n2"]])
def test_wrong_variables(given: list[str]) -> None:
    with pytest.raises(UsageError):
        parse_variables(given)
    assert parse_variables(["a=1", "b=x=y"]) == {"a": "1", "b": "x=y"}


FOUR = {
    f"{stage}_{name}.sql": f"CREATE TABLE {name} AS SELECT * FROM t"
    for stage, name in ["1a", "1b", "2t", "3c"]
}


@pytest.mark.parametrize(
    ("selection", "left"),
    [
        (Selection(), ["1_a", "1_b", "2_t", "3_c"]),
        (Selection(only=("1_a", "3_c.sql")), ["1_a", "3_c"]),
        (Selection(start="2_t"), ["2_t", "3_c"]),
        (Selection(skip=("1_*",)), ["2_t", "3_c"]),
        (Selection(start="1_b", skip=("2_t",)), ["1_b", "3_c"]),
    ],
)
def test_steps_can_be_chosen(selection: Selection, left: list[str]) -> None:
    chosen = select(plan(FOUR), selection)
    assert ids(chosen) == left
    assert all(found <= set(left) for found in needs(chosen).values())


@pytest.mark.parametrize(
    "selection",
    [Selection(only=("x",)), Selection(start="4_*"), Selection(skip=("y",)), Selection(skip=("*",))],
)
def test_a_choice_of_nothing_is_an_error(selection: Selection) -> None:
    with pytest.raises(UsageError):
        select(plan(FOUR), selection)


TABLES = st.sampled_from(["a", "s.a", "c.s.a", "b", "s.b", "t.b", "d", "c.t.d"])
STATEMENTS = st.one_of(
    st.builds("CREATE OR REPLACE TABLE {} AS SELECT * FROM {}".format, TABLES, TABLES),
    st.builds("CREATE TABLE {} (x INT)".format, TABLES),
    st.builds("INSERT INTO {} SELECT * FROM {}".format, TABLES, TABLES),
    st.builds("SELECT * FROM {} JOIN {}".format, TABLES, TABLES),
    st.builds("DROP TABLE IF EXISTS {}".format, TABLES),
    st.builds("ALTER TABLE {} RENAME TO z".format, TABLES),
    st.sampled_from(["CALL p()", "USE s", "SELECT 1", "CREATE SCHEMA s", "OPTIMIZE a"]),
)
NAMES = st.sampled_from(["1_a", "1_b", "1_c", "02_d", "2_e", "10_f", "10_g", "h", "i", "j_2", "j_10"])
DIRECTORIES = st.dictionaries(
    NAMES.map("{}.sql".format), st.lists(STATEMENTS, max_size=3).map(";\n".join), min_size=1, max_size=8
)


def rank(step: Step) -> float:
    return float("inf") if step.stage is None else step.stage


def touched(step: Step) -> set[tuple[str, ...]]:
    return set(step.reads) | set(step.writes)


@given(DIRECTORIES)
def test_no_two_steps_that_clash_run_at_once(texts: dict[str, str]) -> None:
    steps = plan(texts).steps
    for place, later in enumerate(steps):
        for earlier in steps[:place]:
            written = [(one, other) for one in earlier.writes for other in touched(later)]
            written += [(one, other) for one in later.writes for other in touched(earlier)]
            if any(may_be_same(one, other) for one, other in written) or earlier.problem or later.problem:
                assert earlier.id in {need.step for need in later.needs}


@given(DIRECTORIES)
def test_the_plan_is_an_order_by_stages(texts: dict[str, str]) -> None:
    found = plan(texts)
    seen: set[str] = set()
    for step in found.steps:  # what is needed stands before, so there is no circle
        assert {need.step for need in step.needs} <= seen
        seen.add(step.id)
    assert [rank(step) for step in found.steps] == sorted(map(rank, found.steps))
    assert seen == {name.removesuffix(".sql") for name in texts}


@given(DIRECTORIES, st.randoms(use_true_random=False))
def test_the_same_directory_has_the_same_plan(texts: dict[str, str], random: object) -> None:
    items = list(texts.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    assert plan(dict(items)) == plan(texts)
    json.dumps(plan(texts).to_dict())


@given(DIRECTORIES)
def test_direct_needs_lead_to_all_needs(texts: dict[str, str]) -> None:
    found = plan(texts)
    reached: dict[str, set[str]] = {}
    for step in found.steps:
        direct = {need.step for need in direct_needs(found, step)}
        reached[step.id] = direct.union(*(reached[id_] for id_ in direct))
        assert {need.step for need in step.needs} <= reached[step.id]


@given(DIRECTORIES)
def test_makers_come_before_users_unless_there_is_a_circle(texts: dict[str, str]) -> None:
    found = plan(texts)
    if any("other way round" in notice for notice in found.notices):
        return
    for place, later in enumerate(found.steps):
        for earlier in found.steps[:place]:
            if earlier.stage == later.stage and not (earlier.problem or later.problem):
                made = [name for name in later.makes if name not in earlier.makes]
                assert common([name for name in made if "*" not in name], required(earlier)) is None


def test_names_that_may_be_the_same() -> None:
    assert may_be_same(("a",), ("s", "a"))
    assert may_be_same(("c", "s", "*"), ("s", "a"))
    assert may_be_same(("loop_*",), ("c", "s", "loop_12"))
    assert not may_be_same(("t", "a"), ("s", "a"))
    assert not may_be_same(("a", "s", "a"), ("b", "s", "a"))
    assert common([("x",), ("a",)], [("s", "a")]) == ("a",)
    assert common([("x",)], []) is None


def test_pictures_name_every_step_and_escape_what_they_must() -> None:
    found = plan(
        {
            '1_"a.sql': "CREATE TABLE t (a INT)",
            "2_loop_iter_1.sql": "CREATE TABLE l_1 AS TABLE t",
            "x.sql": "CALL p()",
        }
    )
    table, mermaid, dot = as_table(found), as_mermaid(found), as_dot(found)
    assert "Stage 2: 1 step" in table
    assert 'after 1_"a: reads t' in table
    assert "Notice: x runs alone" in table
    assert 's0["1_&quot;a<br/>1 statement"]' in mermaid
    assert 's0 -->|"reads t"| s1' in mermaid
    assert '"1_\\"a" -> "2_loop_iter" [label="reads t"];' in dot
    assert conflict(found.steps[0], found.steps[2]) == "x runs alone: what it reads and writes is not known"

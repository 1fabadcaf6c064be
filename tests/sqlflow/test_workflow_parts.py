"""Iterations of several files, and what strangers' directories have besides."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.sqlflow.model import Loop, Plan
from databricks_rlm_agent.sqlflow.plan.iterations import iteration
from databricks_rlm_agent.sqlflow.plan.order import Selection, select
from databricks_rlm_agent.sqlflow.plan.plan import SqlSource, plan_of
from databricks_rlm_agent.sqlflow.run.resume import step_hash

FIRST = "CREATE OR REPLACE TABLE w_{n} AS SELECT id, label - 1 AS label FROM l_{m}"
SECOND = "CREATE OR REPLACE TABLE l_{n} AS SELECT id, greatest(label, 0) AS label FROM w_{n}"
USE = {"03_use.sql": "CREATE OR REPLACE TABLE used AS SELECT * FROM l_loop_final"}


def planned(texts: Mapping[str, str], declared: str | None = None, **variables: str) -> Plan:
    return plan_of(
        SqlSource(texts=texts, declared=declared, variables=variables, catalog="main", schema="shop")
    )


def loops(plan: Plan) -> dict[str, Loop]:
    return {step.id: step.loop for step in plan.steps if step.loop}


def texts_of(loop: Loop, number: int) -> list[str]:
    return [statement.text for statement in iteration(loop, number).file.statements]


def parts(first: str, second: str, count: int) -> dict[str, str]:
    """Files of iterations in two parts; ``{n}`` in their names and texts is the number."""
    made = {}
    for n in range(1, count + 1):
        made[first.format(n=n)] = FIRST.format(n=n, m=n - 1)
        made[second.format(n=n)] = SECOND.format(n=n)
    return made


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        ("2_a_loop_iteration_{n:02}.sql", "2_b_loop_iteration_{n:02}.sql", "2_a_loop_iteration"),
        ("2_x_iter_{n}_part1.sql", "2_x_iter_{n}_part2.sql", "2_x_iter"),
        ("2_x_iter_{n}_z.sql", "2_x_iter_{n}_b.sql", "2_x_iter"),  # who makes before who reads
    ],
)
def test_files_that_feed_each_other_are_one_iteration(first: str, second: str, name: str, count: int) -> None:
    plan = planned(parts(first, second, count) | USE)
    loop = loops(plan)[name]
    assert list(loops(plan)) == [name]
    assert len(loop.files) == count
    now = iteration(loop, 7)
    assert (now.generated, now.table, now.before) == (
        True,
        ("main", "shop", "l_7"),
        ("main", "shop", "l_6"),
    )
    assert texts_of(loop, 7) == [FIRST.format(n=7, m=6), SECOND.format(n=7)]
    assert first.format(n=7) in now.file.name
    assert loop.alias == ("main", "shop", "l_loop_final")
    assert any("run as one loop" in notice for notice in plan.notices)
    assert plan.to_dict()["stages"][0]["steps"][0]["files"][:2] == [first.format(n=1), second.format(n=1)]


def test_a_statement_of_a_part_has_its_own_file_and_line() -> None:
    texts = parts("2_a_iter_{n}.sql", "2_b_iter_{n}.sql", 1)
    texts["2_b_iter_1.sql"] = "\n\n" + texts["2_b_iter_1.sql"]
    (loop,) = loops(planned(texts)).values()
    assert [(each.file, each.line) for each in loop.files[0].statements] == [
        ("2_a_iter_1.sql", 1),
        ("2_b_iter_1.sql", 3),
    ]


def test_a_part_begins_where_the_workflow_is_whatever_another_has_used() -> None:
    texts = parts("2_a_iter_{n}.sql", "2_b_iter_{n}.sql", 1)
    texts["2_a_iter_1.sql"] += "; USE SCHEMA other; SELECT 1"
    (loop,) = loops(planned(texts)).values()
    assert [each.text for each in loop.files[0].statements if each.kind == "use"] == [
        "USE SCHEMA other",
        "USE CATALOG `main`",
        "USE SCHEMA `shop`",
    ]


def test_a_step_is_chosen_by_the_name_of_a_part() -> None:
    plan = planned(parts("2_a_iter_{n}.sql", "2_b_iter_{n}.sql", 2) | USE)
    chosen = select(plan, Selection(only=("2_b_iter_2.sql",)))
    assert [step.id for step in chosen.steps] == ["2_a_iter"]


def test_both_change_one_table_in_place() -> None:
    texts = {
        "2_a_iter_1.sql": "UPDATE g SET label = 1 WHERE label > 1",
        "2_b_iter_1.sql": "MERGE INTO g USING s ON g.id = s.id WHEN MATCHED THEN UPDATE SET label = s.label",
    }
    (loop,) = loops(planned(texts)).values()
    now = iteration(loop, 1)
    assert now.table == now.before == ("main", "shop", "g")


def test_loops_of_their_own_stay_so() -> None:
    one = "CREATE TABLE IF NOT EXISTS log (n INT); CREATE OR REPLACE TABLE {x}_1 AS SELECT * FROM {x}_0; "
    one += "INSERT INTO log SELECT count(*) FROM {x}_1"
    texts = {f"2_{x}_iter_1.sql": one.format(x=x) for x in "ab"}
    texts["2_c_iter_1.sql"] = "CREATE OR REPLACE TABLE c_1 AS SELECT * FROM a_final"
    plan = planned(texts)
    assert set(loops(plan)) == {"2_a_iter", "2_b_iter", "2_c_iter"}
    assert not any("one loop" in notice for notice in plan.notices)


def test_parts_without_the_same_numbers_have_a_notice() -> None:
    texts = parts("2_x_iter_{n}_a.sql", "2_x_iter_{n}_b.sql", 2)
    del texts["2_x_iter_2_b.sql"]
    plan = planned(texts)
    assert any("do not have the same iterations" in notice for notice in plan.notices)
    assert set(loops(plan)) == {"2_x_iter_a", "2_x_iter_b"}


@given(st.integers(1, 4), st.integers(1, 4), st.permutations(["a", "b", "c", "d"]), st.booleans())
def test_every_part_is_in_its_iteration_once(width: int, count: int, names: list[str], chain: bool) -> None:
    names = names[:width]
    texts = {}
    for n in range(1, count + 1):
        read = f"l_{n - 1}"
        for place, name in enumerate(names):
            made = f"l_{n}" if place == width - 1 else f"w{place}_{n}"
            texts[f"4_{name}_iteration_{n:02}.sql"] = (
                f"CREATE OR REPLACE TABLE {made} AS SELECT * FROM {read}"
            )
            read = made if chain else read
    plan = planned(texts)
    found = loops(plan)
    seen = [name for loop in found.values() for file in loop.files for name in file.names]
    assert sorted(seen) == sorted(texts)
    assert len(found) == 1 if chain else True
    for loop in found.values():
        assert len(loop.files) == count
        if chain:
            order = [name.split("_")[1] for name in loop.files[0].names]
            assert order == names


def test_dropping_the_table_of_the_predecessor_has_a_notice() -> None:
    text = "CREATE OR REPLACE TABLE l_1 AS SELECT * FROM l_0; DROP TABLE l_0"
    assert any("drops main.shop.l_0" in notice for notice in planned({"2_iter_1.sql": text}).notices)
    again = "DROP TABLE IF EXISTS l_1; CREATE TABLE l_1 AS SELECT * FROM l_0"
    assert not any("drops" in notice for notice in planned({"2_iter_1.sql": again}).notices)


def test_a_table_that_only_a_later_stage_makes_has_a_notice() -> None:
    plan = planned({"1_a.sql": "CREATE TABLE a AS SELECT * FROM b", "2_b.sql": "CREATE TABLE b (x INT)"})
    assert any("reads main.shop.b, which 2_b of a later stage makes" in notice for notice in plan.notices)


def test_a_table_that_two_files_of_a_stage_make_has_a_notice() -> None:
    texts = {f"1_{x}.sql": "CREATE OR REPLACE TABLE t AS SELECT 1 AS x" for x in "ab"}
    assert any("1_a and 1_b both make main.shop.t" in notice for notice in planned(texts).notices)
    texts = {f"1_{x}.sql": "CREATE TABLE IF NOT EXISTS log (x INT)" for x in "ab"}
    assert not any("both make" in notice for notice in planned(texts).notices)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("SELECT 1;\nSELECT * FROM {{ ref('a') }}", 2, "{{ ref('a') }}"),
        ("{% if x %} SELECT 1 {% endif %}", 1, "{% if x %}"),
        ("SELECT * FROM {{ place }}.t", 1, "--var place=VALUE"),
    ],
)
def test_a_template_with_unknown_variables_is_an_error_before_anything_runs(
    text: str, line: int, words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        planned({"1_a.sql": text})
    assert words in str(caught.value)
    assert caught.value.where == f"1_a.sql:{line}"


@pytest.mark.parametrize("text", ["SELECT '{{ x }}'", "SELECT 1 -- {{ ref('a') }}\n", "SELECT '{% y %}'"])
def test_braces_in_strings_and_comments_mean_themselves(text: str) -> None:
    assert planned({"1_a.sql": text}).steps


def test_parameters_as_databricks_queries_have_them_are_variables() -> None:
    plan = planned({"1_a.sql": "SELECT * FROM {{ place }}.t, ${place}.u, {place}.v"}, place="other")
    assert {name[1] for name in plan.steps[0].reads} == {"other"}


def test_a_variable_that_changes_makes_other_steps_of_the_files_that_have_it() -> None:
    texts = {"1_a.sql": "CREATE TABLE {place}.a (x INT)", "2_b.sql": "CREATE TABLE b (x INT)"}
    texts["3_t.sql"] = "CREATE TABLE {place}.t_{iteration} AS SELECT * FROM b"
    declared = "loops:\n- template: 3_t.sql\n  convergence: SELECT count(*) FROM {place}.t_{iteration}\n"
    one, other = (planned(texts, declared, place=place) for place in ("s", "t"))
    same = [step_hash(a) == step_hash(b) for a, b in zip(one.steps, other.steps, strict=True)]
    assert same == [False, True, False]

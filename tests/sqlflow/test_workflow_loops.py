from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.sqlflow.model import Loop, Plan
from databricks_rlm_agent.sqlflow.plan.declarations import Declarations, parse_declarations
from databricks_rlm_agent.sqlflow.plan.iterations import iteration, renumber
from databricks_rlm_agent.sqlflow.plan.plan import SqlSource, loops_by_name, plan_of

ONE = (
    "CREATE OR REPLACE TABLE c.s.x_loop_{n} AS SELECT a, {n} AS pass FROM c.s.x_loop_{p};\n"
    "OPTIMIZE c.s.x_loop_{n}"
)


def iteration_text(number: int, text: str = ONE) -> str:
    return text.replace("{n}", str(number)).replace("{p}", str(number - 1))


def loop_of(texts: dict[str, str], declared: str | None = None) -> Loop:
    return only_loop(plan_of(SqlSource(texts=texts, declared=declared)))


def only_loop(plan: Plan) -> Loop:
    (loop,) = (step.loop for step in plan.steps if step.loop)
    return loop


@pytest.mark.parametrize(
    ("names", "loops"),
    [
        (["04_x_loop_iteration_01.sql", "04_x_loop_iteration_02.sql"], {"04_x_loop_iteration": 2}),
        (["4_iter_1.sql", "4_iter_2.sql", "4_b_iter_1.sql"], {"4_iter": 2, "4_b_iter": 1}),
        (["loopiter0.sql", "loopiter1.sql"], {"loopiter": 2}),
        (["iterate_merge_1_x.sql", "iterate_merge_2_x.sql"], {"iterate_merge_x": 2}),
        ([f"Iteration-{n}.SQL" for n in range(1, 12)], {"Iteration": 11}),
        (["criteria_1.sql", "literature_1.sql", "iteration_stats.sql", "04_x.sql", "reiterated_1.sql"], {}),
    ],
)
def test_loops_are_found_by_names(names: list[str], loops: dict[str, int]) -> None:
    found, notices = loops_by_name(reversed(names))
    assert {loop.id: len(loop.members) for loop in found} == loops
    assert notices == []


def test_iterations_are_in_the_order_of_their_numbers() -> None:
    (loop,), _ = loops_by_name(f"4_iter_{number}.sql" for number in range(12))
    assert loop.first == 0
    assert loop.members == tuple(f"4_iter_{number}.sql" for number in range(12))


def test_a_number_like_a_year_is_no_iteration() -> None:
    assert loops_by_name(["1_iter_2024.sql"]) == (
        [],
        ["1_iter_2024.sql: not a loop, because its iterations would begin at 2024."],
    )


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["iter_1.sql", "iter_3.sql"], "Iteration 2 is missing: iter_3.sql comes after iter_1.sql"),
        (["iter_1.sql", "iter_01.sql"], "Iteration 1 is there twice: iter_01.sql and iter_1.sql"),
    ],
)
def test_gaps_and_doubles_are_errors(names: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        loops_by_name(names)


def test_the_loop_is_a_step_and_later_files_wait_for_its_alias() -> None:
    plan = plan_of(
        SqlSource(
            texts={
                "03_a.sql": "CREATE TABLE c.s.x_loop_0 AS SELECT 1 AS a",
                "04_x_loop_iteration_01.sql": iteration_text(1),
                "04_x_loop_iteration_02.sql": iteration_text(2),
                "04_other.sql": "SELECT * FROM c.s.x_loop_7",
                "05_b.sql": "SELECT * FROM c.s.x_loop_final",
            }
        )
    )
    needs = {step.id: {need.step: need.reason for need in step.needs} for step in plan.steps}
    assert (
        needs["04_x_loop_iteration"]
        == {
            "03_a": "reads c.s.x_loop_0",
            "04_other": "writes c.s.x_loop_*, which that one reads",
        }
        or "04_x_loop_iteration" in needs["04_other"]
    )
    assert needs["05_b"] == {"04_x_loop_iteration": "reads c.s.x_loop_final"}
    step = next(step for step in plan.steps if step.loop)
    assert step.stage == 4
    assert step.reads == (("c", "s", "x_loop_0"),)
    assert plan.notices == ()


@pytest.mark.parametrize(
    ("table", "read_name", "alias"),
    [
        ("x_loop_{n}", "-", "x_loop_final"),
        ("x_iter_{n}", "x_loop_final", "x_loop_final"),
        ("x_loop_iter_{n}", "s.x_loop_final", "x_loop_final"),
        ("x_{n}", "-", "x_final"),
        ("x_{n}", "x_loop_final", "x_loop_final"),
        ("x_{n}", "s.x_loop_iteration_final", "x_loop_iteration_final"),
        ("x_{n}", "y_final", "x_final"),
        ("t", "-", None),
    ],
)
def test_the_alias_is_what_later_files_want(table: str, read_name: str, alias: str | None) -> None:
    text = f"CREATE OR REPLACE TABLE c.s.{table} AS SELECT * FROM c.s.y"
    texts = {"4_loop_iteration_1.sql": iteration_text(1, text), "5_b.sql": f"SELECT * FROM c.`{read_name}`"}
    texts["5_b.sql"] = f"SELECT * FROM {read_name}" if read_name != "-" else "SELECT 1"
    assert loop_of(texts).alias == (("c", "s", alias) if alias else None)


def test_iterations_that_exist_are_those_files() -> None:
    loop = loop_of({"4_iter_1.sql": iteration_text(1), "4_iter_2.sql": iteration_text(2)})
    one, two = iteration(loop, 1), iteration(loop, 2)
    assert (one.file.name, one.generated) == ("4_iter_1.sql", False)
    assert (one.table, one.before) == (("c", "s", "x_loop_1"), ("c", "s", "x_loop_0"))
    assert (two.table, two.before) == (("c", "s", "x_loop_2"), ("c", "s", "x_loop_1"))
    with pytest.raises(UsageError):
        iteration(loop, 0)


def test_a_first_iteration_may_have_none_before_it() -> None:
    first = "CREATE TABLE x_1 AS SELECT * FROM source"
    loop = loop_of({"4_iter_1.sql": first, "4_iter_2.sql": "CREATE TABLE x_2 AS SELECT * FROM x_1"})
    assert (iteration(loop, 1).table, iteration(loop, 1).before) == (("x_1",), None)
    assert (iteration(loop, 2).table, iteration(loop, 2).before) == (("x_2",), ("x_1",))


@given(st.integers(min_value=2, max_value=4), st.integers(min_value=1, max_value=300))
def test_generated_iterations_are_what_files_of_theirs_would_be(files: int, number: int) -> None:
    loop = loop_of({f"4_iter_{n:02d}.sql": iteration_text(n) for n in range(1, files + 1)})
    made = iteration(loop, number)
    assert [statement.text for statement in made.file.statements] == iteration_text(number).split(";\n")
    assert made.file.name == f"4_iter_{number:02d}.sql"
    assert made.generated is (number > files)
    assert (made.table, made.before) == (("c", "s", f"x_loop_{number}"), ("c", "s", f"x_loop_{number - 1}"))
    assert made == iteration(loop, number)


def test_one_file_alone_is_moved_on_by_the_names_of_its_tables() -> None:
    text = (
        "CREATE TEMP VIEW v_1 AS SELECT `id_1`, 1 AS one FROM s.x_loop_0;"
        "CREATE TABLE s.x_loop_01 AS SELECT * FROM v_1 JOIN s.other_1 USING (id_1)"
    )
    made = iteration(loop_of({"4_iter_1.sql": text}), 5)
    assert [statement.text for statement in made.file.statements] == [
        "CREATE TEMP VIEW v_5 AS SELECT `id_1`, 1 AS one FROM s.x_loop_4",
        "CREATE TABLE s.x_loop_05 AS SELECT * FROM v_5 JOIN s.other_1 USING (id_1)",
    ]


def test_numbers_that_stay_the_same_in_the_files_stay_the_same() -> None:
    text = "CREATE TABLE v2_x_{n} AS SELECT 10L, 1.5, 'pass {n} of 3' AS p FROM v2_x_{p} JOIN base_1"
    loop = loop_of({f"iter_{n}.sql": iteration_text(n, text) for n in (1, 2)})
    (statement,) = iteration(loop, 10).file.statements
    assert statement.text == iteration_text(10, text)
    assert iteration(loop, 10).before == ("v2_x_9",)


def test_the_table_is_the_one_that_goes_on() -> None:
    text = (
        "CREATE TABLE tmp_{n} AS SELECT * FROM x_{p}; CREATE TABLE x_{n} AS SELECT * FROM tmp_{n};"
        "CREATE TABLE stats_{n} AS SELECT count(*) FROM x_{n}; DROP TABLE tmp_{n}"
    )
    loop = loop_of({f"iter_{n}.sql": iteration_text(n, text) for n in (1, 2)})
    assert (iteration(loop, 3).table, iteration(loop, 3).before) == (("x_3",), ("x_2",))


@pytest.mark.parametrize("width", [1, 2])
def test_tables_may_have_leading_zeros(width: int) -> None:
    texts = {
        f"iter_{n}.sql": f"CREATE TABLE x_{n:0{width}d} AS SELECT * FROM x_{n - 1:0{width}d}"
        for n in range(1, 4)
    }
    made = iteration(loop_of(texts), 10)
    assert (made.table, made.before) == (("x_10",), (f"x_{9:0{width}d}",))
    assert iteration(loop_of(texts), 1).before == (f"x_{0:0{width}d}",)


def test_a_loop_in_place_compares_a_table_with_itself_with_a_notice() -> None:
    text = "MERGE INTO t USING (SELECT * FROM t JOIN e) s ON t.a = s.a WHEN MATCHED THEN UPDATE SET b = s.b"
    plan = plan_of(SqlSource(texts={"iter_1.sql": text}))
    made = iteration(only_loop(plan), 4)
    assert made.table == made.before == ("t",)
    (notice,) = plan.notices
    assert notice.startswith("iter: its iterations change t in place: it ends when one leaves all rows")


def test_iterations_that_cannot_be_generated_have_a_notice() -> None:
    texts = {
        "iter_1.sql": "CREATE TABLE x_1 AS TABLE y",
        "iter_2.sql": "CREATE TABLE x_2 AS TABLE z; CALL p()",
    }
    loop = loop_of(texts)
    assert iteration(loop, 3).file.statements[0].text == "CREATE TABLE x_3 AS TABLE z"
    texts["iter_2.sql"] = "CREATE TABLE other AS TABLE z; CALL p2()"
    assert loop_of(texts).files[1].problem


DECLARED = """
loops:
  - template: 4_step.sql
    name: unify
    key_columns: [id, ns]
    convergence: SELECT count(*) FROM x_{iteration} JOIN x_{previous}
    limit: 20
    alias: "{c}.s.done"
"""


def test_a_declared_template() -> None:
    text = "CREATE TABLE x_{iteration} AS SELECT * FROM x_{previous}"
    plan = plan_of(SqlSource(texts={"4_step.sql": text}, declared=DECLARED, variables={"c": "main"}))
    (step,) = plan.steps
    assert (step.id, step.stage) == ("unify", 4)
    loop = only_loop(plan)
    assert (loop.key_columns, loop.limit, loop.alias) == (("id", "ns"), 20, ("main", "s", "done"))
    made = iteration(loop, 7)
    assert made.file.statements[0].text == "CREATE TABLE x_7 AS SELECT * FROM x_6"
    assert (made.file.name, made.table, made.before) == ("4_step.7.sql", ("x_7",), ("x_6",))
    assert made.convergence == "SELECT count(*) FROM x_7 JOIN x_6"
    assert plan.notices == ()


def test_declared_files_need_no_convention() -> None:
    texts = {f"4_pass_{n}.sql": iteration_text(n, "CREATE TABLE x_{n} AS TABLE x_{p}") for n in range(1, 11)}
    loop = loop_of(texts, "loops:\n  - files: 4_pass_*.sql\n")
    assert [file.name for file in loop.files] == [f"4_pass_{n}.sql" for n in range(1, 11)]
    assert iteration(loop, 11).table == ("x_11",)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("loops: [", 1, "not YAML"),
        ("x: 1", 1, "The key 'x' is not known"),
        ("loops:\n  a: 1", 2, "loops must be a list"),
        ("loops:\n  - files: a.sql\n    limt: 3", 3, "The key 'limt' is not known"),
        ("loops:\n  - files: a.sql\n    limit: soon", 3, "limit is 'soon'"),
        ("loops:\n  - files: a.sql\n    limit: 0", 3, "limit must be 1 or more"),
        ("loops:\n  - limit: 3", 2, "either files or a template"),
        ("loops:\n  - files: a.sql\n    template: b.sql", 2, "either files or a template"),
        ("loops:\n  - files: {a: 1}", 2, "files must be a list"),
        ("loops:\n  - template: ''", 2, "template must be a text"),
        ("loops:\n  - files: a.sql\n    files: b.sql", 3, "is repeated"),
        ("- 1", 1, "must have keys and values"),
    ],
)
def test_errors_in_a_declaration_have_their_line(text: str, line: int, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        parse_declarations(text)
    assert caught.value.where == f"workflow.yml:{line}"


@pytest.mark.parametrize("text", ["", "# nothing\n", "loops: []\n"])
def test_nothing_may_be_declared(text: str) -> None:
    assert parse_declarations(text) == Declarations()


@pytest.mark.parametrize(
    "declared",
    [
        "loops:\n  - files: nope_*.sql",
        "loops:\n  - template: nope.sql",
        "loops:\n  - files: a.sql\n  - files: a.sql",
    ],
)
def test_declared_files_must_be_there_and_free(declared: str) -> None:
    with pytest.raises(UsageError, match=r"workflow\.yml:"):
        plan_of(SqlSource(texts={"a.sql": "SELECT 1"}, declared=declared))


def test_numbers_keep_their_width() -> None:
    assert renumber("x_09", 9, 10) == "x_10"
    assert renumber("x_9", 9, 10) == "x_10"
    assert renumber("v1_x_1", 1, 2) == "v1_x_2"
    assert renumber("x", 1, 2) is None

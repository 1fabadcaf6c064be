"""What a SQL workflow may do: judged statement by statement, as SQL in programs is."""

from __future__ import annotations

from typing import Any

import pytest

from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.policy.judge import PolicyFinding, ProgramPolicy
from databricks_rlm_agent.runs.actions import RunSqlWorkflow

NAMESPACE = Namespace(catalog="main", schema="rlm", volume="files")


def judged(files: dict[str, str], mode: str = "PROD", **options: Any) -> PolicyFinding | None:
    chosen = {name: options.pop(name) for name in ("catalog", "schema", "variables") if name in options}
    policy = ProgramPolicy(mode=mode, namespace=NAMESPACE, run_id="r1", **options)
    return policy.judge(RunSqlWorkflow(name="flow", purpose="p", files=files, **chosen))


def rule(files: dict[str, str], mode: str = "PROD", **options: Any) -> str:
    found = judged(files, mode, **options)
    return "" if found is None else found.rule + ("" if found.refused else "?")


EVERYDAY = {
    "tables of its own, dropped by another file": {
        "01_drop.sql": "DROP TABLE IF EXISTS edges; DROP TABLE IF EXISTS main.rlm.nodes",
        "02_make.sql": "CREATE TABLE edges AS SELECT 1 AS a; CREATE TABLE IF NOT EXISTS nodes (a INT)",
        "03_fill.sql": "INSERT INTO nodes SELECT a FROM edges; DELETE FROM nodes; TRUNCATE TABLE nodes",
    },
    "a loop with its alias": {
        "01_it_loop_iteration_01.sql": "CREATE OR REPLACE TABLE it_1 AS SELECT 1 AS a",
        "01_it_loop_iteration_02.sql": "CREATE OR REPLACE TABLE it_2 AS SELECT a FROM it_1; DROP TABLE it_1",
        "02_end.sql": "CREATE OR REPLACE VIEW v AS SELECT * FROM it_loop_final; OPTIMIZE it_2",
    },
    "reads of others": {"a.sql": "USE CATALOG sales; SELECT * FROM shop.orders; SHOW TABLES IN shop"},
    "where it says": {
        "a.sql": "USE SCHEMA main.rlm; CREATE OR REPLACE TABLE a AS SELECT * FROM sales.shop.o"
    },
    "a session's own": {"a.sql": "CREATE TEMPORARY VIEW v AS SELECT 1; SET x = 1; DECLARE VARIABLE y INT"},
}


@pytest.mark.parametrize("name", EVERYDAY)
@pytest.mark.parametrize("mode", ["DEV", "PROD"])
def test_everyday_workflows_pass(name: str, mode: str) -> None:
    assert judged(EVERYDAY[name], mode) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CREATE TABLE sales.shop.x AS SELECT 1", "write target"),
        ("USE SCHEMA sales.shop; CREATE TABLE x AS SELECT 1", "write target"),
        ("INSERT INTO main.rlm.run_state SELECT 1", "own tables"),
        ("DELETE FROM sql_workflow_steps", "own tables"),
        ("DROP TABLE main.rlm.others", "destructive"),
        ("DROP SCHEMA main.rlm CASCADE", "destructive"),
        ("GRANT SELECT ON TABLE a TO `all`", "destructive"),
        ("BEGIN DROP TABLE x; END", "unclear"),
    ],
)
def test_what_no_program_may_do_no_workflow_may(text: str, expected: str) -> None:
    found = judged({"01_ok.sql": "SELECT 1", "02_x.sql": f"SELECT 1;\n{text}"})
    assert found is not None
    assert found.rule == expected
    assert found.reason.startswith("02_x.sql: Line 2")


def test_a_session_ends_with_its_file() -> None:
    files = {"01_a.sql": "USE SCHEMA sales.shop", "02_b.sql": "CREATE OR REPLACE TABLE x AS SELECT 1 AS a"}
    assert judged(files) is None


def test_where_it_is_to_run_is_judged_too() -> None:
    files = {"a.sql": "CREATE OR REPLACE TABLE x AS SELECT 1 AS a"}
    assert rule(files, catalog="sales", schema="shop") == "write target"
    assert rule(files, "DEV", catalog="sales", schema="shop") == ""
    assert rule(files, catalog="sales", schema="shop", write_targets=("sales.*",)) == ""


def test_variables_are_put_in_before() -> None:
    files = {"a.sql": "CREATE TABLE {place}.x AS SELECT 1 AS a"}
    assert rule(files, variables={"place": "main.rlm"}) == ""
    assert rule(files, variables={"place": "sales.shop"}) == "write target"


def test_what_the_run_has_made_before_may_go() -> None:
    files = {"a.sql": "DROP TABLE main.rlm.old"}
    assert rule(files) == "destructive"
    assert rule(files, tables=frozenset({"main.rlm.old"})) == ""

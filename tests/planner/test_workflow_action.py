"""The action run_sql_workflow: its arguments, its folder, and what goes back to the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from databricks_rlm_agent.errors import Forbidden, InvalidData, RlmError
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.planner.actions import run_sql_workflow
from databricks_rlm_agent.planner.review import collect_workflow, run_policy
from databricks_rlm_agent.ports import Planner, PlanningContext, PlanResult
from databricks_rlm_agent.runs.actions import RunSqlWorkflow
from databricks_rlm_agent.sqlflow.handover import MAX_BYTES, NAME, content_hash

Make = Callable[..., Planner]
NAMESPACE = Namespace(catalog="main", schema="rlm", volume="files")
FOLDER = "/Volumes/main/rlm/in/Flows 2"
A, B = "CREATE OR REPLACE TABLE a AS SELECT 1 AS x;", "CREATE OR REPLACE TABLE b AS SELECT x FROM a;"


def call(**arguments: Any) -> dict[str, Any]:
    return {"call": "run_sql_workflow", "args": {"purpose": "to make b", **arguments}}


def refusals(planned: PlanResult) -> list[str]:
    return [note.payload["reason"] for note in planned.notes if note.kind == "refusal"]


@pytest.fixture
def folder(world: dict[str, Any]) -> dict[str, bytes]:
    """The files of the Volume, with a folder of SQL."""
    files: dict[str, bytes] = world["volume"].files
    files |= {
        f"{FOLDER}/01_a.sql": b"\xef\xbb\xbf" + A.encode(),
        f"{FOLDER}/02_b.sql": B.encode(),
        f"{FOLDER}/readme.md": b"no SQL",
        f"{FOLDER}/.02_b.sql": b"an editor's",
    }
    return files


def test_a_folder_is_read_and_files_are_put_over_it(
    scripted: Make, context: PlanningContext, folder: dict[str, bytes]
) -> None:
    planned = scripted(call(path=FOLDER, files={"02_b.sql": f"-- fixed\n{B}", "03_c.sql": A})).plan(context)
    assert planned.action == RunSqlWorkflow(
        name="flows_2",
        purpose="to make b",
        files={"01_a.sql": A, "02_b.sql": f"-- fixed\n{B}", "03_c.sql": A},
    )


def test_every_argument_is_passed_on(scripted: Make, context: PlanningContext) -> None:
    given = call(
        files={"a.sql": "SELECT '{x}'"}, name="flow", variables={"x": "1"}, engine="warehouse",
        target="lake.s", max_iterations=7, on_error="continue", restart=True, timeout_s=60,
    )  # fmt: skip
    assert scripted(given).plan(context).action == RunSqlWorkflow(
        name="flow", purpose="to make b", files={"a.sql": "SELECT '{x}'"}, variables={"x": "1"},
        engine="warehouse", catalog="lake", schema="s", max_iterations=7, on_error="continue", restart=True,
        timeout_s=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "There is no .sql file"),
        ({"files": {"workflow.yml": "loops: []"}}, "There is no .sql file"),
        ({"path": "/tmp/x"}, "/Volumes"),
        ({"path": "/Volumes/main/rlm/in/none"}, "The folder cannot be listed"),
        ({"files": {"../x.sql": A}}, "is not the name"),
        ({"files": {"x.txt": A}}, "is not the name"),
        ({"files": {"a.sql": A}, "name": "Not A Name"}, "not a name for a workflow"),
        ({"files": {"a.sql": A}, "target": "schema_only"}, "catalog.schema"),
        ({"files": {"a.sql": A}, "target": "c.s; DROP"}, "not a valid schema"),
        ({"files": {"a.sql": A}, "max_iterations": 0}, "max_iterations"),
        ({"files": {"a.sql": A}, "engine": "duckdb"}, "engine"),
        ({"files": {"02_x.sql": "SELECT 1;\nSELECT 'no end"}}, "02_x.sql:2"),
        ({"files": {"a.sql": "SELECT * FROM {t}"}}, 'a.sql:1) Give variables {"t": VALUE}.'),
    ],
)
def test_what_cannot_be_run_goes_back_with_the_reason(
    scripted: Make, context: PlanningContext, arguments: dict[str, Any], reason: str
) -> None:
    planned = scripted(call(**arguments), call(files={"a.sql": A})).plan(context)
    assert planned.action is not None
    assert reason in refusals(planned)[0]


def test_a_folder_that_is_no_text_too_large_or_not_allowed_is_refused(world: dict[str, Any]) -> None:
    volume, action = world["volume"], RunSqlWorkflow(name="flow", purpose="p", path="/Volumes/a/b/c")
    volume.files["/Volumes/a/b/c/01_a.sql"] = b"SELECT 1;\n\xff"
    with pytest.raises(InvalidData, match="UTF-8") as caught:
        collect_workflow(action, volume=volume, namespace=NAMESPACE)
    assert caught.value.where == "/Volumes/a/b/c/01_a.sql:2"
    volume.files["/Volumes/a/b/c/01_a.sql"] = b" " * (MAX_BYTES + 1)
    with pytest.raises(InvalidData, match="limits"):
        collect_workflow(action, volume=volume, namespace=NAMESPACE)

    def forbidden(*_: Any, **__: Any) -> Any:
        raise Forbidden("No.")

    volume.list = forbidden
    with pytest.raises(InvalidData, match="cannot be listed"):
        collect_workflow(action, volume=volume, namespace=NAMESPACE)


def test_the_policy_looks_at_every_file(scripted: Make, context: PlanningContext) -> None:
    policy = run_policy(NAMESPACE, None)
    files = {"01_a.sql": A, "02_x.sql": "USE SCHEMA sales.shop;\nDELETE FROM orders;"}
    planned = scripted(call(files=files), call(files={"a.sql": A}), policy=policy).plan(context)
    assert planned.action is not None
    assert refusals(planned)[0].startswith("02_x.sql: Line 2: DELETE without WHERE on sales.shop.orders.")
    strict = scripted(
        call(files={"01_a.sql": A}, target="sales.shop"), call(files={"a.sql": A}), policy=policy
    )
    refused = refusals(strict.plan(replace(context, mode="PROD")))
    assert "sales.shop" in refused[0]


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [
        (None, "/Volumes/a/b/c/identity", "identity"),
        (None, "/Volumes/a/b/c/Identity Unification (v2)/", "identity_unification_v2"),
        (None, "/Volumes/a/b/c/scratchpad/run_r1/workflows/flow_0123456789abcdef", "flow"),
        (None, "/Volumes/a/b/c/2026", "workflow"),
        (None, None, "workflow"),
        ("mine", "/Volumes/a/b/c/identity", "mine"),
    ],
)
def test_a_workflow_is_called_as_its_folder(name: str | None, path: str | None, expected: str) -> None:
    assert run_sql_workflow("p", path=path, name=name).name == expected


@given(st.text(max_size=60))
def test_a_name_is_always_one(folder: str) -> None:
    try:
        action = run_sql_workflow("p", path=f"/Volumes/a/b/c/{folder}")
    except RlmError:
        return
    assert NAME.fullmatch(action.name)


texts = st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=8), max_size=4)


@given(texts, texts)
def test_the_hash_tells_workflows_apart(one: dict[str, str], other: dict[str, str]) -> None:
    try:
        assert (content_hash(one) == content_hash(other)) == (one == other)
    except UnicodeEncodeError:
        pytest.skip("lone surrogates never come from UTF-8")


def test_usage_errors_of_the_plan_are_no_faults() -> None:
    action = RunSqlWorkflow(name="flow", purpose="p", files={"a.sql": "SELECT (1;"}, catalog="c", schema="s")
    volume: Any = None
    assert (
        collect_workflow(action, volume=volume, namespace=NAMESPACE).path is None
    )  # the engine will judge it
    with pytest.raises(InvalidData, match="has no end"):
        collect_workflow(replace(action, files={"a.sql": "SELECT `x"}), volume=volume, namespace=NAMESPACE)

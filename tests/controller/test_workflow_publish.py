"""A SQL workflow on its way to its job: what is published, frozen, submitted, and found again."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest
from fakes import LOST, NAMESPACE, Controller, Gate, Killed, World, check_invariants, settle

from databricks_rlm_agent.attempts.manifest import Manifest
from databricks_rlm_agent.attempts.records import RequestRow
from databricks_rlm_agent.controller.publish import Workflows
from databricks_rlm_agent.runs.actions import Finish, RunSqlWorkflow
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.sqlflow.handover import Order, content_hash

FILES = {"01_a.sql": "CREATE OR REPLACE TABLE a AS SELECT 'ä' AS x", "workflow.yml": "loops: []"}
FLOW = RunSqlWorkflow(name="flow", purpose="to make a", files=FILES, variables={"x": "1"}, timeout_s=50)
SCRIPT = [FLOW, Finish(answer="42")]


def played(script: list[Any], **world: Any) -> World:
    made = World(**world)
    made.add()
    settle(made, Controller(world=made, script=script))
    check_invariants(made)
    return made


def manifest_of(world: World, attempt: int = 1) -> Manifest:
    path = f"{NAMESPACE.attempt_dir('r1', 1, attempt)}/manifest.json"
    return Manifest.parse(world.files[path], where=path)


def document_of(world: World, manifest: Manifest) -> dict[str, Any]:
    """What the published program hands to the harness."""
    found: list[dict[str, Any]] = []
    program = world.files[manifest.request.artifact.path].decode()
    exec(  # the program that was just generated, with its one import put in
        program.replace("from executor_harness.workflow import run\n", ""),
        {"rlm": None, "run": lambda _rlm, entry, document: found.append({"entry": entry, **document})},
    )
    return found[0]


def test_files_are_published_and_named_by_the_program() -> None:
    world = played(SCRIPT)
    manifest = manifest_of(world)
    assert manifest.request.task_type == "sql_workflow"
    assert (manifest.request.purpose, manifest.request.timeout_s) == ("to make a", 50)
    document = document_of(world, manifest)
    order = Order.of(document["order"])
    assert order.folder == f"{NAMESPACE.run_dir('r1')}/workflows/flow_{content_hash(FILES)[:16]}"
    assert {name: world.files[f"{order.folder}/{name}"].decode() for name in order.files} == FILES
    assert order == Order(
        name="flow", folder=order.folder, files=("01_a.sql", "workflow.yml"), sha256=content_hash(FILES),
        run_id="rlm-r1-flow", catalog=NAMESPACE.catalog, schema=NAMESPACE.schema, variables={"x": "1"},
    )  # fmt: skip
    assert document["engine"] == {"kind": "spark"}
    module, _, function = document["entry"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert [row.task_type for row in world.table(RequestRow)] == ["sql_workflow"]
    run = world.runs["r1"]
    assert run.fsm_state is State.SUCCEEDED
    assert [item.text for item in run.capsule.decisions] == ["to make a"]  # and nothing of generated code


def test_the_next_attempt_runs_the_same_program() -> None:
    world = played(SCRIPT, endings={(1, 1): LOST})
    first, second = manifest_of(world), manifest_of(world, 2)
    assert second.request.task_type == "sql_workflow"
    assert second.request.artifact.sha256 == first.request.artifact.sha256
    assert document_of(world, second) == document_of(world, first)


def test_a_fix_goes_on_with_the_same_run_and_a_restart_says_which_iteration_it_is() -> None:
    fixed = {**FILES, "01_a.sql": "CREATE OR REPLACE TABLE a AS SELECT 2 AS x"}
    again = RunSqlWorkflow(name="flow", purpose="fix", files=fixed, restart=True)
    world = played([FLOW, again, Finish(answer="42")])
    path = f"{NAMESPACE.attempt_dir('r1', 2, 1)}/manifest.json"
    order = document_of(world, Manifest.parse(world.files[path], where=path))["order"]
    assert (order["run_id"], order["restart"]) == ("rlm-r1-flow", 2)
    assert len([name for name in world.files if name.endswith("/01_a.sql")]) == 2


def test_a_workflow_on_a_warehouse_brings_its_connector_along() -> None:
    world = World()
    volume: Any = Controller(world=world, script=[]).tick.advancer.publisher.volume
    flow = RunSqlWorkflow(name="flow", purpose="p", files=FILES, engine="warehouse")
    assert Workflows(volume=volume, namespace=NAMESPACE, http_path=None).refusal(flow) is not None
    workflows = Workflows(volume=volume, namespace=NAMESPACE, http_path="/sql/1.0/warehouses/w")
    assert workflows.refusal(flow) is None
    job = workflows.publish(world.add().key, flow)
    assert job.packages[0].startswith("databricks-sql-connector==")
    assert b"/sql/1.0/warehouses/w" in job.program
    assert b"spark" not in job.program  # such a job needs no session


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_controller_that_dies_at_any_call_changes_nothing(after: bool) -> None:
    calls: list[str] = []
    expected = _outcome(None, after, calls)
    assert calls.count("put 01_a.sql") == 1
    for at in range(len(calls)):
        assert _outcome(at, after, []) == expected, calls[at]


def _outcome(at: int | None, after: bool, calls: list[str]) -> Any:
    """How the run ends where a controller dies at one of its calls, and another one goes on."""
    world = World(endings={(1, 1): LOST})
    world.add()
    left = [at]

    def fault(name: str, past: bool) -> None:
        if not past:
            calls.append(name)
        if left[0] == len(calls) - 1 and past is after:
            left[0] = None
            raise Killed

    def context() -> None:
        try:
            Controller(world=world, script=SCRIPT, name=world.new_id("c"), gate=Gate(fault=fault))()
        except Killed:
            return
        finally:
            check_invariants(world)

    settle(world, context, steps=200)
    run = world.runs["r1"]
    files = {name: content for name, content in world.files.items() if not name.endswith(".json")}
    published = {name: json.dumps(len(content)) for name, content in files.items()}
    return run.fsm_state, run.outcome, run.iter_n, run.capsule, published, dict(world.launches)

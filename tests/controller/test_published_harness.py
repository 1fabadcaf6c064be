"""The one file that is published for Job B: what it holds, and how a damaged one is found and mended."""

from __future__ import annotations

import ast
import base64
import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from fakes import NAMESPACE, FakeVolume, Gate, Killed, World

import executor_harness
from databricks_rlm_agent.controller import bundle
from databricks_rlm_agent.errors import InvalidData, NotFound

SOURCES = sorted(Path(executor_harness.__file__).parent.rglob("*.py"))
PATH = f"{bundle.folder(NAMESPACE)}/main.py"
# Python's own library and the runner: -I and -S leave out what is installed.
PLANS = """
import json, sys
sys.path[:0] = [sys.argv[1] + "/runner", sys.argv[1]]
from databricks_rlm_agent.databricks import sql, workflow_job, workspace
from databricks_rlm_agent.sqlflow.handover import source_of
from databricks_rlm_agent.sqlflow.plan.iterations import iteration
from databricks_rlm_agent.sqlflow.plan.plan import plan_of
from databricks_rlm_agent.sqlflow.run import spark
files = {
    "01_a.sql": "CREATE OR REPLACE TABLE a AS SELECT explode(xs) AS x FROM raw WHERE y RLIKE '^;' -- ;",
    "02_b_loop_iteration_01.sql": "CREATE OR REPLACE TABLE b_1 AS SELECT x FROM a",
    "02_b_loop_iteration_02.sql": "CREATE OR REPLACE TABLE b_2 AS SELECT min(x) AS x FROM b_1",
    "03_c.sql": "MERGE INTO c USING b_final AS s ON c.x = s.x WHEN NOT MATCHED THEN INSERT *",
    "workflow.yml": "tables: {a: {key: [x]}}",
}
plan = plan_of(source_of(files, variables={}, catalog="main", schema="s"))
loop = next(step.loop for step in plan.steps if step.loop)
made = iteration(loop, 3).file.statements[0]
ours = [sys.modules[name].__file__ for name in ("sqlglot", "tenacity", "yaml")]
print(json.dumps({
    "steps": [step.id for step in plan.steps],
    "third": [".".join(name) for name in made.makes],
    "from": sorted({file.startswith(sys.argv[1]) for file in ours}),
    "pydantic": "pydantic" in sys.modules,
}))
"""


def volume(world: World, gate: Gate | None = None) -> FakeVolume:
    return FakeVolume(world=world, gate=gate or Gate())


def archive() -> zipfile.ZipFile:
    found = re.search(rb'^_ZIP = "(.+)"$', bundle.published(), re.MULTILINE)
    assert found
    return zipfile.ZipFile(io.BytesIO(base64.b64decode(found[1])))


def test_one_file_is_put_once_under_a_hash_of_it() -> None:
    world, puts = World(), []
    gate = Gate(fault=lambda name, after: puts.append(name) if after and name.startswith("put") else None)
    for _ in range(2):
        assert bundle.publish(volume(world, gate), NAMESPACE) == bundle.folder(NAMESPACE)
    assert world.files == {PATH: bundle.published()}
    assert len(puts) == 1
    assert re.fullmatch(r"/Volumes/main/rlm/artifacts/harness/[0-9a-f]{16}/main.py", PATH)


def test_the_same_sources_give_the_same_bytes() -> None:
    first = bundle.published()
    bundle.published.cache_clear()
    assert bundle.published() == first


@pytest.mark.parametrize(
    "damaged",
    [b"", bundle.published()[:-1000], bundle.published()[:-1] + b"#", None],
    ids=["empty", "cut short", "changed", "missing"],
)
def test_a_damaged_file_is_seen_and_mended(damaged: bytes | None) -> None:
    world = World()
    bundle.publish(volume(world), NAMESPACE)
    assert bundle.verify(volume(world), NAMESPACE) == bundle.folder(NAMESPACE)
    del world.files[PATH]
    if damaged is not None:
        world.files[PATH] = damaged
    with pytest.raises(NotFound if damaged is None else InvalidData, match="rlm-agent init"):
        bundle.verify(volume(world), NAMESPACE)
    bundle.publish(volume(world), NAMESPACE)
    assert world.files == {PATH: bundle.published()}
    assert bundle.verify(volume(world), NAMESPACE) == bundle.folder(NAMESPACE)


def test_a_controller_that_dies_while_it_publishes_leaves_nothing_that_the_next_cannot_mend() -> None:
    for past in (False, True):
        world = World()

        def fault(name: str, after: bool, past: bool = past) -> None:
            if name.startswith("put") and after is past:
                raise Killed

        with pytest.raises(Killed):
            bundle.publish(volume(world, Gate(fault=fault)), NAMESPACE)
        bundle.publish(volume(world), NAMESPACE)
        assert world.files == {PATH: bundle.published()}


def test_the_zip_holds_the_harness_the_runner_and_licences() -> None:
    names = set(archive().namelist())
    top = {name.partition("/")[0] for name in names}
    assert top == {"executor_harness", "runner"}  # programs find no library of the runner on their path
    below = {name.split("/")[1] for name in names if name.startswith("runner/")}
    assert below == {"databricks_rlm_agent", "sqlglot", "tenacity", "yaml", "licences"}
    assert {name for name in names if "licences" in name} == {
        f"runner/licences/{library}/LICENSE" for library in ("PyYAML", "sqlglot", "tenacity")
    }
    rooms = {name.split("/")[2] for name in names if name.startswith("runner/databricks_rlm_agent/")}
    assert not rooms & {"controller", "planner", "storage", "runs", "attempts", "policy", "intake", "cli"}
    assert "runner/databricks_rlm_agent/sqlflow/run/workflow.py" in names
    assert {"executor_harness/__init__.py", "executor_harness/job.py"} <= names
    assert "executor_harness/main.py" not in names


def test_the_runner_plans_a_workflow_without_anything_else(tmp_path: Path) -> None:
    archive().extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", PLANS, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "steps": ["01_a", "02_b_loop_iteration", "03_c"],
        "third": ["main.s.b_3"],
        "from": [True],
        "pydantic": False,
    }


def test_a_file_that_was_cut_or_changed_runs_nothing(tmp_path: Path) -> None:
    whole = bundle.published()
    middle = whole.index(b'_ZIP = "') + 5000
    for damaged in (whole[:middle], whole.replace(whole[middle : middle + 8], b"AAAAAAAA", 1)):
        (tmp_path / "main.py").write_bytes(damaged)
        done = subprocess.run(
            [sys.executable, str(tmp_path / "main.py")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode != 0
        assert "damaged" in done.stderr or "SyntaxError" in done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_harness_imports_nothing_of_ours_not_even_by_string(path: Path) -> None:
    text = path.read_text("utf-8")
    for name in ("databricks_rlm_agent", "local_workspace"):
        assert name not in text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            top = str(node.module).partition(".")[0]
            assert top == "executor_harness" or top in {*sys.stdlib_module_names, "pyspark"}

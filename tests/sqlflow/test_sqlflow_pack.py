"""What is published for Job B: it must work in an interpreter that has nothing else."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

from databricks_rlm_agent.controller import bundle
from databricks_rlm_agent.layout import Namespace

NAMESPACE = Namespace(catalog="main", schema="rlm", volume="files")
# Python's own library and the pack: -I and -S leave out what is installed.
_ALONE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from databricks_rlm_agent.sqlflow.plan.plan import plan_of
from databricks_rlm_agent.sqlflow.handover import source_of
from databricks_rlm_agent.sqlflow.plan.iterations import iteration
from databricks_rlm_agent.sqlflow.run import spark, task
from databricks_rlm_agent.databricks import sql, workspace
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


def test_the_pack_plans_a_workflow_without_anything_else(tmp_path: Path) -> None:
    zipfile.ZipFile(io.BytesIO(bundle.load_sql_runner().content)).extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", _ALONE, str(tmp_path)],
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


def test_the_pack_holds_licences_and_nothing_of_the_control_plane() -> None:
    names = zipfile.ZipFile(io.BytesIO(bundle.load_sql_runner().content)).namelist()
    assert {name for name in names if name.startswith("licences/")} == {
        f"licences/{library}/LICENSE" for library in ("PyYAML", "sqlglot", "tenacity")
    }
    parts = {name.split("/")[1] for name in names if name.startswith("databricks_rlm_agent/")}
    assert parts == {
        *("__init__.py", "errors.py", "logs.py", "models.py", "retry.py", "secrets.py", "values.py"),
        *("databricks", "sqlflow", "sqltext"),
    }


def test_it_lies_under_its_content_and_is_the_same_for_the_same_files() -> None:
    first = bundle.load_sql_runner()
    bundle.load_sql_runner.cache_clear()
    assert bundle.load_sql_runner() == first
    assert first.path(NAMESPACE) == f"/Volumes/main/rlm/files/harness/{first.sha256[:16]}/sqlflow.zip"

"""The Databricks provider of Airflow: hooks, operators and sensors, without a scheduler."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

from checks import HOST, HTTP_PATH, TOKEN, WAREHOUSE, Checks

address, _, port = HOST.partition("//")[2].partition(":")
os.environ["AIRFLOW_HOME"] = os.environ["CLIENT_FOLDER"]
os.environ["AIRFLOW_CONN_DATABRICKS_DEFAULT"] = json.dumps(
    {
        "conn_type": "databricks", "host": address, "port": int(port), "schema": HOST.partition(":")[0],
        "password": TOKEN,
        "extra": {"http_path": HTTP_PATH, "_connection_uri": HOST + HTTP_PATH, "enable_telemetry": False},
    }
)  # fmt: skip

from airflow.providers.databricks.hooks.databricks import DatabricksHook  # noqa: E402
from airflow.providers.databricks.hooks.databricks_sql import DatabricksSqlHook  # noqa: E402
from airflow.providers.databricks.operators.databricks import (  # noqa: E402
    DatabricksCreateJobsOperator,
    DatabricksRunNowOperator,
    DatabricksSQLStatementsOperator,
    DatabricksSubmitRunOperator,
)
from airflow.providers.databricks.operators.databricks_sql import DatabricksSqlOperator  # noqa: E402
from airflow.providers.databricks.sensors.databricks_sql import DatabricksSqlSensor  # noqa: E402

check = Checks()
hook = DatabricksHook()
FOLDER = "/programs/airflow"


def put(name: str, code: str) -> str:
    body = {
        "path": f"{FOLDER}/{name}",
        "contents": base64.b64encode(code.encode()).decode(),
        "overwrite": True,
    }
    hook._do_api_call(("POST", "2.0/dbfs/put"), body)
    return f"dbfs:{FOLDER}/{name}"


def task(path: str, *parameters: str) -> dict[str, Any]:
    return {"task_key": "a", "spark_python_task": {"python_file": path, "parameters": list(parameters)}}


def finish(run_id: int) -> str:
    while not hook.get_run_state(run_id).is_terminal:
        time.sleep(0.5)
    return str(hook.get_run_state(run_id).result_state)


class TaskInstance:
    """What an operator knows of the task that it carries out, and where it leaves its values."""

    dag_id, task_id, run_id, try_number, map_index = "dag", "task", "run", 1, -1

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}
        self.stats_tags: dict[str, str] = {}

    def xcom_push(self, key: str, value: Any, **_more: Any) -> None:
        self.pushed[key] = value


def context(instance: TaskInstance | None = None) -> Any:
    instance = instance or TaskInstance()
    return {"ti": instance, "task_instance": instance, "run_id": "run"}


GOOD = put("good.py", "import sys; print('args', sys.argv[1:])")
BAD = put(
    "bad.py",
    "import os, pathlib\np = pathlib.Path('/dbfs/programs/airflow/there')\nassert p.exists() or p.touch()",
)
kept: dict[str, int] = {}


@check
def hook_tests_its_connection() -> None:
    good, said = hook.test_connection()
    assert good, said


@check
def hook_submits_a_run() -> None:
    kept["run"] = hook.submit_run({"run_name": "x", "tasks": [task(GOOD, "{{job.run_id}}")]})
    assert finish(kept["run"]) == "SUCCESS"


@check
def hook_reads_output_and_page() -> None:
    (only,) = hook.get_run_tasks(kept["run"])
    assert hook.get_run_output(only["run_id"])["logs"] == f"args ['{kept['run']}']\n"
    assert hook.get_run_page_url(kept["run"]).startswith("http")
    assert hook.get_run_state_lifecycle(kept["run"]) == "TERMINATED"


@check
def hook_makes_finds_changes_a_job() -> None:
    settings = {"name": "airflow job", "tasks": [task(BAD)]}
    kept["job"] = hook.create_job(settings)
    assert hook.find_job_id_by_name("airflow job") == kept["job"]
    hook.update_job(str(kept["job"]), {"description": "d"})
    hook.reset_job(str(kept["job"]), {**settings, "tags": {"a": "b"}})
    assert kept["job"] in {job["job_id"] for job in hook.list_jobs()}


@check
def hook_runs_and_repairs_a_job() -> None:
    run_id = hook.run_now({"job_id": kept["job"]})
    assert finish(run_id) == "FAILED"
    assert hook.get_latest_repair_id(run_id) is None
    hook.repair_run({"run_id": run_id, "rerun_all_failed_tasks": True})
    assert finish(run_id) == "SUCCESS"
    assert hook.get_latest_repair_id(run_id)


@check
def hook_cancels_and_deletes_a_run() -> None:
    run_id = hook.submit_run({"tasks": [task(put("sleep.py", "import time; time.sleep(600)"))]})
    hook.cancel_run(run_id)
    assert finish(run_id) == "CANCELED"
    hook.delete_run(run_id)


@check
def hook_looks_at_cluster_and_warehouse() -> None:
    assert hook.get_cluster_state("local").is_running
    assert hook.get_warehouse_state(WAREHOUSE).is_running
    hook.start_warehouse(WAREHOUSE)


@check
def sql_hook_reads_records() -> None:
    sql = DatabricksSqlHook()
    assert [tuple(row) for row in sql.get_records("SELECT id, 'x' AS t FROM range(2)")] == [
        (0, "x"),
        (1, "x"),
    ]
    assert tuple(sql.get_first("SELECT :n AS n", parameters={"n": 5})) == (5,)


@check
def sql_hook_runs_several_statements() -> None:
    sql = DatabricksSqlHook(catalog="main", schema="default")
    sql.run(
        ["CREATE OR REPLACE TABLE airflow_t (id INT, t STRING)", "INSERT INTO airflow_t VALUES (1, 'It''s')"]
    )
    assert [tuple(row) for row in sql.get_records("SELECT id, t FROM airflow_t")] == [(1, "It's")]


@check
def sql_hook_makes_a_data_frame() -> None:
    frame = DatabricksSqlHook().get_df("SELECT id FROM range(3)", df_type="pandas")
    assert list(frame["id"]) == [0, 1, 2]


@check
def operator_submits_a_run() -> None:
    instance = TaskInstance()
    operator = DatabricksSubmitRunOperator(task_id="s", tasks=[task(GOOD)], polling_period_seconds=1)
    operator.execute(context(instance))
    assert instance.pushed["run_id"]


@check
def operator_says_why_a_run_failed() -> None:
    path = put("raise.py", "raise ValueError('the reason')")
    operator = DatabricksSubmitRunOperator(task_id="f", tasks=[task(path)], polling_period_seconds=1)
    said = ""
    try:
        operator.execute(context())
    except Exception as error:
        said = str(error)
    assert "the reason" in said, said


@check
def operator_runs_a_job() -> None:
    operator = DatabricksRunNowOperator(task_id="n", job_name="airflow job", polling_period_seconds=1)
    operator.execute(context())


@check
def operator_makes_a_job() -> None:
    operator = DatabricksCreateJobsOperator(task_id="c", json={"name": "made", "tasks": [task(GOOD)]})
    first = operator.execute(context())
    assert operator.execute(context()) == first


@check
def operator_runs_sql() -> None:
    operator = DatabricksSqlOperator(task_id="q", sql="SELECT count(*) AS n FROM main.default.airflow_t")
    operator.execute(context())


@check
def operator_exports_csv() -> None:
    path = f"{os.environ['CLIENT_FOLDER']}/out.csv"
    sql = "SELECT id FROM range(2)"
    DatabricksSqlOperator(task_id="e", sql=sql, output_path=path, output_format="csv").execute(context())
    assert Path(path).read_text().split() == ["id", "0", "1"]


@check
def operator_runs_statements() -> None:
    operator = DatabricksSQLStatementsOperator(
        task_id="st", statement="SELECT 1", warehouse_id=WAREHOUSE, polling_period_seconds=1
    )
    operator.execute(context())


@check
def sensor_sees_rows() -> None:
    sensor = DatabricksSqlSensor(task_id="w", http_path=HTTP_PATH, sql="SELECT 1 FROM main.default.airflow_t")
    assert sensor.poke(context())


check.finish()

"""databricks-labs-lsql and the helpers of databricks-sdk."""

# No annotations from the future: lsql reads the types of dataclasses.

import base64
import contextlib
import datetime
import io
from dataclasses import dataclass

from checks import VOLUME, WAREHOUSE, Checks
from databricks.labs.lsql.backends import StatementExecutionBackend
from databricks.labs.lsql.core import StatementExecutionExt
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import NotFound, OperationFailed
from databricks.sdk.service import catalog, compute, jobs, sql, workspace

check = Checks()
client = WorkspaceClient()
statements = StatementExecutionExt(client, warehouse_id=WAREHOUSE)
backend = StatementExecutionBackend(client, WAREHOUSE)
FOLDER = f"{VOLUME}/lsql"


def upload(name: str, code: str) -> str:
    client.files.upload(f"{FOLDER}/{name}", io.BytesIO(code.encode()), overwrite=True)
    return f"{FOLDER}/{name}"


def task(key: str, path: str, *parameters: str) -> jobs.SubmitTask:
    python = jobs.SparkPythonTask(python_file=path, parameters=list(parameters))
    return jobs.SubmitTask(task_key=key, spark_python_task=python)


@dataclass
class Item:
    id: int
    name: str
    good: bool
    price: float | None = None


@check
def lsql_rows_have_types() -> None:
    text = """SELECT 1 AS i, CAST(2 AS BIGINT) AS l, CAST(3 AS SMALLINT) AS s, 'x' AS t, true AS b, 1.5D AS d,
        DATE'2024-01-02' AS day, NULL AS n, array(1, 2) AS a,
        named_struct('k', 'v') AS st, TIMESTAMP'2024-01-02 03:04:05' AS ts"""
    (row,) = statements.fetch_all(text)
    assert (row.i, row.l, row.s, row.t, row.b, row.d, row.n) == (1, 2, 3, "x", True, 1.5, None), row
    assert row.day == datetime.date(2024, 1, 2), row.day
    assert list(row.a) == [1, 2], row.a
    assert row.ts.replace(tzinfo=None) == datetime.datetime(2024, 1, 2, 3, 4, 5), row.ts


@check
def lsql_fetch_one_and_value() -> None:
    one = statements.fetch_one("SELECT 1 AS a, 2 AS b")
    assert one is not None
    assert one.as_dict() == {"a": 1, "b": 2}
    assert statements.fetch_value("SELECT count(*) FROM range(7)") == 7


@check
def lsql_reads_results_in_chunks() -> None:
    assert sum(row.id for row in statements.fetch_all("SELECT id FROM range(25000)")) == 25000 * 24999 // 2


@check
def lsql_raises_a_mapped_error() -> None:
    try:
        statements.fetch_value("SELECT * FROM main.default.absent_table")
    except NotFound:
        return
    raise AssertionError("no NotFound")


@check
def lsql_backend_saves_and_fetches_dataclasses() -> None:
    backend.execute("DROP TABLE IF EXISTS main.default.lsql_items")
    rows = [Item(1, "a'b", True, 1.5), Item(2, "c", False)]
    backend.save_table("main.default.lsql_items", rows, Item)
    backend.save_table("main.default.lsql_items", [Item(3, "d", True, 0.5)], Item, mode="append")
    found = sorted(row.id for row in backend.fetch("SELECT id FROM main.default.lsql_items"))
    assert found == [1, 2, 3], found
    backend.save_table("main.default.lsql_items", rows, Item, mode="overwrite")
    found = [
        tuple(row)
        for row in backend.fetch("SELECT id, name, price, good FROM main.default.lsql_items ORDER BY id")
    ]
    assert found == [(1, "a'b", 1.5, True), (2, "c", None, False)], found


@check
def lsql_backend_makes_a_table_of_a_dataclass() -> None:
    backend.create_table("main.default.lsql_empty", Item)
    assert list(backend.fetch("SELECT * FROM main.default.lsql_empty")) == []


@check
def sdk_statement_with_parameters() -> None:
    done = client.statement_execution.execute_statement(
        "SELECT :n + 1 AS n, :t AS t", WAREHOUSE,
        parameters=[
            sql.StatementParameterListItem(name="n", type="INT", value="41"),
            sql.StatementParameterListItem(name="t", value="x"),
        ],
    )  # fmt: skip
    assert done.result
    assert done.result.data_array == [["42", "x"]], done


@check
def sdk_statement_that_waits() -> None:
    begun = client.statement_execution.execute_statement("SELECT 5 AS n", WAREHOUSE, wait_timeout="0s")
    assert begun.statement_id
    state = None
    for _ in range(600):
        done = client.statement_execution.get_statement(begun.statement_id)
        state = done.status.state if done.status else None
        if state in {sql.StatementState.SUCCEEDED, sql.StatementState.FAILED}:
            break
    assert state == sql.StatementState.SUCCEEDED, state


@check
def sdk_submit_and_wait() -> None:
    path = upload("print.py", "import sys; print('args', sys.argv[1:])")
    run = client.jobs.submit_and_wait(run_name="x", tasks=[task("a", path, "{{job.run_id}}")])
    assert run.state
    assert run.state.result_state == jobs.RunResultState.SUCCESS
    assert run.tasks
    logs = client.jobs.get_run_output(run.tasks[0].run_id or 0).logs
    assert logs == f"args ['{run.run_id}']\n", logs


@check
def sdk_submit_and_wait_of_a_failure() -> None:
    try:
        client.jobs.submit_and_wait(tasks=[task("a", upload("fail.py", "raise ValueError('no')"))])
    except OperationFailed:
        return
    raise AssertionError("no OperationFailed")


@check
def sdk_run_now_and_repair_and_wait() -> None:
    code = (
        f"import os, pathlib; p = pathlib.Path('{FOLDER}/flag'); there = p.exists(); p.touch(); assert there"
    )
    python = jobs.SparkPythonTask(python_file=upload("flag.py", code))
    job = client.jobs.create(name="repair", tasks=[jobs.Task(task_key="a", spark_python_task=python)])
    started = client.jobs.run_now(job.job_id or 0)
    with contextlib.suppress(OperationFailed):
        started.result()
    run_id = started.response.run_id or 0
    run = client.jobs.repair_run_and_wait(run_id, rerun_all_failed_tasks=True)
    assert run.state
    assert run.state.result_state == jobs.RunResultState.SUCCESS
    history = client.jobs.get_run(run_id, include_history=True).repair_history or []
    assert [str(item.type.value if item.type else None) for item in history] == ["ORIGINAL", "REPAIR"], (
        history
    )


@check
def sdk_dbutils_files() -> None:
    fs = client.dbutils.fs
    fs.put(f"{FOLDER}/a.txt", "abc", overwrite=True)
    assert fs.head(f"{FOLDER}/a.txt") == "abc"
    fs.cp(f"{FOLDER}/a.txt", f"{FOLDER}/b.txt")
    assert {"a.txt", "b.txt"} <= {item.name for item in fs.ls(FOLDER)}
    fs.rm(f"{FOLDER}/b.txt")
    fs.mkdirs("dbfs:/clients/lsql")
    fs.put("dbfs:/clients/lsql/c.txt", "abc", overwrite=True)
    fs.mv("dbfs:/clients/lsql/c.txt", "dbfs:/clients/lsql/d.txt")
    assert [item.name for item in fs.ls("dbfs:/clients/lsql")] == ["d.txt"]
    fs.rm("dbfs:/clients", recurse=True)


@check
def sdk_dbutils_secrets() -> None:
    client.secrets.create_scope("clients")
    client.secrets.put_secret("clients", "k", string_value="v")
    assert client.dbutils.secrets.get("clients", "k") == "v"
    assert [item.key for item in client.dbutils.secrets.list("clients")] == ["k"]


@check
def sdk_dbutils_and_spark_in_a_job() -> None:
    code = (
        "from databricks.sdk.runtime import dbutils, spark\n"
        "dbutils.jobs.taskValues.set('n', spark.sql('SELECT 7 AS n').collect()[0].n)"
    )
    first, second = (
        task("a", upload("set.py", code)),
        task("b", upload("get.py", "import sys; print(sys.argv[1])")),
    )
    assert second.spark_python_task
    second.spark_python_task.parameters = ["{{tasks.a.values.n}}"]
    second.depends_on = [jobs.TaskDependency(task_key="a")]
    run = client.jobs.submit_and_wait(tasks=[first, second])
    last = next(item for item in run.tasks or [] if item.task_key == "b")
    assert client.jobs.get_run_output(last.run_id or 0).logs == "7\n"


@check
def sdk_workspace_files() -> None:
    client.workspace.mkdirs("/Shared/clients")
    client.workspace.upload("/Shared/clients/n.py", io.BytesIO(b"print(1)"), overwrite=True)
    assert client.workspace.download("/Shared/clients/n.py").read().endswith(b"print(1)")
    assert [item.path for item in client.workspace.list("/Shared/clients")] == ["/Shared/clients/n.py"]
    exported = client.workspace.export("/Shared/clients/n.py", format=workspace.ExportFormat.JUPYTER)
    assert b"cells" in base64.b64decode(exported.content or "")


@check
def sdk_unity_catalog() -> None:
    client.schemas.create("clients", "main", comment="c")
    client.volumes.create("main", "clients", "v", catalog.VolumeType.MANAGED)
    client.volumes.update("main.clients.v", new_name="w")
    backend.execute("CREATE TABLE main.clients.t (id BIGINT COMMENT 'key', d DECIMAL(5,2))")
    columns = client.tables.get("main.clients.t").columns or []
    assert [(item.name, item.type_text) for item in columns] == [("id", "bigint"), ("d", "decimal(5,2)")], (
        columns
    )
    assert [item.name for item in client.volumes.list("main", "clients")] == ["w"]
    client.schemas.delete("main.clients", force=True)


@check
def sdk_identity_and_clusters() -> None:
    me = client.current_user.me().user_name
    assert [item.user_name for item in client.users_v2.list(filter=f'userName eq "{me}"')] == [me]
    assert [item.display_name for item in client.groups_v2.list(filter='displayName eq "admins"')] == [
        "admins"
    ]
    assert client.clusters.select_spark_version(latest=True)
    assert [item.state for item in client.clusters.list()] == [compute.State.RUNNING]


check.finish()

"""What other people's clients ask for: DBFS, clusters, SCIM, comments, notebooks, types of results."""

from __future__ import annotations

import base64
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.core import Config
from databricks.sdk.errors import (
    DatabricksError,
    InvalidParameterValue,
    NotFound,
    ResourceAlreadyExists,
)
from databricks.sdk.service import catalog, compute, iam, jobs, sql, workspace
from local_workspace import WorkspaceInfo
from lw_support import Programs


@pytest.mark.fault("C11")
def test_statement_execution_describes_types_and_values_as_databricks_does(client: WorkspaceClient) -> None:
    text = """SELECT CAST(1 AS BIGINT) AS l, CAST(1 AS SMALLINT) AS s, CAST(1 AS TINYINT) AS b,
        CAST('12.340' AS DECIMAL(10,3)) AS d, array(CAST(1.50 AS DECIMAL(5,2)), NULL) AS a,
        map('k', double('NaN')) AS m, named_struct('x', 1, 'y', array('q"', 'z')) AS t,
        double('NaN') AS n, double('-Infinity') AS i, CAST(0.1 AS FLOAT) AS f, 1e10D AS e, 0.0001D AS v,
        INTERVAL '1-2' YEAR TO MONTH AS ym, -INTERVAL '1 02:03:04.5' DAY TO SECOND AS ds,
        array(date'2024-01-02') AS ad, TIMESTAMP'2024-01-02 03:04:05.123456' AS ts, X'0102' AS x, true AS o"""
    done = client.statement_execution.execute_statement(text, "local", wait_timeout="50s")
    assert done.status
    assert done.status.state == sql.StatementState.SUCCEEDED, done.status
    assert done.manifest
    assert done.manifest.schema
    assert done.result
    assert done.result.data_array
    columns = done.manifest.schema.columns or []
    kinds = sql.ColumnInfoTypeName
    found = {
        c.name: (c.type_name, c.type_text, v) for c, v in zip(columns, done.result.data_array[0], strict=True)
    }
    assert found == {
        "l": (kinds.LONG, "BIGINT", "1"), "s": (kinds.SHORT, "SMALLINT", "1"),
        "b": (kinds.BYTE, "TINYINT", "1"),
        "d": (kinds.DECIMAL, "DECIMAL(10,3)", "12.340"),
        "a": (kinds.ARRAY, "ARRAY<DECIMAL(5,2)>", "[1.50,null]"),
        "m": (kinds.MAP, "MAP<STRING, DOUBLE>", '{"k":"NaN"}'),
        "t": (kinds.STRUCT, "STRUCT<x: INT, y: ARRAY<STRING>>", '{"x":1,"y":["q\\"","z"]}'),
        "n": (kinds.DOUBLE, "DOUBLE", "NaN"), "i": (kinds.DOUBLE, "DOUBLE", "-Infinity"),
        "f": (kinds.FLOAT, "FLOAT", "0.1"), "e": (kinds.DOUBLE, "DOUBLE", "1.0E10"),
        "v": (kinds.DOUBLE, "DOUBLE", "1.0E-4"),
        "ym": (kinds.INTERVAL, "INTERVAL YEAR TO MONTH", "1-2"),
        "ds": (kinds.INTERVAL, "INTERVAL DAY TO SECOND", "-1 02:03:04.500000000"),
        "ad": (kinds.ARRAY, "ARRAY<DATE>", '["2024-01-02"]'),
        "ts": (kinds.TIMESTAMP, "TIMESTAMP", "2024-01-02T03:04:05.123456Z"),
        "x": (kinds.BINARY, "BINARY", "AQI="), "o": (kinds.BOOLEAN, "BOOLEAN", "true"),
    }  # fmt: skip
    by_name = {column.name: column for column in columns}
    assert (by_name["d"].type_precision, by_name["d"].type_scale) == (10, 3)
    assert by_name["ds"].type_interval_type == "DAY TO SECOND"


@pytest.mark.fault("C14")
def test_byte_limit_cuts_a_result(client: WorkspaceClient) -> None:
    done = client.statement_execution.execute_statement(
        "SELECT repeat('x', 10) AS x FROM range(10)", "local", byte_limit=35, wait_timeout="50s"
    )
    assert done.manifest
    assert (done.manifest.total_row_count, done.manifest.truncated) == (3, True)


@pytest.mark.fault("C14")
def test_comments_and_properties_of_a_schema_are_kept(client: WorkspaceClient) -> None:
    made = client.schemas.create("commented", "main", comment="for tests", properties={"a": "b"})
    assert (made.comment, made.properties) == ("for tests", {"a": "b"})
    changed = client.schemas.update("main.commented", comment="other", owner="somebody")
    shown = client.schemas.get("main.commented")
    assert (shown.comment, shown.properties, shown.owner) == ("other", {"a": "b"}, "somebody")
    assert shown.created_at == made.created_at
    assert changed.comment == "other"
    client.volumes.create("main", "commented", "v", catalog.VolumeType.MANAGED, comment="of a volume")
    with pytest.raises(DatabricksError, match="not empty"):
        client.schemas.delete("main.commented")
    client.schemas.delete("main.commented", force=True)
    again = client.schemas.create("commented", "main")
    assert (again.comment, again.properties, again.owner) == (None, None, made.owner)
    assert list(client.volumes.list("main", "commented")) == []
    client.schemas.delete("main.commented")


@pytest.mark.fault("C14")
def test_a_volume_is_renamed_with_its_files(client: WorkspaceClient) -> None:
    client.volumes.create("main", "default", "before", catalog.VolumeType.MANAGED, comment="c")
    client.files.upload("/Volumes/main/default/before/a.txt", io.BytesIO(b"kept"))
    renamed = client.volumes.update("main.default.before", new_name="After", owner="somebody")
    assert (renamed.name, renamed.comment, renamed.owner) == ("after", "c", "somebody")
    assert client.files.download("/Volumes/main/default/after/a.txt").contents.read() == b"kept"  # type: ignore[union-attr]
    with pytest.raises(NotFound):
        client.volumes.read("main.default.before")
    with pytest.raises(ResourceAlreadyExists):
        client.volumes.update("main.default.after", new_name="files")
    client.volumes.delete("main.default.after")


@pytest.mark.fault("C14")
def test_a_notebook_is_exported_and_imported_as_jupyter(client: WorkspaceClient) -> None:
    source = "# Databricks notebook source\nx = 1\n\n# COMMAND ----------\n\n# MAGIC %md\n# MAGIC # Title\n"
    client.workspace.mkdirs("/formats")
    client.workspace.import_(
        "/formats/n", content=base64.b64encode(source.encode()).decode(),
        format=workspace.ImportFormat.SOURCE, language=workspace.Language.PYTHON,
    )  # fmt: skip
    exported = client.workspace.export("/formats/n", format=workspace.ExportFormat.JUPYTER)
    assert exported.file_type == "ipynb"
    document = json.loads(base64.b64decode(exported.content or ""))
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in document["cells"]] == [
        ("code", "x = 1"),
        ("markdown", "# Title"),
    ]
    client.workspace.import_("/formats/back", content=exported.content, format=workspace.ImportFormat.JUPYTER)
    back = base64.b64decode(client.workspace.export("/formats/back").content or "").decode()
    assert back.split() == source.split()
    with pytest.raises(InvalidParameterValue, match="cannot be exported as HTML"):
        client.workspace.export("/formats/n", format=workspace.ExportFormat.HTML)


@pytest.mark.fault("C14")
def test_permissions_of_what_is_not_there_are_404(client: WorkspaceClient) -> None:
    for kind, name in (("jobs", "12345"), ("warehouses", "absent")):
        with pytest.raises(NotFound, match="does not exist"):
            client.permissions.get(kind, name)
        with pytest.raises(NotFound, match="does not exist"):
            client.permissions.update(kind, name, access_control_list=[])
    entry = iam.AccessControlRequest(group_name="users", permission_level=iam.PermissionLevel.CAN_VIEW)
    job = client.jobs.create(
        name="p", access_control_list=[jobs.JobAccessControlRequest.from_dict(entry.as_dict())]
    )
    shown = client.permissions.get("jobs", str(job.job_id)).access_control_list or []
    assert sorted(str(item.group_name or item.user_name) for item in shown) == [
        "local@workspace.localhost",
        "users",
    ]
    with pytest.raises(InvalidParameterValue, match="exactly one owner"):
        client.permissions.set("jobs", str(job.job_id), access_control_list=[entry])


@pytest.mark.fault("C14")
def test_a_run_of_chosen_tasks_and_a_disabled_task(programs: Programs, client: WorkspaceClient) -> None:
    path = programs.put("print('ran')")
    python = jobs.SparkPythonTask(python_file=path)
    tasks = [jobs.Task(task_key=key, spark_python_task=python) for key in ("a", "b", "c")]
    tasks[1].depends_on = [jobs.TaskDependency(task_key="a")]
    tasks[2].disabled = True
    job_id = client.jobs.create(name="only", tasks=tasks).job_id
    assert job_id
    run = programs.finish(client.jobs.run_now(job_id, only=["b"]).run_id or 0)
    assert [task.task_key for task in run.tasks or []] == ["b"]
    run = programs.finish(client.jobs.run_now(job_id).run_id or 0)
    results = {task.task_key: task.state.result_state for task in run.tasks or [] if task.state}
    assert results["c"] == jobs.RunResultState.DISABLED
    assert run.state
    assert run.state.result_state == jobs.RunResultState.SUCCESS
    with pytest.raises(InvalidParameterValue, match="only names a task"):
        client.jobs.run_now(job_id, only=["z"])


@pytest.mark.fault("D5")
def test_names_of_volumes_and_schemas_are_the_same_in_capitals(
    client: WorkspaceClient, programs: Programs, info: WorkspaceInfo
) -> None:
    made = client.schemas.create("Mixed_Case", "MAIN")
    assert made.full_name == "main.mixed_case"
    client.volumes.create("Main", "MIXED_case", "Vol", catalog.VolumeType.MANAGED)
    assert client.volumes.read("MAIN.Mixed_Case.VOL").name == "vol"
    client.files.upload("/Volumes/Main/Mixed_Case/VOL/Kept/Name.txt", io.BytesIO(b"x"))
    assert Path(info.root, "Volumes/main/mixed_case/vol/Kept/Name.txt").read_bytes() == b"x"
    listed = list(client.files.list_directory_contents("/Volumes/MAIN/mixed_case/vol/Kept"))
    assert [item.name for item in listed] == ["Name.txt"]
    with pytest.raises(NotFound):  # names of files are not
        client.files.download("/Volumes/main/mixed_case/vol/kept/name.txt")
    task = programs.task("print(1)")
    assert task.spark_python_task
    path = task.spark_python_task.python_file.replace("/main/default", "/MAIN/Default")
    task.spark_python_task.python_file = path
    run = programs.finish(client.jobs.submit(tasks=[task]).run_id)
    assert run.state
    assert run.state.result_state == jobs.RunResultState.SUCCESS
    client.schemas.delete("MAIN.mixed_CASE", force=True)


@pytest.mark.fault("D6")
def test_dbfs(client: WorkspaceClient, programs: Programs) -> None:
    large = bytes(range(256)) * 8192  # 2 MiB: more than one block
    client.dbfs.upload("/tmp/dir/large.bin", io.BytesIO(large))
    assert client.dbfs.download("/tmp/dir/large.bin").read() == large
    client.dbfs.put("dbfs:/tmp/dir/small.txt", contents=base64.b64encode(b"small").decode())
    with pytest.raises(DatabricksError, match="already exists"):
        client.dbfs.put("/tmp/dir/small.txt", contents="")
    client.dbfs.mkdirs("/tmp/dir/sub")
    listed = {item.path: (item.is_dir, item.file_size) for item in client.dbfs.list("/tmp/dir")}
    assert listed == {
        "/tmp/dir/large.bin": (False, len(large)), "/tmp/dir/small.txt": (False, 5),
        "/tmp/dir/sub": (True, 0),
    }  # fmt: skip
    client.dbfs.move("/tmp/dir/small.txt", "/tmp/dir/sub")
    assert client.dbfs.get_status("/tmp/dir/sub/small.txt").file_size == 5
    part = client.dbfs.read("/tmp/dir/sub/small.txt", offset=2, length=2)
    assert (part.bytes_read, base64.b64decode(part.data or "")) == (2, b"al")
    with pytest.raises(DatabricksError, match="not empty"):
        client.api_client.do("POST", "/api/2.0/dbfs/delete", body={"path": "/tmp/dir"})
    client.api_client.do("POST", "/api/2.0/dbfs/delete", body={"path": "/tmp/dir", "recursive": True})
    with pytest.raises(NotFound):
        client.dbfs.get_status("/tmp/dir")
    code = base64.b64encode(b"print(open('/dbfs/programs/p.py').read()[:5])").decode()
    client.dbfs.put("/programs/p.py", contents=code, overwrite=True)
    python = jobs.SparkPythonTask(python_file="dbfs:/programs/p.py")
    task = jobs.SubmitTask(task_key="a", spark_python_task=python)
    run = programs.finish(client.jobs.submit(tasks=[task]).run_id)
    assert programs.output(run).logs == "print\n"


@pytest.mark.fault("D6")
def test_clusters_can_be_looked_at(client: WorkspaceClient) -> None:
    (cluster,) = client.clusters.list()
    assert cluster.cluster_id
    assert client.clusters.get(cluster.cluster_id).as_dict() == cluster.as_dict()
    assert client.clusters.select_spark_version(long_term_support=True)
    assert client.clusters.select_node_type(local_disk=False) == "local"
    assert client.clusters.list_zones().zones
    with pytest.raises(NotFound, match="does not exist"):
        client.clusters.get("0101-absent")


@pytest.mark.fault("D6")
def test_serving_endpoints_are_listed(client: WorkspaceClient) -> None:
    assert [item.name for item in client.serving_endpoints.list()] == ["scripted"]


@pytest.mark.fault("D6")
def test_scim_lists_and_filters(client: WorkspaceClient) -> None:
    me = client.current_user.me()
    (user,) = client.users_v2.list(filter=f'userName eq "{me.user_name}"')
    assert (user.id, user.user_name) == (me.id, me.user_name)
    assert client.users_v2.get(str(me.id)).as_dict() == me.as_dict()
    assert list(client.users_v2.list(filter='userName eq "nobody" or displayName co "absent"')) == []
    assert [group.display_name for group in client.groups_v2.list(sort_by="displayName")] == [
        "admins",
        "users",
    ]
    (admins,) = client.groups_v2.list(filter='displayName sw "adm" and id ne "102"')
    assert admins.members
    assert admins.members[0].value == me.id
    (named,) = client.groups_v2.list(filter="displayName eq users", attributes="displayName")
    assert (named.display_name, named.members) == ("users", [])
    assert list(client.service_principals_v2.list()) == []
    with pytest.raises(NotFound):
        client.groups_v2.get("999")
    with pytest.raises(NotFound, match="No API found"):
        client.api_client.do("GET", "/api/2.0/preview/scim/v2/Robots")
    with pytest.raises(InvalidParameterValue, match="is not supported"):
        list(client.groups_v2.list(filter="displayName pr"))


@pytest.mark.fault("D6")
def test_the_cluster_has_a_disk_and_has_started(client: WorkspaceClient) -> None:
    assert client.clusters.select_node_type(local_disk=True, local_disk_min_size=1) == "local"
    cluster = client.clusters.get("local")
    starting = compute.EventType.STARTING
    (event,) = client.clusters.events("local", event_types=[starting])
    assert (event.type, event.timestamp) == (starting, cluster.start_time)
    assert event.timestamp
    assert event.timestamp < time.time() * 1000
    assert list(client.clusters.events("local", event_types=[compute.EventType.TERMINATING])) == []
    assert list(client.clusters.events("local", start_time=event.timestamp + 1)) == []
    assert list(client.clusters.events("local", end_time=event.timestamp - 1)) == []
    with pytest.raises(InvalidParameterValue, match="does not exist"):
        list(client.clusters.events("other"))
    with pytest.raises(InvalidParameterValue, match="event_types must be a list"):
        client.api_client.do(
            "POST", "/api/2.1/clusters/events", body={"cluster_id": "local", "event_types": 5}
        )


@pytest.mark.fault("C14")
def test_settings_of_the_workspace_are_kept(client: WorkspaceClient) -> None:
    both = "enableResultsDownloading,enableNotebookTableClipboard"
    client.workspace_conf.set_status({"enableResultsDownloading": "false"})
    shown = client.workspace_conf.get_status(keys=both)
    assert shown == {"enableResultsDownloading": "false", "enableNotebookTableClipboard": None}
    client.workspace_conf.set_status({"enableResultsDownloading": "true"})
    assert client.workspace_conf.get_status(keys="enableResultsDownloading") == {
        "enableResultsDownloading": "true"
    }
    unknown: dict[str, str] = {"enableResultsDownloading": "false", "enableRockets": "true"}
    with pytest.raises(InvalidParameterValue, match="enableRockets"):
        client.workspace_conf.set_status(unknown)
    assert client.workspace_conf.get_status(keys=both)["enableResultsDownloading"] == "true"  # type: ignore[index]
    with pytest.raises(InvalidParameterValue, match="enableRockets"):
        client.workspace_conf.get_status(keys="enableRockets")


@pytest.mark.fault("D6")
def test_a_client_learns_ids_and_finds_no_git_folder(client: WorkspaceClient, info: WorkspaceInfo) -> None:
    found = Config(host=info.host, token=info.token)
    assert (found.account_id, found.workspace_id) == ("00000000-0000-4000-8000-000000000001", "1")
    assert client.get_workspace_id() == 1
    assert list(client.repos.list()) == []
    with pytest.raises(NotFound, match="No API found"):
        client.repos.create(url="https://example.invalid/a.git", provider="gitHub")
    assert {"/FileStore", "/tmp"} <= {item.path for item in client.dbfs.list("/")}


@pytest.mark.fault("C14")
def test_bytes_come_in_a_form_or_as_base64(http: requests.Session, info: WorkspaceInfo) -> None:
    raw = b"\x00\xff\r\n--x--\r\n"
    for service, field, shown in (
        ("dbfs/put", "contents", "read"),
        ("workspace/import", "content", "export"),
    ):
        url, path = f"{info.host}/api/2.0/{service}", f"/bytes-{field}"
        given = {"path": path, "format": "RAW", "overwrite": "true"}
        read = f"{info.host}/api/2.0/{service.partition('/')[0]}/{shown}"
        assert http.post(url, data=given, files={field: raw}).status_code == 200
        found = http.get(read, params={"path": path}).json()
        assert base64.b64decode(found.get("data") or found["content"]) == raw
        assert http.post(url, json=given | {field: base64.b64encode(b"json").decode()}).status_code == 200
        found = http.get(read, params={"path": path}).json()
        assert base64.b64decode(found.get("data") or found["content"]) == b"json"
        for wrong in ("not base64!", ["YQ=="]):
            refused = http.post(url, json=given | {field: wrong})
            assert (refused.status_code, f"{field} must be base64" in refused.text) == (400, True)
    large = {"path": "/bytes-large", "contents": base64.b64encode(bytes((1 << 20) + 1)).decode()}
    assert (
        http.post(f"{info.host}/api/2.0/dbfs/put", json=large).json()["error_code"]
        == "MAX_BLOCK_SIZE_EXCEEDED"
    )


def test_a_file_that_many_import_at_once_is_one_of_theirs(client: WorkspaceClient) -> None:
    texts = [bytes([65 + number]) * 200_000 for number in range(8)]
    auto = workspace.ImportFormat.AUTO

    def put(text: bytes) -> None:
        for _ in range(5):
            client.workspace.upload("/together.txt", io.BytesIO(text), format=auto, overwrite=True)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, texts))
    assert client.workspace.download("/together.txt").read() in texts
    assert [item.path for item in client.workspace.list("/") if "together" in str(item.path)] == [
        "/together.txt"
    ]

"""Every REST answer is one that the SDK's dataclass takes whole: nothing is lost on the way through it."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
import requests
from databricks.sdk.service import catalog, compute, files, iam, jobs, serving, sql, workspace
from local_workspace import WorkspaceInfo
from lw_routes import ROUTES
from lw_support import VOLUME, Programs, eventually

JOBS = "/api/2.{minor:int}/jobs"
UNITY = "/api/2.{minor:int}/unity-catalog"
PERMISSIONS = "/api/2.{minor:int}/permissions/{type}/{id}"
# What has no dataclass: bytes, headers, other protocols, and documents that the SDK reads field by field.
NO_SHAPE = {
    ("PUT", "/api/2.0/fs/files/{path:path}"),
    ("GET", "/api/2.0/fs/files/{path:path}"),
    ("DELETE", "/api/2.0/fs/files/{path:path}"),
    ("POST", "/api/2.0/fs/files/{path:path}"),
    ("PUT", "/api/2.0/fs/directories/{path:path}"),
    ("HEAD", "/api/2.0/fs/directories/{path:path}"),
    ("DELETE", "/api/2.0/fs/directories/{path:path}"),
    ("POST", "/api/2.0/fs/create-download-url"),
    ("POST", "/api/2.0/fs/create-upload-part-urls"),
    ("POST", "/api/2.0/fs/create-resumable-upload-url"),
    ("POST", "/api/2.0/fs/create-abort-upload-url"),
    ("POST", "/sql/1.0/warehouses/local"),
    ("GET", "/.well-known/databricks-config"),
    ("GET", "/oidc/.well-known/oauth-authorization-server"),
    ("POST", "/oidc/v1/token"),
    ("POST", f"{UNITY}/catalogs"),  # always an error
    ("GET", "/api/2.0/preview/scim/v2/ServicePrincipals"),  # there are none
    ("GET", "/api/2.0/preview/scim/v2/ServicePrincipals/{id}"),
    ("GET", "/api/2.0/repos"),  # there are none
    ("GET", "/api/2.0/workspace-conf"),  # names and values
    ("PATCH", "/api/2.0/workspace-conf"),
    ("POST", "/api/2.0/sql/statements/"),  # the same as without the slash
    ("GET", "/api/2.0/sql/statements/{id}/result/chunks/{index:int}/data"),
    ("DELETE", "/api/2.0/sql/statements/{id}"),  # these are for drivers; the SDK has no sessions
    ("POST", "/api/2.0/sql/sessions"),
    ("DELETE", "/api/2.0/sql/sessions/{id}"),
}


class Contract:
    """Asks a workspace and puts each answer through its dataclass; `asked` holds the routes."""

    def __init__(self, session: requests.Session, host: str) -> None:
        self._session, self._host = session, host
        self.asked: set[tuple[str, str]] = set()

    def __call__(self, method: str, route: str, shape: Any = None, **values: Any) -> Any:
        """`values`: those of the path by name, the rest is the query of a GET or the body."""
        self.asked.add((method, route))
        names = re.findall(r"\{(\w+)[:}]", route)
        path = {"minor": 1, **{name: values.pop(name) for name in names if name in values}}
        url = self._host + re.sub(r"\{(\w+)(:\w+)?\}", lambda match: str(path[match[1]]), route)
        given = {"params": values} if method == "GET" else {"json": values}
        response = self._session.request(method, url, timeout=60, **given)
        assert response.status_code == 200, (method, url, response.text)
        document = response.json()
        if shape is None:
            assert document == {}
        else:
            assert document
            assert shape.from_dict(document).as_dict() == document
        return document


@pytest.fixture
def ask(http: requests.Session, info: WorkspaceInfo) -> Contract:
    return Contract(http, info.host)


def test_every_answer_is_a_shape_of_the_sdk(ask: Contract, programs: Programs, tmp_path: Path) -> None:
    runs(ask, programs)
    definitions(ask)
    unity_catalog(ask)
    statements(ask)
    secrets(ask)
    workspace_objects(ask)
    dbfs(ask)
    clusters(ask)
    scim(ask)
    the_rest(ask)
    assert ask.asked | NO_SHAPE == set(ROUTES)
    assert not ask.asked & NO_SHAPE


def finished(ask: Contract, run_id: int) -> Any:
    return eventually(
        lambda: ask("GET", f"{JOBS}/runs/get", jobs.Run, run_id=run_id),
        lambda run: run["status"]["state"] == "TERMINATED",
    )


def runs(ask: Contract, programs: Programs) -> None:
    path = programs.put("import sys; print('hello'); sys.exit(len(sys.argv) > 1 and 'failed')")
    python = {"python_file": path, "parameters": ["fail"]}
    fails = {"task_key": "a", "spark_python_task": python, "libraries": [], "timeout_seconds": 60}
    after = {"task_key": "b", "depends_on": [{"task_key": "a"}], "spark_python_task": {"python_file": path}}
    submitted = ask(
        "POST", f"{JOBS}/runs/submit", jobs.SubmitRunResponse, run_name="shapes", tasks=[fails, after]
    )
    run = finished(ask, submitted["run_id"])
    assert run["state"]["result_state"] == "FAILED"
    task = next(task for task in run["tasks"] if task["task_key"] == "a")
    output = ask("GET", f"{JOBS}/runs/get-output", jobs.RunOutput, run_id=task["run_id"])
    assert output["error"]
    assert output["metadata"]["run_id"] == task["run_id"]
    repair = {"run_id": run["run_id"], "rerun_all_failed_tasks": True}
    ask("POST", f"{JOBS}/runs/repair", jobs.RepairRunResponse, **repair)
    finished(ask, run["run_id"])
    ask("GET", f"{JOBS}/runs/get", jobs.Run, run_id=run["run_id"], include_history="true")
    ask("GET", f"{JOBS}/runs/list", jobs.ListRunsResponse, expand_tasks="true", limit=1)
    ask("POST", f"{JOBS}/runs/cancel", run_id=run["run_id"])
    ask("POST", f"{JOBS}/runs/cancel-all", job_id=run["job_id"])
    ask("POST", f"{JOBS}/runs/delete", run_id=run["run_id"])
    many = [{"task_key": f"t{n}", "spark_jar_task": {"main_class_name": "X"}} for n in range(101)]
    run_id = ask("POST", f"{JOBS}/runs/submit", jobs.SubmitRunResponse, tasks=many)["run_id"]
    assert finished(ask, run_id)["next_page_token"] == "100"
    page = ask("GET", f"{JOBS}/runs/get", jobs.Run, run_id=run_id, page_token=100)
    assert [task["task_key"] for task in page["tasks"]] == ["t100"]
    saved = {
        "name": "shapes",
        "parameters": [{"name": "n", "default": "1"}],
        "tasks": [{"task_key": "a", "spark_python_task": {"python_file": path}}],
    }
    job_id = ask("POST", f"{JOBS}/create", jobs.CreateResponse, **saved)["job_id"]
    started = ask(
        "POST", f"{JOBS}/run-now", jobs.RunNowResponse,
        job_id=job_id, job_parameters={"n": "2"}, python_params=["x"],
    )  # fmt: skip
    run = finished(ask, started["run_id"])
    assert run["job_parameters"] == [{"name": "n", "value": "2"}]
    assert run["overriding_parameters"] == {"python_params": ["x"]}


def definitions(ask: Contract) -> None:
    task = {
        "task_key": "a",
        "python_wheel_task": {"package_name": "p", "entry_point": "e", "named_parameters": {"k": "v"}},
        "libraries": [{"whl": f"{VOLUME}/x.whl"}, {"pypi": {"package": "x"}}],
        "job_cluster_key": "c",
        "max_retries": 0,
    }
    cluster = {
        "spark_version": "17.3.x-scala2.13",
        "num_workers": 0,
        "spark_env_vars": {"A": "{{secrets/s/k}}"},
    }
    settings = {
        "name": "shapes",
        "job_clusters": [{"job_cluster_key": "c", "new_cluster": cluster}],
        "tasks": [task],
        "continuous": {"pause_status": "PAUSED"},
        "tags": {"a": "b"},
    }
    job_id = ask("POST", f"{JOBS}/create", jobs.CreateResponse, **settings)["job_id"]
    job = ask("GET", f"{JOBS}/get", jobs.Job, job_id=job_id)
    assert job["settings"].items() >= settings.items()
    ask("GET", f"{JOBS}/list", jobs.ListJobsResponse, expand_tasks="true", limit=1)
    ask("POST", f"{JOBS}/update", job_id=job_id, new_settings={"name": "other"}, fields_to_remove=["tags"])
    ask("POST", f"{JOBS}/reset", job_id=job_id, new_settings={"name": "last"})
    assert ask("GET", f"{JOBS}/get", jobs.Job, job_id=job_id)["settings"]["name"] == "last"
    ask("POST", f"{JOBS}/delete", job_id=job_id)


def unity_catalog(ask: Contract) -> None:
    ask("GET", f"{UNITY}/catalogs", catalog.ListCatalogsResponse)
    ask("GET", f"{UNITY}/catalogs/{{name}}", catalog.CatalogInfo, name="main")
    ask("POST", f"{UNITY}/schemas", catalog.SchemaInfo, catalog_name="main", name="shapes")
    ask("GET", f"{UNITY}/schemas", catalog.ListSchemasResponse, catalog_name="main", max_results=1)
    ask("GET", f"{UNITY}/schemas/{{full_name}}", catalog.SchemaInfo, full_name="main.shapes")
    ask("PATCH", f"{UNITY}/schemas/{{full_name}}", catalog.SchemaInfo, full_name="main.shapes", comment="c")
    where = {"catalog_name": "main", "schema_name": "shapes"}
    made = ask(
        "POST", f"{UNITY}/volumes", catalog.VolumeInfo, **where, name="v", volume_type="MANAGED", comment="c"
    )
    assert made["comment"] == "c"
    ask("GET", f"{UNITY}/volumes", catalog.ListVolumesResponseContent, **where)
    volume = f"{UNITY}/volumes/{{full_name}}"
    ask("GET", volume, catalog.VolumeInfo, full_name="main.shapes.v")
    ask("PATCH", volume, catalog.VolumeInfo, full_name="main.shapes.v", comment="d")
    ask("DELETE", volume, full_name="main.shapes.v")
    table = (
        "CREATE TABLE main.shapes.t (id BIGINT NOT NULL COMMENT 'key', price DECIMAL(10,2), many ARRAY<INT>)"
        " COMMENT 'things' TBLPROPERTIES ('a' = 'b')"
    )
    for text in (table, "CREATE VIEW main.shapes.w AS SELECT id FROM main.shapes.t"):
        statement = {"warehouse_id": "local", "statement": text}
        done = ask("POST", "/api/2.0/sql/statements", sql.StatementResponse, **statement)
        assert done["status"]["state"] == "SUCCEEDED", done
    found = ask("GET", f"{UNITY}/tables/{{full_name}}", catalog.TableInfo, full_name="main.shapes.t")
    assert [column["type_name"] for column in found["columns"]] == ["LONG", "DECIMAL", "ARRAY"]
    ask("GET", f"{UNITY}/tables/{{full_name}}", catalog.TableInfo, full_name="main.shapes.w")
    ask("GET", f"{UNITY}/tables", catalog.ListTablesResponse, **where)
    exists = f"{UNITY}/tables/{{full_name}}/exists"
    ask("GET", exists, catalog.TableExistsResponse, full_name="main.shapes.t")
    ask("DELETE", f"{UNITY}/tables/{{full_name}}", full_name="main.shapes.w")
    ask("DELETE", f"{UNITY}/schemas/{{full_name}}", full_name="main.shapes", force=True)


def statements(ask: Contract) -> None:
    base = "/api/2.0/sql/statements"
    text = (
        "SELECT id, CAST(0 AS SMALLINT) AS s, CAST(0 AS TINYINT) AS b, CAST(1.5 AS DECIMAL(5,2)) AS d, "
        "double('NaN') AS n, array(1) AS a, NULL AS z FROM range(10001)"
    )
    done = ask("POST", base, sql.StatementResponse, warehouse_id="local", statement=text, wait_timeout="50s")
    columns = done["manifest"]["schema"]["columns"]
    assert [(column["type_name"], column["type_text"]) for column in columns] == [
        ("LONG", "BIGINT"),
        ("SHORT", "SMALLINT"),
        ("BYTE", "TINYINT"),
        ("DECIMAL", "DECIMAL(5,2)"),
        ("DOUBLE", "DOUBLE"),
        ("ARRAY", "ARRAY<INT>"),
        ("NULL", "VOID"),
    ]
    assert (columns[3]["type_precision"], columns[3]["type_scale"]) == (5, 2)
    assert done["result"]["data_array"][0] == ["0", "0", "0", "1.50", "NaN", "[1]", None]
    ask("GET", f"{base}/{{id}}", sql.StatementResponse, id=done["statement_id"])
    chunk = f"{base}/{{id}}/result/chunks/{{index:int}}"
    ask("GET", chunk, sql.ResultData, id=done["statement_id"], index=1)
    ask("POST", f"{base}/{{id}}/cancel", id=done["statement_id"])
    failed = ask("POST", base, sql.StatementResponse, warehouse_id="local", statement="SELECT nothing")
    assert failed["status"]["error"]["message"]
    ask("GET", "/api/2.0/sql/warehouses", sql.ListWarehousesResponse)
    ask("GET", "/api/2.0/sql/warehouses/{id}", sql.GetWarehouseResponse, id="local")
    ask("POST", "/api/2.0/sql/warehouses/{id}/start", id="local")
    ask("POST", "/api/2.0/sql/warehouses/{id}/stop", id="local")


def secrets(ask: Contract) -> None:
    base = "/api/2.0/secrets"
    ask("POST", f"{base}/scopes/create", scope="shapes")
    ask("GET", f"{base}/scopes/list", workspace.ListScopesResponse)
    ask("POST", f"{base}/put", scope="shapes", key="k", string_value="v")
    ask("GET", f"{base}/get", workspace.GetSecretResponse, scope="shapes", key="k")
    ask("GET", f"{base}/list", workspace.ListSecretsResponse, scope="shapes")
    ask("POST", f"{base}/acls/put", scope="shapes", principal="p", permission="READ")
    ask("GET", f"{base}/acls/get", workspace.AclItem, scope="shapes", principal="p")
    ask("GET", f"{base}/acls/list", workspace.ListAclsResponse, scope="shapes")
    ask("POST", f"{base}/acls/delete", scope="shapes", principal="p")
    ask("POST", f"{base}/delete", scope="shapes", key="k")
    ask("POST", f"{base}/scopes/delete", scope="shapes")


def workspace_objects(ask: Contract) -> None:
    base = "/api/2.0/workspace"
    ask("POST", f"{base}/mkdirs", path="/shapes")
    content = base64.b64encode(b"print(1)").decode()
    ask("POST", f"{base}/import", path="/shapes/n", content=content, format="SOURCE", language="PYTHON")
    ask("POST", f"{base}/import", path="/shapes/f.txt", content=content, format="RAW")
    ask("GET", f"{base}/get-status", workspace.ObjectInfo, path="/shapes/n")
    ask("GET", f"{base}/list", workspace.ListResponse, path="/shapes")
    ask("GET", f"{base}/export", workspace.ExportResponse, path="/shapes/f.txt")
    ask("POST", f"{base}/delete", path="/shapes", recursive=True)


def dbfs(ask: Contract) -> None:
    base = "/api/2.0/dbfs"
    handle = ask("POST", f"{base}/create", files.CreateResponse, path="/shapes/a", overwrite=True)["handle"]
    ask("POST", f"{base}/add-block", handle=handle, data="YQ==")
    ask("POST", f"{base}/close", handle=handle)
    ask("POST", f"{base}/put", path="/shapes/b", contents="YQ==", overwrite=True)
    ask("GET", f"{base}/read", files.ReadResponse, path="/shapes/a")
    ask("GET", f"{base}/get-status", files.FileInfo, path="/shapes/a")
    ask("GET", f"{base}/list", files.ListStatusResponse, path="/shapes")
    ask("POST", f"{base}/mkdirs", path="/shapes/c")
    ask("POST", f"{base}/move", source_path="/shapes/a", destination_path="/shapes/c")
    ask("POST", f"{base}/delete", path="/shapes", recursive=True)


def clusters(ask: Contract) -> None:
    base = "/api/2.{minor:int}/clusters"
    ask("GET", f"{base}/list", compute.ListClustersResponse)
    ask("GET", f"{base}/get", compute.ClusterDetails, cluster_id="local")
    ask("POST", f"{base}/events", compute.GetEventsResponse, cluster_id="local")
    ask("GET", f"{base}/spark-versions", compute.GetSparkVersionsResponse)
    ask("GET", f"{base}/list-node-types", compute.ListNodeTypesResponse)
    ask("GET", f"{base}/list-zones", compute.ListAvailableZonesResponse)


def scim(ask: Contract) -> None:
    base = "/api/2.0/preview/scim/v2"
    ask("GET", f"{base}/Me", iam.User)
    ask("GET", f"{base}/Users", iam.ListUsersResponse)
    ask("GET", f"{base}/Users/{{id}}", iam.User, id="1")
    ask("GET", f"{base}/Groups", iam.ListGroupsResponse)
    ask("GET", f"{base}/Groups/{{id}}", iam.Group, id="101")


def the_rest(ask: Contract) -> None:
    folder = VOLUME.strip("/")
    directory = "/api/2.0/fs/directories/{path:path}"
    ask("GET", directory, files.ListDirectoryResponse, path=folder, page_size=1)
    own = {"type": "experiments", "id": "shapes"}
    ask("GET", PERMISSIONS, iam.ObjectPermissions, **own)
    entry = {"group_name": "users", "permission_level": "CAN_VIEW"}
    ask("PUT", PERMISSIONS, iam.ObjectPermissions, **own, access_control_list=[entry])
    ask("PATCH", PERMISSIONS, iam.ObjectPermissions, **own, access_control_list=[entry])
    ask("GET", f"{PERMISSIONS}/permissionLevels", iam.GetPermissionLevelsResponse, **own)
    ask("GET", "/api/2.0/serving-endpoints", serving.ListEndpointsResponse)
    ask("GET", "/api/2.0/serving-endpoints/{name}", serving.ServingEndpointDetailed, name="m")
    messages = [{"role": "user", "content": "shapes"}]
    answer = serving.QueryEndpointResponse
    ask("POST", "/serving-endpoints/{name}/invocations", answer, name="m", messages=messages)
    ask("POST", "/serving-endpoints/chat/completions", answer, model="m", messages=messages)

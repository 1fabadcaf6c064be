"""The smaller services, by the real SDK."""

from __future__ import annotations

import base64
import dataclasses
import io
import time

import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import (
    BadRequest,
    DatabricksError,
    InvalidParameterValue,
    NotFound,
    PermissionDenied,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
)
from databricks.sdk.service import catalog, iam, serving, sql, workspace
from local_workspace import WorkspaceInfo
from local_workspace.services import access_token
from lw_support import eventually, sdk


def test_current_user(client: WorkspaceClient) -> None:
    me = client.current_user.me()
    assert me.user_name
    assert me.active
    assert client.config.workspace_id == "1"
    # Clients that do not ask for the host's description learn the id from the answer.
    headers = {"Authorization": f"Bearer {client.config.token}"}
    found = requests.get(f"{client.config.host}/api/2.0/preview/scim/v2/Me", headers=headers, timeout=10)
    assert found.headers["X-Databricks-Org-Id"] == "1"


def test_requests_need_the_token(info: WorkspaceInfo) -> None:
    wrong = sdk(dataclasses.replace(info, token="dapi" + "0" * 32))
    with pytest.raises(PermissionDenied):
        wrong.current_user.me()
    bare = requests.get(f"{info.host}/api/2.0/preview/scim/v2/Me", timeout=10)
    assert (bare.status_code, bare.json()["error_code"]) == (401, "UNAUTHENTICATED")
    assert requests.get(f"{info.host}/_local/faults", timeout=10).status_code == 401
    assert requests.post(f"{info.host}{info.http_path}", timeout=10).status_code == 401
    assert requests.get(f"{info.host}/.well-known/databricks-config", timeout=10).status_code == 200


def test_unknown_apis_and_malformed_bodies(http: requests.Session, info: WorkspaceInfo) -> None:
    for method, path in (("POST", "/api/2.0/clusters/create"), ("POST", "/api/2.0/secrets/get")):
        reply = http.request(method, info.host + path)
        assert reply.status_code == 404
        assert reply.json()["error_code"] == "ENDPOINT_NOT_FOUND"
    broken = http.post(f"{info.host}/api/2.2/jobs/runs/submit", data=b"{nope")
    assert (broken.status_code, broken.json()["error_code"]) == (400, "MALFORMED_REQUEST")


def test_secrets(client: WorkspaceClient) -> None:
    secrets = client.secrets
    secrets.create_scope("s")
    assert "s" in {scope.name for scope in secrets.list_scopes()}
    with pytest.raises(DatabricksError, match="already exists"):
        secrets.create_scope("s")
    secrets.put_secret("s", "text", string_value="v\u00e4lue")
    secrets.put_secret("s", "bytes", bytes_value=base64.b64encode(b"\x00\xff").decode())
    assert base64.b64decode(secrets.get_secret("s", "text").value or "").decode() == "v\u00e4lue"
    assert base64.b64decode(secrets.get_secret("s", "bytes").value or "") == b"\x00\xff"
    assert client.dbutils.secrets.get("s", "text") == "v\u00e4lue"
    assert [item.key for item in secrets.list_secrets("s")] == ["bytes", "text"]
    secrets.put_acl("s", "someone", workspace.AclPermission.READ)
    assert {item.principal for item in secrets.list_acls("s")} >= {"someone"}
    assert secrets.get_acl("s", "someone").permission == workspace.AclPermission.READ
    secrets.delete_acl("s", "someone")
    secrets.delete_secret("s", "text")
    for scope, key in (("s", "text"), ("none", "text")):
        with pytest.raises(ResourceDoesNotExist):
            secrets.get_secret(scope, key)
    with pytest.raises(InvalidParameterValue, match="at most 128"):
        secrets.put_secret("s", "a/b", string_value="x")
    secrets.delete_scope("s")
    with pytest.raises(ResourceDoesNotExist):
        list(secrets.list_secrets("s"))


def test_unity_catalog(client: WorkspaceClient) -> None:
    assert [item.name for item in client.catalogs.list()] == ["main"]
    assert client.catalogs.get("main").full_name == "main"
    with pytest.raises(NotFound):
        client.catalogs.get("none")
    with pytest.raises(BadRequest, match="--catalog"):
        client.catalogs.create("other")
    client.schemas.create("uc", "main")
    with pytest.raises(ResourceAlreadyExists):
        client.schemas.create("uc", "main")
    assert "main.uc" in {item.full_name for item in client.schemas.list("main")}
    volume = client.volumes.create("main", "uc", "v", catalog.VolumeType.MANAGED, comment="c")
    assert volume.full_name == "main.uc.v"
    with pytest.raises(ResourceAlreadyExists):
        client.volumes.create("main", "uc", "v", catalog.VolumeType.MANAGED)
    assert [item.name for item in client.volumes.list("main", "uc")] == ["v"]
    assert client.volumes.read("main.uc.v").comment == "c"
    client.files.upload("/Volumes/main/uc/v/f", io.BytesIO(b"1"))
    client.volumes.delete("main.uc.v")
    with pytest.raises(NotFound):
        client.volumes.read("main.uc.v")
    with pytest.raises(NotFound, match=r"Schema 'main\.none' does not exist"):
        client.volumes.create("main", "none", "v", catalog.VolumeType.MANAGED)
    with pytest.raises(InvalidParameterValue):
        client.volumes.create("main", "uc", "../v", catalog.VolumeType.MANAGED)
    client.schemas.delete("main.uc")
    with pytest.raises(NotFound):
        client.schemas.get("main.uc")


def run(client: WorkspaceClient, statement: str, **fields: object) -> sql.StatementResponse:
    return client.statement_execution.execute_statement(statement, "local", **fields)  # type: ignore[arg-type]


def test_statements_and_the_tables_they_make(client: WorkspaceClient) -> None:
    made = run(
        client, "CREATE TABLE main.default.lw (id BIGINT, price DECIMAL(10,2), at TIMESTAMP, ok BOOLEAN)"
    )
    assert made.status is not None
    assert made.status.state == sql.StatementState.SUCCEEDED, made.status
    inserted = run(
        client, "INSERT INTO main.default.lw VALUES (1, 2.50, TIMESTAMP'2026-01-02 03:04:05', true)"
    )
    assert inserted.status is not None
    assert inserted.status.state == sql.StatementState.SUCCEEDED, inserted.status
    table = client.tables.get("main.default.lw")
    assert [(c.name, c.type_text) for c in table.columns or []] == [
        ("id", "bigint"),
        ("price", "decimal(10,2)"),
        ("at", "timestamp"),
        ("ok", "boolean"),
    ]
    assert table.table_type == catalog.TableType.MANAGED
    assert "lw" in {item.name for item in client.tables.list("main", "default")}
    assert client.tables.exists("main.default.lw").table_exists
    with pytest.raises(NotFound):
        client.tables.get("main.default.none")
    parameters = [sql.StatementParameterListItem(name="id", type="BIGINT", value="1")]
    query = "SELECT id, price, at, ok, NULL AS n FROM main.default.lw WHERE id = :id"
    found = run(client, query, parameters=parameters)
    assert found.result is not None, found.status
    assert found.result.data_array == [["1", "2.50", "2026-01-02T03:04:05.000Z", "true", None]]
    assert found.manifest is not None
    assert found.manifest.total_row_count == 1


def test_a_statement_that_fails_or_does_not_wait(client: WorkspaceClient) -> None:
    failed = run(client, "SELECT * FROM main.default.no_such_table")
    assert failed.status is not None
    assert failed.status.state == sql.StatementState.FAILED
    assert failed.status.error is not None
    assert "TABLE_OR_VIEW_NOT_FOUND" in (failed.status.error.message or "")
    started = run(client, "SELECT id FROM range(25000)", wait_timeout="0s")
    identity = started.statement_id or ""
    done = eventually(
        lambda: client.statement_execution.get_statement(identity),
        lambda answer: answer.status.state == sql.StatementState.SUCCEEDED,
    )
    assert done.manifest.total_chunk_count == 3
    last = client.statement_execution.get_statement_result_chunk_n(identity, 2)
    assert last.row_count == 5000
    client.statement_execution.cancel_execution(identity)  # over: no effect
    with pytest.raises(ResourceDoesNotExist):
        client.statement_execution.get_statement("none")
    with pytest.raises(ResourceDoesNotExist):
        client.statement_execution.execute_statement("SELECT 1", "other")
    assert [item.id for item in client.warehouses.list()] == ["local"]
    warehouse = client.warehouses.get("local")
    assert warehouse.state == sql.State.RUNNING
    assert warehouse.odbc_params is not None
    assert warehouse.odbc_params.path == "/sql/1.0/warehouses/local"


def test_workspace_files(client: WorkspaceClient) -> None:
    folder = "/Users/me/x"
    client.workspace.mkdirs(folder)
    content = b"text\r\n\x00--\n"
    client.workspace.upload(f"{folder}/plain.txt", content, format=workspace.ImportFormat.AUTO)
    client.workspace.import_(
        f"{folder}/note",
        content=base64.b64encode(b"print(1)").decode(),
        format=workspace.ImportFormat.SOURCE,
        language=workspace.Language.PYTHON,
    )
    found = {item.path: item for item in client.workspace.list(folder)}
    assert found[f"{folder}/plain.txt"].object_type == workspace.ObjectType.FILE
    assert found[f"{folder}/note"].object_type == workspace.ObjectType.NOTEBOOK
    with client.workspace.download(f"{folder}/plain.txt") as file:
        assert file.read() == content
    exported = base64.b64decode(client.workspace.export(f"{folder}/note").content or "")
    assert exported == b"# Databricks notebook source\nprint(1)"
    with pytest.raises(DatabricksError, match="already exists"):
        client.workspace.upload(f"{folder}/plain.txt", b"", format=workspace.ImportFormat.AUTO)
    with pytest.raises(BadRequest, match="not empty"):
        client.workspace.delete("/Users/me")
    client.workspace.delete("/Users/me", recursive=True)
    with pytest.raises(ResourceDoesNotExist):
        client.workspace.get_status(folder)
    with pytest.raises(DatabricksError):
        client.workspace.get_status("/../.workspace/token")


def test_permissions(client: WorkspaceClient) -> None:
    assert client.permissions.get("experiments", "1").access_control_list
    entry = iam.AccessControlRequest(group_name="users", permission_level=iam.PermissionLevel.CAN_VIEW)
    client.permissions.set("experiments", "1", access_control_list=[entry])
    listed = client.permissions.get("experiments", "1").access_control_list or []
    assert [item.group_name for item in listed] == ["users"]
    more = iam.AccessControlRequest(user_name="u", permission_level=iam.PermissionLevel.CAN_MANAGE)
    after = (
        client.permissions.update("experiments", "1", access_control_list=[more]).access_control_list or []
    )
    assert len(after) == 2


def test_serving_answers_from_the_script(client: WorkspaceClient) -> None:
    message = serving.ChatMessage(role=serving.ChatMessageRole.USER, content="question")
    reply = client.serving_endpoints.query("any-name", messages=[message])
    assert reply.choices
    assert reply.choices[0].message
    assert reply.choices[0].message.content == "hm"
    assert reply.usage


def test_a_machine_gets_a_token_for_a_while_by_oauth(
    client: WorkspaceClient, info: WorkspaceInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DATABRICKS_TOKEN", "DATABRICKS_CLIENT_ID", "DATABRICKS_CLIENT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    user = client.current_user.me().user_name or ""
    own = {"host": info.host, "client_id": user, "auth_type": "oauth-m2m"}
    machine = WorkspaceClient(client_secret=info.token, **own)
    assert machine.current_user.me().user_name == user
    granted = machine.config.oauth_token()
    assert granted.access_token != info.token
    with pytest.raises(ValueError, match="invalid_client"):
        WorkspaceClient(client_secret="wrong", **own).current_user.me()
    with pytest.raises(ValueError, match="invalid_client"):
        WorkspaceClient(client_secret=info.token, **{**own, "client_id": "other"}).current_user.me()
    url, pair = f"{info.host}/oidc/v1/token", (user, info.token)
    assert requests.post(url, {"grant_type": "password"}, auth=pair, timeout=10).status_code == 400
    in_body = {"grant_type": "client_credentials", "client_id": user, "client_secret": info.token}
    assert requests.post(url, in_body, timeout=10).json()["expires_in"] == 3600
    assert requests.post(url, in_body | {"client_secret": ""}, timeout=10).status_code == 401


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/oidc/v1/token"), ("GET", "/.well-known/databricks-config")]
)
def test_nobody_sends_much_without_a_credential(info: WorkspaceInfo, method: str, path: str) -> None:
    pieces = iter([b"a=b&" * 1000] * 1000)  # in chunks: no length says how much it is
    refused = requests.request(method, info.host + path, data=pieces, timeout=60)
    assert (refused.status_code, refused.json()["error_code"]) == (413, "REQUEST_TOO_LARGE")


def test_an_access_token_ends_and_cannot_be_made_longer(info: WorkspaceInfo) -> None:
    now, me = int(time.time()), f"{info.host}/api/2.0/preview/scim/v2/Me"

    def status(token: str) -> int:
        return requests.get(me, headers={"Authorization": f"Bearer {token}"}, timeout=10).status_code

    good = access_token(info.token, now + 60)
    assert status(good) == 200
    assert status(access_token(info.token, now - 1)) == 403
    assert status(f"{now + 120}{good[10:]}") == 403
    assert status(access_token("another token", now + 60)) == 403
    assert status("9" * 10 + good[10:]) == 403

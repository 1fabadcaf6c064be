"""Secrets API: scopes, secrets, access-control lists."""

from __future__ import annotations

import base64
import re

from databricks.sdk.service import workspace as shapes
from starlette.routing import Route

from local_workspace.errors import ApiError, invalid, missing
from local_workspace.http import Call, route
from local_workspace.options import USER
from local_workspace.state import Database, now_ms
from local_workspace.workspace import Workspace

_NAME = re.compile(r"[A-Za-z0-9._@ -]{1,128}")
_LARGEST = 128 * 1024
_PERMISSIONS = ("READ", "WRITE", "MANAGE")


class Secrets:
    """The service's functions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create_scope(self, call: Call) -> None:
        """`scopes/create`."""
        scope = _name(call, "scope")
        if (call.body.get("scope_backend_type") or "DATABRICKS") != "DATABRICKS":
            raise invalid("scope_backend_type is not supported by the local workspace, but for DATABRICKS")
        if self._database.run("INSERT OR IGNORE INTO scopes VALUES (?)", scope) == 0:
            raise ApiError(400, "RESOURCE_ALREADY_EXISTS", f"Scope {scope} already exists!")
        owner = call.body.get("initial_manage_principal") or USER
        self._database.run("INSERT OR REPLACE INTO acls VALUES (?, ?, 'MANAGE')", scope, owner)

    def list_scopes(self, _call: Call) -> shapes.ListScopesResponse:
        """`scopes/list`."""
        kind = shapes.ScopeBackendType.DATABRICKS
        rows = self._database.rows("SELECT name FROM scopes ORDER BY name")
        return shapes.ListScopesResponse([shapes.SecretScope(name=row[0], backend_type=kind) for row in rows])

    def delete_scope(self, call: Call) -> None:
        """`scopes/delete`, with everything in it."""
        scope = self._scope(call)
        with self._database.transaction():
            for table, column in (("secrets", "scope"), ("acls", "scope"), ("scopes", "name")):
                self._database.run(f"DELETE FROM {table} WHERE {column} = ?", scope)  # noqa: S608 - constants

    def put(self, call: Call) -> None:
        """`put`: a string or base64-coded bytes."""
        scope, key = self._scope(call), _name(call, "key")
        coded = call.body.get("bytes_value") is not None
        value = call.content("bytes_value") if coded else str(call.value("string_value")).encode()
        if len(value) > _LARGEST:
            raise invalid(f"The secret has {len(value)} bytes; the limit is {_LARGEST}")
        text = base64.b64encode(value).decode()
        self._database.run("INSERT OR REPLACE INTO secrets VALUES (?, ?, ?, ?)", scope, key, text, now_ms())

    def get(self, call: Call) -> shapes.GetSecretResponse:
        """`get`: the value in base64."""
        scope, key = self._scope(call), call.text("key")
        value = self._database.secret(scope, key)
        if value is None:
            raise _no_secret(scope, key)
        return shapes.GetSecretResponse(key=key, value=base64.b64encode(value).decode())

    def list(self, call: Call) -> shapes.ListSecretsResponse:
        """`list`: names, never values."""
        rows = self._database.rows(
            "SELECT key, updated_at FROM secrets WHERE scope = ? ORDER BY key", self._scope(call)
        )
        return shapes.ListSecretsResponse(
            [shapes.SecretMetadata(key=key, last_updated_timestamp=at) for key, at in rows]
        )

    def delete(self, call: Call) -> None:
        """`delete` of one secret."""
        scope, key = self._scope(call), call.text("key")
        if self._database.run("DELETE FROM secrets WHERE scope = ? AND key = ?", scope, key) == 0:
            raise _no_secret(scope, key)

    def put_acl(self, call: Call) -> None:
        """`acls/put`."""
        scope, permission = self._scope(call), call.text("permission")
        if permission not in _PERMISSIONS:
            raise invalid(f"permission must be one of {', '.join(_PERMISSIONS)}")
        principal = call.text("principal")
        self._database.run("INSERT OR REPLACE INTO acls VALUES (?, ?, ?)", scope, principal, permission)

    def list_acls(self, call: Call) -> shapes.ListAclsResponse:
        """`acls/list`."""
        rows = self._database.rows(
            "SELECT principal, permission FROM acls WHERE scope = ? ORDER BY principal", self._scope(call)
        )
        return shapes.ListAclsResponse(
            [shapes.AclItem(principal=name, permission=shapes.AclPermission(level)) for name, level in rows]
        )

    def get_acl(self, call: Call) -> shapes.AclItem:
        """`acls/get` of one principal."""
        principal = call.text("principal")
        for item in self.list_acls(call).items or []:
            if item.principal == principal:
                return item
        raise missing(f"No ACL for principal {principal} in scope {call.text('scope')}")

    def delete_acl(self, call: Call) -> None:
        """`acls/delete` of one principal."""
        self.get_acl(call)
        self._database.run(
            "DELETE FROM acls WHERE scope = ? AND principal = ?", call.text("scope"), call.text("principal")
        )

    def _scope(self, call: Call) -> str:
        scope = call.text("scope")
        if self._database.row("SELECT 1 FROM scopes WHERE name = ?", scope) is None:
            raise missing(f"Scope {scope} does not exist!")
        return scope


def _no_secret(scope: str, key: str) -> ApiError:
    return missing(f"Secret does not exist with scope: {scope} and key: {key}")


def _name(call: Call, field: str) -> str:
    name = call.text(field)
    if not _NAME.fullmatch(name):
        raise invalid(f"{field} {name!r}: use at most 128 letters, digits, dashes, underscores and periods")
    return name


def routes(workspace: Workspace) -> list[Route]:
    """The routes of `/api/2.0/secrets`."""
    secrets = Secrets(workspace.database)
    base = "/api/2.0/secrets"
    return [
        route("GET", f"{base}/get", secrets.get),
        route("GET", f"{base}/list", secrets.list),
        route("POST", f"{base}/put", secrets.put),
        route("POST", f"{base}/delete", secrets.delete),
        route("POST", f"{base}/scopes/create", secrets.create_scope, refuses="backend_azure_keyvault"),
        route("GET", f"{base}/scopes/list", secrets.list_scopes),
        route("POST", f"{base}/scopes/delete", secrets.delete_scope),
        route("POST", f"{base}/acls/put", secrets.put_acl),
        route("GET", f"{base}/acls/get", secrets.get_acl),
        route("GET", f"{base}/acls/list", secrets.list_acls),
        route("POST", f"{base}/acls/delete", secrets.delete_acl),
    ]

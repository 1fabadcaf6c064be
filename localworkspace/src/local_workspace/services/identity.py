"""The host, users and groups, and object permissions (kept, not enforced: there is one user)."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable
from functools import partial
from urllib.parse import parse_qsl

from databricks.sdk.service import iam as shapes
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local_workspace.errors import invalid, missing
from local_workspace.http import Call, Json, Reply, async_route, decoded, reply, route
from local_workspace.middleware import access_token
from local_workspace.options import ACCOUNT_ID, USER, WAREHOUSE_ID, WORKSPACE_ID
from local_workspace.services import scim
from local_workspace.state import Database
from local_workspace.workspace import Workspace

_LEVELS = {
    "jobs": ("CAN_VIEW", "CAN_MANAGE_RUN", "CAN_MANAGE", "IS_OWNER"),
    "warehouses": ("CAN_VIEW", "CAN_USE", "CAN_MONITOR", "CAN_MANAGE", "IS_OWNER"),
}
_SETTINGS = frozenset({"enableNotebookTableClipboard", "enableResultsDownloading"})
_TOKEN_LIFE_S = 3600  # as on Databricks
_OWNER: Json = {"user_name": USER, "permission_level": "IS_OWNER"}


class Permissions:
    """`/api/2.0/permissions/<type>/<id>`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def _require(self, kind: str, name: str) -> None:
        """Raise ApiError (404) for a job or warehouse that does not exist."""
        job = "SELECT 1 FROM jobs WHERE CAST(job_id AS TEXT) = ?"
        if (kind == "jobs" and not self._database.row(job, name)) or (
            kind == "warehouses" and name != WAREHOUSE_ID
        ):
            raise missing(f"{kind.removesuffix('s').capitalize()} {name} does not exist.")

    def get(self, call: Call) -> shapes.ObjectPermissions:
        """The access-control list; the owner alone, unless one was set."""
        kind, entries = call.text("type"), self._entries(call)
        return shapes.ObjectPermissions(
            object_id=f"/{kind}/{call.text('id')}",
            object_type=kind.removesuffix("s"),
            access_control_list=[_shown(entry) for entry in ([_OWNER] if entries is None else entries)],
        )

    def put(self, call: Call) -> shapes.ObjectPermissions:
        """Replace the list."""
        return self._save(call, call.body.get("access_control_list") or [])

    def patch(self, call: Call) -> shapes.ObjectPermissions:
        """Add to the list, replacing the entries of the same principals."""
        given = _checked(call.body.get("access_control_list") or [])
        kept = self._entries(call) or [_OWNER]
        if any(entry["permission_level"] == "IS_OWNER" for entry in given):  # the owner is another now
            kept = [entry for entry in kept if entry["permission_level"] != "IS_OWNER"]
        return self._save(call, list({_principal(entry): entry for entry in [*kept, *given]}.values()))

    def levels(self, call: Call) -> shapes.GetPermissionLevelsResponse:
        """The levels that objects of this type have."""
        names = _LEVELS.get(call.text("type"), ("CAN_READ", "CAN_MANAGE"))
        return shapes.GetPermissionLevelsResponse(
            [
                shapes.PermissionsDescription(permission_level=shapes.PermissionLevel(name), description=name)
                for name in names
            ]
        )

    def _entries(self, call: Call) -> list[Json] | None:
        self._require(call.text("type"), call.text("id"))
        key = f"{call.text('type')}/{call.text('id')}"
        row = self._database.row("SELECT doc FROM permissions WHERE object = ?", key)
        entries: list[Json] | None = json.loads(row[0]) if row else None
        return entries

    def _save(self, call: Call, entries: list[Json]) -> shapes.ObjectPermissions:
        self._require(call.text("type"), call.text("id"))
        owners = [entry for entry in _checked(entries) if entry["permission_level"] == "IS_OWNER"]
        if call.text("type") == "jobs" and len(owners) != 1:
            raise invalid("The permissions of a job must have exactly one owner (IS_OWNER)")
        key, text = f"{call.text('type')}/{call.text('id')}", json.dumps(entries)
        self._database.run("INSERT OR REPLACE INTO permissions VALUES (?, ?)", key, text)
        return self.get(call)


async def _access_token(request: Request, token: str) -> Reply:
    """OAuth for machines: grant a token to the one user, whose secret is the workspace's token."""
    given = dict(parse_qsl((await request.body()).decode("latin-1")))
    kind, _, coded = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "basic":
        text = decoded(coded, "authorization").decode()
        given["client_id"], _, given["client_secret"] = text.partition(":")
    if given.get("grant_type") != "client_credentials":
        return reply({"error": "unsupported_grant_type", "error_description": "Use client_credentials."}, 400)
    right = secrets.compare_digest(given.get("client_secret", "").encode(), token.encode())
    if not right or given.get("client_id") != USER:
        return reply({"error": "invalid_client", "error_description": f"Use {USER} and the token."}, 401)
    granted = access_token(token, int(time.time()) + _TOKEN_LIFE_S)
    return {"access_token": granted, "token_type": "Bearer", "expires_in": _TOKEN_LIFE_S, "scope": "all-apis"}


def _settings(database: Database, path: str) -> list[Route]:
    """The settings of the web pages, of which there are none here: kept and shown, null before."""

    def known(names: Iterable[str]) -> Iterable[str]:
        if unknown := set(names) - _SETTINGS:
            raise invalid(f"Invalid keys: {sorted(unknown)}; there are {sorted(_SETTINGS)}")
        return names

    def get(call: Call) -> Json:
        kept: dict[str, str] = dict(database.rows("SELECT name, value FROM settings"))
        return {name: kept.get(name) for name in known(call.text("keys").split(","))}

    def patch(call: Call) -> Response:
        for name, value in [(name, call.text(name)) for name in known(call.body)]:
            database.run("INSERT OR REPLACE INTO settings VALUES (?, ?)", name, value)
        return Response(status_code=204)

    return [route("GET", path, get), route("PATCH", path, patch)]


def _checked(entries: list[Json]) -> list[Json]:
    """The entries of a request. Raises ApiError (400) unless each has a principal and a level that exists."""
    known = {level.value for level in shapes.PermissionLevel}
    if not isinstance(entries, list) or not all(
        _principal(entry) and entry["permission_level"] in known for entry in entries
    ):
        raise invalid("access_control_list needs a principal and a permission_level in every entry")
    return entries


def _principal(entry: Json) -> tuple[str, str] | None:
    for field in ("user_name", "group_name", "service_principal_name"):
        if isinstance(entry, dict) and entry.get(field) and entry.get("permission_level"):
            return field, str(entry[field])
    return None


def _shown(entry: Json) -> shapes.AccessControlResponse:
    level = shapes.PermissionLevel(entry["permission_level"])
    shown = shapes.AccessControlResponse.from_dict(entry)
    shown.all_permissions = [shapes.Permission(permission_level=level, inherited=False)]
    return shown


def routes(workspace: Workspace) -> list[Route]:
    """Discovery, SCIM, settings and permissions."""
    permissions, oidc = Permissions(workspace.database), f"{workspace.info.host}/oidc"
    base = "/api/2.{minor:int}/permissions/{type}/{id}"
    discovery: Json = {"oidc_endpoint": oidc, "account_id": ACCOUNT_ID, "workspace_id": WORKSPACE_ID}
    endpoints: Json = {"issuer": oidc, "token_endpoint": f"{oidc}/v1/token"}
    return [
        route("GET", "/.well-known/databricks-config", lambda _call: discovery),
        route("GET", "/oidc/.well-known/oauth-authorization-server", lambda _call: endpoints),
        async_route("POST", "/oidc/v1/token", partial(_access_token, token=workspace.info.token)),
        *scim.routes(),
        *_settings(workspace.database, "/api/2.0/workspace-conf"),
        route("GET", f"{base}/permissionLevels", permissions.levels),
        route("GET", base, permissions.get),
        route("PUT", base, permissions.put),
        route("PATCH", base, permissions.patch),
    ]

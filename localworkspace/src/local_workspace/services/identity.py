"""The host, users and groups, and object permissions (kept, not enforced: there is one user)."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from databricks.sdk.service import iam as shapes
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local_workspace.errors import invalid, missing
from local_workspace.http import Call, Json, Reply, async_route, decoded, reply, route
from local_workspace.options import ACCOUNT_ID, USER, WAREHOUSE_ID, WORKSPACE_ID
from local_workspace.services import access_token
from local_workspace.state import Database
from local_workspace.workspace import Workspace

_LEVELS = {
    "jobs": ("CAN_VIEW", "CAN_MANAGE_RUN", "CAN_MANAGE", "IS_OWNER"),
    "warehouses": ("CAN_VIEW", "CAN_USE", "CAN_MONITOR", "CAN_MANAGE", "IS_OWNER"),
}
_SETTINGS = frozenset({"enableNotebookTableClipboard", "enableResultsDownloading"})
_TOKEN_LIFE_S = 3600  # as on Databricks
_OWNER: Json = {"user_name": USER, "permission_level": "IS_OWNER"}
_KINDS = ("Users", "Groups", "ServicePrincipals")
_USER_ID = "1"
_GROUPS = {"101": "admins", "102": "users"}
_LISTED = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
_TERM = re.compile(r"""\s*([\w.]+)\s+(eq|ne|co|sw)\s+(?:"([^"]*)"|(\S+))\s*""", re.IGNORECASE)
_TESTS: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda value, wanted: value == wanted,
    "ne": lambda value, wanted: value != wanted,
    "co": lambda value, wanted: wanted in value,
    "sw": lambda value, wanted: value.startswith(wanted),
}


class Permissions:
    """`/api/2.0/permissions/<type>/<id>`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def _key(self, call: Call) -> str:
        """The object's name for the database. Raises ApiError (404): no such job or warehouse."""
        kind, name = call.text("type"), call.text("id")
        job = "SELECT 1 FROM jobs WHERE CAST(job_id AS TEXT) = ?"
        known = self._database.row(job, name) if kind == "jobs" else name == WAREHOUSE_ID
        if kind in {"jobs", "warehouses"} and not known:
            raise missing(f"{kind.removesuffix('s').capitalize()} {name} does not exist.")
        return f"{kind}/{name}"

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
        levels = map(shapes.PermissionLevel, _LEVELS.get(call.text("type"), ("CAN_READ", "CAN_MANAGE")))
        return shapes.GetPermissionLevelsResponse(
            [shapes.PermissionsDescription(permission_level=each, description=each.value) for each in levels]
        )

    def _entries(self, call: Call) -> list[Json] | None:
        row = self._database.row("SELECT doc FROM permissions WHERE object = ?", self._key(call))
        entries: list[Json] | None = json.loads(row[0]) if row else None
        return entries

    def _save(self, call: Call, entries: list[Json]) -> shapes.ObjectPermissions:
        key = self._key(call)
        owners = [entry for entry in _checked(entries) if entry["permission_level"] == "IS_OWNER"]
        if call.text("type") == "jobs" and len(owners) != 1:
            raise invalid("The permissions of a job must have exactly one owner (IS_OWNER)")
        self._database.run("INSERT OR REPLACE INTO permissions VALUES (?, ?)", key, json.dumps(entries))
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


# --- SCIM: the one user, the two groups that this user is in, and no service principals


def _user() -> shapes.User:
    return shapes.User(
        id=_USER_ID,
        user_name=USER,
        display_name="Local user",
        name=shapes.Name(given_name="Local", family_name="user"),
        active=True,
        emails=[shapes.ComplexValue(type="work", value=USER, primary=True)],
        groups=[shapes.ComplexValue(display=name, type="direct", value=key) for key, name in _GROUPS.items()],
        schemas=[shapes.UserSchema.URN_IETF_PARAMS_SCIM_SCHEMAS_CORE_2_0_USER],
    )


def _group(key: str) -> shapes.Group:
    return shapes.Group(
        id=key,
        display_name=_GROUPS[key],
        members=[shapes.ComplexValue(display="Local user", value=_USER_ID, ref=f"Users/{_USER_ID}")],
        meta=shapes.ResourceMeta(resource_type="WorkspaceGroup"),
        schemas=[shapes.GroupSchema.URN_IETF_PARAMS_SCIM_SCHEMAS_CORE_2_0_GROUP],
    )


def _items(kind: str) -> list[Json]:
    if kind == "Users":
        return [_user().as_dict()]
    return [_group(key).as_dict() for key in _GROUPS] if kind == "Groups" else []


def _list(kind: str, call: Call) -> Json:
    """A page of a list, from `startIndex` (the first is 1)."""
    found = [item for item in _items(kind) if _matches(item, call.query.get("filter", ""))]
    if by := call.query.get("sortBy"):
        down = call.query.get("sortOrder") == "descending"
        found.sort(key=lambda item: list(_values(item, by)), reverse=down)
    start, count = max(1, call.number("startIndex", 1)), call.number("count", 100)
    page = found[start - 1 : start - 1 + count] if count > 0 else []
    return {
        "schemas": [_LISTED],
        "totalResults": len(found),
        "startIndex": start,
        "itemsPerPage": len(page),
        "Resources": [_chosen(item, call) for item in page],
    }


def _get(kind: str, call: Call) -> Json:
    for item in _items(kind):
        if item["id"] == call.text("id"):
            return _chosen(item, call)
    raise missing(f"{kind[:-1]} {call.text('id')} not found.")


def _chosen(item: Json, call: Call) -> Json:
    """The attributes that the request wants."""
    wanted = [name for name in call.query.get("attributes", "").split(",") if name]
    excluded = call.query.get("excludedAttributes", "").split(",")
    always = {"id", "schemas", *wanted}
    return {
        name: value for name, value in item.items() if (not wanted or name in always) and name not in excluded
    }


def _matches(item: Json, text: str) -> bool:
    """Tell if an object meets a filter: comparisons joined by `and`, which binds closer, and `or`."""
    if not text.strip():
        return True
    either = re.split(r"\s+or\s+", text, flags=re.IGNORECASE)
    return any(
        all(_meets(item, term) for term in re.split(r"\s+and\s+", part, flags=re.IGNORECASE))
        for part in either
    )


def _meets(item: Json, term: str) -> bool:
    match = _TERM.fullmatch(term)
    if match is None:
        raise invalid(
            f'The filter {term!r} is not supported: use ATTRIBUTE eq|ne|co|sw "VALUE", joined by and, or'
        )
    test, wanted = _TESTS[match[2].lower()], (match[3] if match[3] is not None else match[4]).lower()
    values = [value.lower() for value in _values(item, match[1])]
    of_values = all if match[2].lower() == "ne" else any
    return of_values(test(value, wanted) for value in values)


def _values(whole: Json, path: str) -> Sequence[str]:
    """The values of an attribute, which may be one of a list's; names are the same in capitals."""
    found: list[Any] = [whole]
    for name in path.split("."):
        parts = [part for entry in found for part in (entry if isinstance(entry, list) else [entry])]
        items = [item for part in parts if isinstance(part, dict) for item in part.items()]
        found = [value for key, value in items if key.lower() == name.lower()]
    return [str(value) for value in found]


def routes(workspace: Workspace) -> list[Route]:
    """Discovery, SCIM, settings and permissions."""
    permissions, oidc = Permissions(workspace.database), f"{workspace.info.host}/oidc"
    base, scim = "/api/2.{minor:int}/permissions/{type}/{id}", "/api/2.0/preview/scim/v2"
    discovery: Json = {"oidc_endpoint": oidc, "account_id": ACCOUNT_ID, "workspace_id": WORKSPACE_ID}
    endpoints: Json = {"issuer": oidc, "token_endpoint": f"{oidc}/v1/token"}
    return [
        route("GET", "/.well-known/databricks-config", lambda _call: discovery),
        route("GET", "/oidc/.well-known/oauth-authorization-server", lambda _call: endpoints),
        async_route("POST", "/oidc/v1/token", partial(_access_token, token=workspace.info.token)),
        route("GET", f"{scim}/Me", lambda _call: _user()),
        *(route("GET", f"{scim}/{kind}", partial(_list, kind)) for kind in _KINDS),
        *(route("GET", f"{scim}/{kind}/{{id}}", partial(_get, kind)) for kind in _KINDS),
        *_settings(workspace.database, "/api/2.0/workspace-conf"),
        route("GET", f"{base}/permissionLevels", permissions.levels),
        route("GET", base, permissions.get),
        route("PUT", base, permissions.put),
        route("PATCH", base, permissions.patch),
    ]

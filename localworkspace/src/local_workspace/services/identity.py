"""Who one is, what the host is, and object permissions (kept, not enforced: there is one user)."""

from __future__ import annotations

import json
from collections.abc import Callable

from starlette.routing import Route

from local_workspace.errors import invalid
from local_workspace.state import Database
from local_workspace.web import Call, Json, route

USER = "local@workspace.localhost"
WORKSPACE_ID = "1"
_LEVELS = {
    "jobs": ("CAN_VIEW", "CAN_MANAGE_RUN", "CAN_MANAGE", "IS_OWNER"),
    "warehouses": ("CAN_VIEW", "CAN_USE", "CAN_MONITOR", "CAN_MANAGE", "IS_OWNER"),
}


class Permissions:
    """`/api/2.0/permissions/<type>/<id>`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, call: Call) -> Json:
        """The access-control list; the owner alone, unless one was set."""
        kind, name = call.text("type"), call.text("id")
        row = self._database.row("SELECT doc FROM permissions WHERE object = ?", f"{kind}/{name}")
        own: Json = {"user_name": USER, "permission_level": "IS_OWNER"}
        entries: list[Json] = json.loads(row[0]) if row else [own]
        return {
            "object_id": f"/{kind}/{name}",
            "object_type": kind.removesuffix("s"),
            "access_control_list": [_shown(entry) for entry in entries],
        }

    def put(self, call: Call) -> Json:
        """Replace the list."""
        entries = call.body.get("access_control_list") or []
        if not isinstance(entries, list) or not all(_principal(entry) for entry in entries):
            raise invalid("access_control_list needs a principal and a permission_level in every entry")
        key = f"{call.text('type')}/{call.text('id')}"
        self._database.run("INSERT OR REPLACE INTO permissions VALUES (?, ?)", key, json.dumps(entries))
        return self.get(call)

    def patch(self, call: Call) -> Json:
        """Add to the list, replacing the entries of the same principals."""
        row = self._database.row(
            "SELECT doc FROM permissions WHERE object = ?", f"{call.text('type')}/{call.text('id')}"
        )
        before: list[Json] = json.loads(row[0]) if row else []
        after: list[Json] = call.body.get("access_control_list") or []
        merged = {_principal(entry): entry for entry in [*before, *after]}
        return self.put(Call(path=call.path, body={"access_control_list": list(merged.values())}))

    def levels(self, call: Call) -> Json:
        """Levels that an object of this type knows."""
        names = _LEVELS.get(call.text("type"), ("CAN_READ", "CAN_MANAGE"))
        return {"permission_levels": [{"permission_level": name, "description": name} for name in names]}


def _principal(entry: Json) -> tuple[str, str] | None:
    for field in ("user_name", "group_name", "service_principal_name"):
        if isinstance(entry, dict) and entry.get(field) and entry.get("permission_level"):
            return field, str(entry[field])
    return None


def _shown(entry: Json) -> Json:
    level = {"permission_level": entry["permission_level"], "inherited": False}
    return {**{k: v for k, v in entry.items() if k != "permission_level"}, "all_permissions": [level]}


def _me(_call: Call) -> Json:
    return {
        "id": "1",
        "userName": USER,
        "displayName": "Local user",
        "active": True,
        "emails": [{"type": "work", "value": USER, "primary": True}],
        "groups": [{"display": "admins", "type": "direct", "value": "1"}],
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
    }


def _discovery(host: str) -> Callable[[Call], Json]:
    return lambda _call: {"oidc_endpoint": f"{host}/oidc", "workspace_id": WORKSPACE_ID}


def routes(database: Database, host: str) -> list[Route]:
    """Discovery, SCIM Me and permissions."""
    permissions = Permissions(database)
    base = "/api/2.{minor:int}/permissions/{type}/{id}"
    return [
        route("GET", "/.well-known/databricks-config", _discovery(host)),
        route("GET", "/api/2.0/preview/scim/v2/Me", _me),
        route("GET", f"{base}/permissionLevels", permissions.levels),
        route("GET", base, permissions.get),
        route("PUT", base, permissions.put),
        route("PATCH", base, permissions.patch),
    ]

"""SCIM: the one user, the two groups that this user is in, and no service principals."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from databricks.sdk.service import iam as shapes
from starlette.routing import Route

from local_workspace.errors import ApiError, invalid
from local_workspace.http import Call, Json, route
from local_workspace.options import USER

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
    if kind not in {"Users", "Groups", "ServicePrincipals"}:
        raise ApiError(404, "ENDPOINT_NOT_FOUND", f"No API found for SCIM's {kind}")
    if kind == "Users":
        return [_user().as_dict()]
    return [_group(key).as_dict() for key in _GROUPS] if kind == "Groups" else []


def _list(call: Call) -> Json:
    """A page of a list, from `startIndex` (the first is 1)."""
    found = [item for item in _items(call.text("kind")) if _matches(item, call.query.get("filter", ""))]
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


def _get(call: Call) -> Json:
    for item in _items(call.text("kind")):
        if item["id"] == call.text("id"):
            return _chosen(item, call)
    raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", f"{call.text('kind')[:-1]} {call.text('id')} not found.")


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
    every = all if match[2].lower() == "ne" else any
    return every(test(value.lower(), wanted) for value in _values(item, match[1]))


def _values(item: Json, path: str) -> Sequence[str]:
    """The values of an attribute, which may be one of a list's; names are the same in capitals."""
    found: list[Any] = [item]
    for name in path.split("."):
        parts = [part for entry in found for part in (entry if isinstance(entry, list) else [entry])]
        found = [
            value
            for part in parts
            if isinstance(part, dict)
            for key, value in part.items()
            if key.lower() == name.lower()
        ]
    return [str(value) for value in found]


def routes() -> list[Route]:
    """The routes of `/api/2.0/preview/scim/v2`."""
    base = "/api/2.0/preview/scim/v2"
    return [
        route("GET", f"{base}/Me", lambda _call: _user()),
        route("GET", f"{base}/{{kind}}", _list),
        route("GET", f"{base}/{{kind}}/{{id}}", _get),
    ]

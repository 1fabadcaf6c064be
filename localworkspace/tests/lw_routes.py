"""Every method and path that the workspace serves, but for its fault control."""

from __future__ import annotations

import tempfile
from pathlib import Path

from local_workspace.services import SERVICES, service_of

from tools.fuzz.targets import served_routes

with tempfile.TemporaryDirectory() as name:
    _FOUND = served_routes(Path(name))
assert {service_of(route.path.replace("{minor:int}", "1")) for route in _FOUND} == set(SERVICES)
# Starlette adds HEAD to every GET.
ROUTES = sorted(
    {(method, route.path) for route in _FOUND for method in (route.methods or set()) - {"HEAD"}}
    | {("HEAD", route.path) for route in _FOUND if route.methods == {"HEAD"}}
)

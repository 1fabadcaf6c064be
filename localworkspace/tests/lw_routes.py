"""Every method and path that the workspace serves, but for its fault control."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from local_workspace import WorkspaceInfo, WorkspaceOptions
from local_workspace.http import service_of
from local_workspace.layout import Layout
from local_workspace.server import SERVICES, load_routes
from local_workspace.state import Database
from local_workspace.workspace import Workspace


def _routes(folder: Path) -> set[tuple[str, str]]:
    layout = Layout(root=folder)
    layout.create()
    info = WorkspaceInfo(host="http://127.0.0.1:1", token="t", http_path="/p", root=str(folder), pid=1)
    engine: Any = SimpleNamespace(catalog=None, connect_url_of=None, end_job=None)
    with contextlib.closing(Database(layout.private / "state.db")) as database:
        workspace = Workspace.assemble(WorkspaceOptions(root=folder), info, layout, database, engine, None)
        found = [route for module in set(SERVICES.values()) for route in load_routes(module, workspace)]
    assert {service_of(route.path.replace("{minor:int}", "1")) for route in found} == set(SERVICES)
    # Starlette adds HEAD to every GET.
    return {(method, route.path) for route in found for method in (route.methods or set()) - {"HEAD"}} | {
        ("HEAD", route.path) for route in found if route.methods == {"HEAD"}
    }


with tempfile.TemporaryDirectory() as name:
    ROUTES = sorted(_routes(Path(name)))

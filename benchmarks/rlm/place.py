"""``python -m benchmarks.rlm.place``: a local workspace whose serving endpoints are the stub model server.

It answers ``/v1/chat/completions`` too, for those who know no workspace: all contenders ask one stub.
"""

from __future__ import annotations

import sys

from local_workspace import __main__, services
from local_workspace.workspace import Workspace
from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks.rlm.stub import PREFIXES, Stub


class Beside:
    """Sends what is meant for the model server there, and all else to the workspace."""

    def __init__(self, workspace: ASGIApp, stub: ASGIApp) -> None:
        self._workspace, self._stub = workspace, stub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        to_stub = scope["type"] == "http" and scope["path"].startswith(PREFIXES)
        await (self._stub if to_stub else self._workspace)(scope, receive, send)


def main() -> int:
    """Serve as the local workspace's own module does."""
    build = services.build

    def with_stub(workspace: Workspace) -> ASGIApp:
        return Beside(build(workspace), Stub().application())

    services.build = with_stub
    return __main__.main()


if __name__ == "__main__":
    sys.exit(main())

"""The default engine: Sail, a Spark Connect server (package `pysail`), over Delta tables.

It runs in a process of its own: that way it can be replaced (see `servers`), and a Python function of a query
that crashes does not take the workspace along.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import Any

from .catalog import CatalogTree
from .errors import EngineError
from .servers import EngineServer
from .session import CatalogSession
from .wire import CHANNEL_OPTIONS, ConnectClient, connect_stub

# A job may compute for hours in pandas between two statements; its session must still be there.
_SESSION_SECONDS = 30 * 24 * 3600
_STOP_SECONDS = 10
# Up to 450 MB of what Sail does not give back, and a new server takes a third of a second.
RENEW_AFTER = 3_000

# Ends with its standard input, that is with its parent, however that one ended.
_PROGRAM = """
import json, os, sys
from pysail.spark import SparkConnectServer
server = SparkConnectServer(ip="127.0.0.1", port=0)
server.start(background=True)
print(json.dumps(server.listening_address), flush=True)
sys.stdin.buffer.read()
os._exit(0)
"""


class SailBackend:
    """Starts Sail servers for one workspace."""

    def __init__(self, tree: CatalogTree, renew_after: int = RENEW_AFTER) -> None:
        self._tree = tree
        self.renew_after: int | None = renew_after

    def launch(self) -> EngineServer:
        """Start a server. Raises `EngineError` when it does not start."""
        import grpc

        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-c", _PROGRAM], env=os.environ | self._settings(), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            _end(process)
            raise EngineError.of("ENGINE_UNAVAILABLE", "Sail did not start; see standard error.", "08006")
        host, port = json.loads(line)
        channel = grpc.insecure_channel(f"{host}:{port}", options=CHANNEL_OPTIONS)

        def stop() -> None:
            channel.close()
            _end(process)

        return EngineServer(channel=channel, stub=connect_stub(channel), stop=stop)

    def session(self, client: ConnectClient) -> CatalogSession:
        """The session of a client: Sail's catalogs live in it, so it is taught each table."""
        return CatalogSession(self._tree, client)

    def _settings(self) -> dict[str, str]:
        catalogs = self._tree.catalogs()
        listed = ", ".join(
            f'{{type="memory", name="{name}", initial_database=["default"]}}' for name in catalogs
        )
        return {
            "SAIL_CATALOG__LIST": f"[{listed}]",
            "SAIL_CATALOG__DEFAULT_CATALOG": f'"{catalogs[0]}"' if not catalogs[0].isalpha() else catalogs[0],
            "SAIL_SPARK__SESSION_TIMEOUT_SECS": str(_SESSION_SECONDS),
            "RUST_LOG": os.environ.get("RUST_LOG", "error"),
        }


def _end(process: subprocess.Popen[Any]) -> None:
    """End a server process and wait for it."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()

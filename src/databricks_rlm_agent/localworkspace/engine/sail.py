"""The default engine: Sail, a Spark Connect server in this process (package `pysail`), over Delta tables."""

from __future__ import annotations

import os
import threading
from typing import Any

from .catalog import CatalogTree
from .session import CatalogSession
from .wire import CHANNEL_OPTIONS, ConnectClient, connect_stub

# A job may compute for hours in pandas between two statements; its session must still be there.
_SESSION_SECONDS = 30 * 24 * 3600


class SailBackend:
    """Starts and stops the Sail server of one workspace."""

    _starting = threading.Lock()  # the settings travel through the process's environment

    def __init__(self, tree: CatalogTree) -> None:
        self._tree = tree
        self._server: Any = None
        self._channel: Any = None

    def start(self) -> Any:
        """Start the server; the stub to talk to it."""
        import grpc

        with self._starting:
            os.environ.update(self._settings())
            os.environ.setdefault("RUST_LOG", "error")
            from pysail.spark import SparkConnectServer

            self._server = SparkConnectServer(ip="127.0.0.1", port=0)
            self._server.start(background=True)
        host, port = self._server.listening_address
        self._channel = grpc.insecure_channel(f"{host}:{port}", options=CHANNEL_OPTIONS)
        return connect_stub(self._channel)

    @property
    def channel(self) -> Any:
        """The gRPC channel to the server."""
        return self._channel

    def session(self, client: ConnectClient) -> CatalogSession:
        """The session of a client: Sail's catalogs live in it, so it is taught each table."""
        return CatalogSession(self._tree, client)

    def stop(self) -> None:
        """Stop the server; sessions end."""
        if self._channel is not None:
            self._channel.close()
        if self._server is not None:
            self._server.stop()
        self._channel = self._server = None

    def _settings(self) -> dict[str, str]:
        catalogs = self._tree.catalogs()
        listed = ", ".join(
            f'{{type="memory", name="{name}", initial_database=["default"]}}' for name in catalogs
        )
        return {
            "SAIL_CATALOG__LIST": f"[{listed}]",
            "SAIL_CATALOG__DEFAULT_CATALOG": f'"{catalogs[0]}"' if not catalogs[0].isalpha() else catalogs[0],
            "SAIL_SPARK__SESSION_TIMEOUT_SECS": str(_SESSION_SECONDS),
        }

"""What an engine is to the rest of the workspace: a Spark Connect server, and sessions that know it."""

from __future__ import annotations

from typing import Any, Protocol

from .session import CatalogSession
from .wire import ConnectClient


class Backend(Protocol):
    """One engine of one workspace. The folder tree is its catalog, by whatever means."""

    @property
    def channel(self) -> Any:
        """The gRPC channel to the server, once it is started."""

    def start(self) -> Any:
        """Start the server; the Spark Connect stub to talk to it. Raises `EngineError`."""

    def session(self, client: ConnectClient) -> CatalogSession:
        """The session of a client, with the translations that this engine needs."""

    def stop(self) -> None:
        """Stop the server; sessions end."""

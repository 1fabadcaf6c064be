"""What an engine is to the rest of the workspace: Spark Connect servers, and sessions that know them."""

from __future__ import annotations

from typing import Protocol

from .servers import EngineServer
from .session import CatalogSession
from .wire import ConnectClient


class Backend(Protocol):
    """One engine of one workspace. The folder tree is its catalog, by whatever means."""

    @property
    def renew_after(self) -> int | None:
        """After how many statements a server should be replaced; None is never."""

    def launch(self) -> EngineServer:
        """Start a server. Raises `EngineError`."""

    def session(self, client: ConnectClient) -> CatalogSession:
        """The session of a client, with the translations that this engine needs."""

"""The HTTP server underneath: how it begins and ends; what the fault control needs to cut a connection."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import anyio.to_thread
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

# A client that pauses in its work must not find its connection closed under the next request.
_KEEP_ALIVE_S = 600
_SHUTDOWN_S = 1
# Long statements occupy a thread each; short requests must still find one.
_THREADS = 200

_open: dict[tuple[str, int], asyncio.Transport] = {}


class WorkspaceProtocol(H11Protocol):
    """uvicorn's protocol; additionally remembers each open connection by its peer address."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Register the connection."""
        super().connection_made(transport)
        if self.client:
            _open[self.client] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self.client:
            _open.pop(self.client, None)
        super().connection_lost(exc)


def cut(scope: Any) -> None:
    """Close the connection of a request at once; not one byte of a response is sent."""
    client = scope.get("client")
    transport = _open.get(tuple(client)) if client else None
    if transport is not None:
        transport.abort()


class WorkspaceServer(uvicorn.Server):
    """uvicorn's server, with signals that end it quietly (its own raises them again at the end)."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and say so."""
        anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
        await super().startup(sockets)
        self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT end the server in good order, with exit code 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        yield

    def _end(self) -> None:
        self.should_exit = True


def server(app: ASGIApp, on_ready: Callable[[], None]) -> WorkspaceServer:
    """A server for an application; `on_ready` is called on its event loop once it answers."""
    config = uvicorn.Config(
        app,
        http=WorkspaceProtocol,
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    return WorkspaceServer(config, on_ready)

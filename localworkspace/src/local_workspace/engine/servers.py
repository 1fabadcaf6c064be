"""The engine's servers: one as a rule, two while one is being replaced.

Sail keeps about 55 KB of every SQL text that it parses, for as long as its process lives (measured with
pysail 0.7.2: 4,000 times `SELECT 1` in one session, and as much when each session was released). A controller
asks all day, so a server that has run many statements is followed by a fresh one: new sessions begin there,
warehouse sessions move over between two statements, and the old server ends with its last session.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .errors import EngineError


@dataclass(kw_only=True, eq=False)
class EngineServer:
    """A running Spark Connect server, how many sessions it has, how many statements it has run."""

    channel: Any
    stub: Any
    stop: Callable[[], None]
    sessions: int = 0
    statements: int = 0


class Servers:
    """Hands out the server for new sessions. Safe for threads.

    `launch` starts a server (raises `EngineError`); after `most` statements a server is replaced, None never;
    `renewed` is called when sessions begin on another server.
    """

    def __init__(
        self, launch: Callable[[], EngineServer], most: int | None, renewed: Callable[[], None]
    ) -> None:
        self._launch, self._most, self._renewed = launch, most, renewed
        self._guard = threading.Lock()
        self._newest: EngineServer | None = None
        self._alive: list[EngineServer] = []
        self._next: threading.Thread | None = None
        self._closed = False

    def start(self) -> None:
        """Start the first server. Raises `EngineError`."""
        server = self._launch()
        with self._guard:
            self._newest = server
            self._alive.append(server)

    def enter(self) -> EngineServer:
        """Return the server for a new session, which counts as there until `leave`. Raises `EngineError`."""
        with self._guard:
            if self._newest is None:
                raise EngineError.of("ENGINE_UNAVAILABLE", "The engine is not running.", "08006")
            self._newest.sessions += 1
            return self._newest

    def leave(self, server: EngineServer) -> None:
        """Note that a session of `server` has ended; a replaced server stops with its last session."""
        with self._guard:
            server.sessions -= 1
            over = self._over()
        _stop(over)

    def count(self, server: EngineServer) -> None:
        """Note that a statement goes to `server`; at the limit, start the next server."""
        with self._guard:
            server.statements += 1
            used_up = self._most is not None and server.statements >= self._most and server is self._newest
            if not used_up or self._next is not None or self._closed:
                return
            self._next = threading.Thread(target=self._replace, name="engine-next", daemon=True)
            self._next.start()

    def is_newest(self, server: EngineServer) -> bool:
        """Tell whether new sessions begin on `server`."""
        return server is self._newest

    def __len__(self) -> int:
        """Return how many servers there are."""
        return len(self._alive)

    def stop(self) -> None:
        """Stop them all; sessions end."""
        with self._guard:
            self._closed, starting = True, self._next
        if starting is not None:
            starting.join()
        with self._guard:
            alive, self._alive, self._newest = self._alive, [], None
        _stop(alive)

    def _replace(self) -> None:
        """In a thread: start the next server, so that no statement waits for it."""
        try:
            server = self._launch()
        except EngineError as error:
            # The old one goes on as well as ever; the next attempt is as many statements away.
            print(f"The engine could not be renewed: {error.message}", file=sys.stderr)  # noqa: T201 - server log
            server = None
        with self._guard:
            self._next = None
            if server is None:
                if self._newest is not None:
                    self._newest.statements = 0
                return
            self._newest = server
            self._alive.append(server)
            over = self._over()
        _stop(over)
        self._renewed()

    def _over(self) -> list[EngineServer]:
        """Take out the servers that nobody needs any more. Called with the guard held."""
        over = [each for each in self._alive if each is not self._newest and each.sessions <= 0]
        self._alive = [each for each in self._alive if each not in over]
        return over


def _stop(servers: list[EngineServer]) -> None:
    for server in servers:
        server.stop()

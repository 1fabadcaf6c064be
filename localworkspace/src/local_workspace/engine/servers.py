"""The engine's servers: one as a rule, two while one is being replaced, and the watch over them.

Sail keeps about 55 KB of every SQL text that it parses, for as long as its process lives (measured with
pysail 0.7.2: 4,000 times `SELECT 1` in one session, and as much when each session was released). A controller
asks all day, so a server that has run many statements is followed by a fresh one: new sessions begin there,
warehouse sessions move over between two statements, and the old server ends with its last session.

A server that has died or hangs is ended and followed in the same way; what ran on it is lost.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from local_workspace import threads

from .errors import EngineError

_WATCH_SECONDS = 1.0
# New sessions wait so long for the follower of a server that was lost; a JVM takes some seconds to start.
_FOLLOWER_SECONDS = 60.0
_LAUNCHES = 3
_STOP_SECONDS = 5.0
# "replace": end it and start another. "renew": start another for new sessions; this one goes on.
Verdict = Literal["keep", "renew", "replace"]

_PROBE_SECONDS = 1.5
# So many probes in a row without an answer: on a machine under load a healthy server may miss some.
_SILENT = 3
# Seconds that a server may compute on after a cancel, when no statement runs any more.
_OBEY_SECONDS = 10.0
# Shares of one core. Below the first, a server does nothing; above the second, it computes, however busy the
# machine is with others.
_STILL, _BUSY = 0.005, 0.02


@dataclass(kw_only=True, eq=False)
class EngineServer:
    """A running Spark Connect server: its process, its sessions, how many statements it has run.

    `running` counts the statements that somebody waits for; `obeys` tells that a cancelled statement surely
    ends, `cancelled` that one was cancelled since the server last rested, `lost` that the server is gone and
    its sessions with it.
    """

    channel: Any
    stub: Any
    stop: Callable[[], None]
    popen: subprocess.Popen[bytes] | None = None
    obeys: bool = False
    sessions: int = 0
    statements: int = 0
    running: int = 0
    cancelled: bool = False
    lost: bool = False

    @property
    def process(self) -> int | None:
        """The process id."""
        return None if self.popen is None else self.popen.pid

    def exited(self) -> bool:
        """Tell whether the process has ended."""
        return self.popen is not None and self.popen.poll() is not None

    def answers(self, seconds: float) -> bool:
        """Tell whether it answers; a call that it does not know costs it nothing, and needs no session."""
        import grpc

        if self.channel is None:
            return True
        try:
            self.channel.unary_unary("/spark.connect.SparkConnectService/Alive")(b"", timeout=seconds)
        except grpc.RpcError as error:
            return error.code() not in {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
        except ValueError:  # the channel has just been closed
            return True
        return True

    def kill(self) -> None:
        """End the process at once, also one that is stopped."""
        if self.popen is not None:
            self.popen.kill()


@dataclass(frozen=True, kw_only=True)
class Signs:
    """Observations of a server.

    `silent`: probes in a row that it did not answer. `still`: it has used no processor time since the first
    of them. `running`: statements that clients wait for. `busy_s`: seconds for which it has computed since a
    statement was cancelled. `newest`: new sessions begin there.
    """

    exited: bool = False
    silent: int = 0
    still: bool = False
    running: int = 0
    busy_s: float = 0.0
    newest: bool = True


def judge(signs: Signs) -> tuple[Verdict, str]:
    """Return what to do about a server, and why."""
    if signs.exited:
        return "replace", "has ended"
    if signs.silent >= _SILENT and signs.still:
        return "replace", "hangs: it neither answers nor computes"
    if signs.silent >= _SILENT and not signs.running:
        return "replace", "answers nobody, though no statement runs"
    if signs.busy_s >= _OBEY_SECONDS and not signs.running:
        return "replace", "computes on after its statements were cancelled"
    if signs.newest and (signs.silent >= _SILENT or signs.busy_s >= _OBEY_SECONDS):
        return "renew", "is busy with a statement, and answers nobody else"
    return "keep", ""


class Pulse:
    """Observes one server. `clock` gives seconds; `used` the processor time that a process has had."""

    def __init__(
        self,
        server: EngineServer,
        *,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[int | None], float | None] | None = None,
    ) -> None:
        self._server, self._clock, self._used = server, clock, used or processor_seconds
        self._silent = 0
        self._answered = self._last = (clock(), self._used(server.process))
        self._busy_since: float | None = None

    def take(self, *, newest: bool) -> Signs:
        """Observe the server now; wait up to `_PROBE_SECONDS` for its answer."""
        server = self._server
        if server.exited():
            return Signs(exited=True)
        answered = server.answers(_PROBE_SECONDS)
        now = self._clock(), self._used(server.process)
        self._silent = 0 if answered else self._silent + 1
        if answered:
            self._answered = now
        computing = (_share(self._last, now) or 0.0) >= _BUSY
        self._last = now
        if not computing:
            server.cancelled, self._busy_since = False, None
        elif server.cancelled and not server.obeys and self._busy_since is None:
            self._busy_since = now[0]
        share = _share(self._answered, now)
        return Signs(
            silent=self._silent,
            still=share is not None and share < _STILL,
            running=server.running,
            busy_s=now[0] - self._busy_since if self._busy_since is not None else 0.0,
            newest=newest,
        )


def _share(before: tuple[float, float | None], now: tuple[float, float | None]) -> float | None:
    """Return how much of a core was used in between; None where that cannot be told."""
    if before[1] is None or now[1] is None or now[0] <= before[0]:
        return None
    return (now[1] - before[1]) / (now[0] - before[0])


def processor_seconds(pid: int | None) -> float | None:
    """Return the processor time that a process has used; None where there is no /proc, or no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime (proc(5))


class Servers:
    """Hands out the server for new sessions, and watches over all. Safe for threads.

    `launch` starts a server (raises `EngineError`); after `most` statements a server is replaced, None never;
    `renewed` is called when sessions begin on another server, `lost` with a server whose sessions are gone.
    """

    def __init__(
        self,
        launch: Callable[[], EngineServer],
        most: int | None,
        renewed: Callable[[], None],
        lost: Callable[[EngineServer], None] = lambda _server: None,
    ) -> None:
        self._launch, self._most, self._renewed, self._lost = launch, most, renewed, lost
        self._guard = threading.Condition()
        self._newest: EngineServer | None = None
        self._alive: list[EngineServer] = []
        self._pulses: dict[EngineServer, Pulse] = {}
        self._worn = False
        self._closed = True
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the first server, and the watch. Raises `EngineError`."""
        self._put(self._launch())
        self._closed = False
        self._thread = threads.begin("engine-watch", self._watch, essential=True)

    def enter(self) -> EngineServer:
        """Return the server for a new session, which counts as there until `leave`. Raises `EngineError`."""
        with self._guard:
            self._guard.wait_for(lambda: self._newest is not None or self._closed, _FOLLOWER_SECONDS)
            if self._newest is None or self._closed:
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
        """Note that a statement goes to `server`; at the limit, the watch starts the next server."""
        with self._guard:
            server.statements += 1
            if self._most is not None and server.statements >= self._most and server is self._newest:
                self._worn = True
                self._guard.notify_all()

    @contextmanager
    def running(self, server: EngineServer) -> Iterator[None]:
        """Note that somebody waits for a statement of `server`, for as long as the context lasts."""
        with self._guard:
            server.running += 1
        try:
            yield
        finally:
            with self._guard:
                server.running -= 1

    def is_newest(self, server: EngineServer) -> bool:
        """Tell whether new sessions begin on `server`."""
        return server is self._newest

    def __len__(self) -> int:
        """Return how many servers there are."""
        return len(self._alive)

    def stop(self) -> None:
        """Stop them all; sessions end."""
        with self._guard:
            self._closed = True
            self._guard.notify_all()
        if self._thread is not None:
            # One that is just being launched ends with this process.
            self._thread.join(_STOP_SECONDS)
        with self._guard:
            alive, self._alive, self._newest = self._alive, [], None
        _stop(alive)

    def _watch(self) -> None:
        """In a thread of its own: look after the servers until `stop`."""
        while True:
            with self._guard:
                self._guard.wait_for(lambda: self._worn or self._closed, _WATCH_SECONDS)
                if self._closed:
                    return
                wanted, self._worn = self._worn, False
            for server in list(self._alive):
                verdict, reason = judge(self._pulses[server].take(newest=server is self._newest))
                if self._stopping():
                    return
                if verdict != "keep":
                    threads.say(f"The engine (process {server.process}) {reason}; another one follows.")
                    wanted = wanted or server is self._newest
                if verdict == "replace":
                    self._lose(server)
            if wanted:
                self._follow()

    def _stopping(self) -> bool:
        return self._closed

    def _lose(self, server: EngineServer) -> None:
        """End a server that is of no use any more. What runs there fails, and its sessions are gone."""
        with self._guard:
            server.lost = True
            self._alive.remove(server)
            if self._newest is server:
                self._newest = None
        server.kill()
        server.stop()
        self._lost(server)

    def _follow(self) -> None:
        """Start the next server. Where that fails and there is none, nothing can go on."""
        for attempt in range(1, _LAUNCHES + 1):
            try:
                server = self._launch()
            except EngineError as error:
                threads.say(f"The engine could not be renewed: {error.message}")
                with self._guard:
                    if self._newest is not None:
                        # The old one goes on; the next attempt is as many statements away.
                        self._newest.statements = 0
                        return
                    if self._closed:
                        return
                    if attempt == _LAUNCHES:
                        self._closed = True
                        self._guard.notify_all()
                        threads.fatal(f"its engine has ended, and no other one starts: {error.message}")
            else:
                self._put(server)
                threads.begin("engine-renewed", self._renewed)
                return

    def _put(self, server: EngineServer) -> None:
        with self._guard:
            if self._stopping() and self._thread is not None:
                over = [server]  # too late
            else:
                self._newest = server
                self._alive.append(server)
                self._pulses = {each: self._pulses.get(each) or Pulse(each) for each in self._alive}
                over = self._over()
                self._guard.notify_all()
        _stop(over)

    def _over(self) -> list[EngineServer]:
        """Take out the servers that nobody needs any more. Called with the guard held."""
        over = [each for each in self._alive if each is not self._newest and each.sessions <= 0]
        self._alive = [each for each in self._alive if each not in over]
        return over


def _stop(servers: list[EngineServer]) -> None:
    for server in servers:
        server.stop()

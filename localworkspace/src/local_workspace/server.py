"""The server process of a local workspace: engine, services, listening socket, and their end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from local_workspace import keeper, threads
from local_workspace.errors import WorkspaceError
from local_workspace.layout import Layout
from local_workspace.options import (
    HTTP_PATH,
    WorkspaceInfo,
    WorkspaceOptions,
    clean_environment,
    is_clean,
    options_from,
)

if TYPE_CHECKING:
    from local_workspace.engine import Engine

# A stop takes no longer; after the first seconds it says what it waits for.
END_S = 12.0
_QUIET_END_S = 3.0


def run(namespace: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT, then return 0. `namespace`: the options of `add_arguments`, and `json`.

    The program is started anew without the keys of its environment: /proc would show them to every job.

    Raises ValueError for a malformed option, WorkspaceError when the workspace cannot start.
    """
    options = options_from(namespace)
    if not is_clean(os.environ):
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execve(command[0], command, clean_environment(os.environ))  # noqa: S606 - this very program
    if namespace.exit_with_parent:
        _follow_parent()
    serve(options, _print_json if namespace.json else _print_text)
    return 0


def _print_json(info: WorkspaceInfo) -> None:
    print(info.to_json(), flush=True)  # noqa: T201 - a command's output


def _print_text(info: WorkspaceInfo) -> None:
    lines = [
        f"Local workspace at {info.root}",
        f"  DATABRICKS_HOST={info.host}",
        f"  DATABRICKS_TOKEN={info.token}",
        *([f"  REQUESTS_CA_BUNDLE={info.ca_file}"] if info.ca_file else []),
        f"  RLM_WAREHOUSE_HTTP_PATH={info.http_path}",
        "Ctrl+C stops it.",
    ]
    print("\n".join(lines), flush=True)  # noqa: T201 - a command's output


def _follow_parent() -> None:
    """Stop this process when its standard input closes, as it does when whoever started it dies."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threads.begin("follow-parent", wait)


def serve(options: WorkspaceOptions, on_ready: Callable[[WorkspaceInfo], None]) -> None:
    """Serve the workspace in the foreground until SIGTERM or SIGINT; main thread only.

    `on_ready` is called once, when requests are being answered. On the way out all job processes are ended.
    Raises WorkspaceError when the workspace cannot start, or cannot go on.
    """
    keeper.hide()
    layout = Layout(root=options.root.resolve())
    layout.create()
    end = _End()
    threads.on_fatal(end.fatal)
    with contextlib.closing(layout.lock()):
        layout.clear_uploads()
        starting = _begin_engine(options, layout.token())
        try:
            with contextlib.closing(_listen(options.port)) as listener:
                _run(options, layout, listener, starting, on_ready, end)
        finally:
            layout.server_file.unlink(missing_ok=True)
            end.begin()
            if starting.exception() is None:
                starting.result().stop()
    if end.reason is not None:
        raise WorkspaceError(f"the local workspace has ended: {end.reason}")


class _End:
    """The server's end: why, where it is not asked for; and no later than `END_S` seconds after it began."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._begun = False

    def fatal(self, reason: str) -> None:
        """End the server as a signal would."""
        self.reason = reason
        os.kill(os.getpid(), signal.SIGTERM)

    def begin(self) -> None:
        """Note that the server is about to end."""
        if not self._begun:
            self._begun = True
            threads.begin("end", self._watch)

    def _watch(self) -> None:
        for wait_s in (_QUIET_END_S, END_S - _QUIET_END_S):
            time.sleep(wait_s)
            names = {thread.name for thread in threading.enumerate()} - {"MainThread", "end"}
            threads.say(f"Stopping the local workspace; it waits for: {', '.join(sorted(names))[:500]}")
        threads.say(f"It has not stopped within {END_S} s, and is ended. Tables stay as they were committed.")
        os._exit(1)


def _begin_engine(options: WorkspaceOptions, token: str) -> Future[Engine]:
    """Start the engine in a thread, while the rest of the server is being imported and set up."""
    started: Future[Engine] = Future()

    def start() -> None:
        try:
            from local_workspace.engine import EngineOptions, create_engine

            engine = create_engine(
                EngineOptions(
                    root=options.root,
                    catalogs=options.catalogs,
                    kind=options.engine,
                    token=token,
                    allow_paths=options.allow_paths,
                )
            )
            engine.start()
            started.set_result(engine)
        except BaseException as error:  # noqa: BLE001 - raised again, with its reason, by _started
            started.set_exception(error)

    threads.begin("engine-start", start)
    return started


def _started(engine: Future[Engine], kind: str) -> Engine:
    """The running engine. Raises WorkspaceError when it did not start."""
    error = engine.exception()
    if error is None:
        return engine.result()
    if isinstance(error, ModuleNotFoundError):
        raise WorkspaceError(
            f"the engine {kind!r} needs the package {error.name!r}, which is not installed: "
            f"pip install 'rlm-local-workspace[{kind}]'"
        ) from error
    from local_workspace.engine import EngineError

    message = error.message if isinstance(error, EngineError) else f"the engine did not start: {error}"
    raise WorkspaceError(message) from error


def _listen(port: int) -> socket.socket:
    """A listening socket on loopback; nothing outside this machine can reach it."""
    # The protocol is named because asyncio sets TCP_NODELAY only where it is; without, a reply takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise WorkspaceError(
            f"port {port} of 127.0.0.1 cannot be used ({error.strerror}): choose another --port, or none"
        ) from error
    listener.listen(512)
    return listener


def _run(
    options: WorkspaceOptions,
    layout: Layout,
    listener: socket.socket,
    starting: Future[Engine],
    on_ready: Callable[[WorkspaceInfo], None],
    end: _End,
) -> None:
    from local_workspace import services
    from local_workspace.http import WorkspaceServer
    from local_workspace.scripted_model import read_model
    from local_workspace.state import Database
    from local_workspace.tls import certificate
    from local_workspace.workspace import Workspace

    model = read_model(options.model)
    trusted = certificate(layout.private) if options.tls else None
    with contextlib.closing(Database(layout.private / "state.db")) as database:
        engine = _started(starting, options.engine)
        info = WorkspaceInfo(
            host=f"{'https' if trusted else 'http'}://127.0.0.1:{listener.getsockname()[1]}",
            token=layout.token(),
            http_path=HTTP_PATH,
            root=str(layout.root),
            pid=os.getpid(),
            spark_connect=engine.connect_url,
            ca_file=str(trusted.file) if trusted else "",
        )
        workspace = Workspace(options, info, layout, database, engine, model, trusted)

        def announce() -> None:
            layout.write_server_file(info.to_json())
            on_ready(info)

        workspace.scheduler.start()
        try:
            server = WorkspaceServer(services.build(workspace), announce, end.begin, trusted)
            asyncio.run(server.serve([listener]))
        finally:
            workspace.scheduler.close()

"""The local workspace: a Databricks workspace's protocols over a folder and an embedded Spark engine.

``spawn`` starts one in a child process; ``running`` finds the one that serves a folder.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from local_workspace.errors import WorkspaceError
from local_workspace.layout import Layout
from local_workspace.options import WorkspaceInfo, WorkspaceOptions, clean_environment

if TYPE_CHECKING:
    import subprocess

__all__ = ["Spawned", "WorkspaceError", "WorkspaceInfo", "WorkspaceOptions", "running", "spawn"]

# Spark's first start in an environment fetches Delta and compiles.
START_TIMEOUT_S = {"sail": 60.0, "spark": 900.0}
STOP_TIMEOUT_S = 15.0


def running(root: Path) -> WorkspaceInfo | None:
    """The workspace that serves `root` now, or None. Asks it, so that a stale file deceives nobody."""
    try:
        info = WorkspaceInfo.from_json(Layout(root=root.resolve()).server_file.read_text())
        os.kill(info.pid, 0)
    except (OSError, ValueError):
        return None
    return info if _answers(info) else None


def _answers(info: WorkspaceInfo) -> bool:
    import http.client
    import ssl
    from urllib.parse import urlsplit

    address = urlsplit(info.host).netloc
    connection = http.client.HTTPConnection(address, timeout=5)
    if info.ca_file:
        trust = ssl.create_default_context(cafile=info.ca_file)
        connection = http.client.HTTPSConnection(address, timeout=5, context=trust)
    try:
        headers = {"Authorization": f"Bearer {info.token}"}
        connection.request("GET", "/api/2.0/preview/scim/v2/Me", headers=headers)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@dataclass
class Spawned:
    """A workspace in a child process; as a context manager it stops the workspace at the end."""

    info: WorkspaceInfo
    process: subprocess.Popen[str]
    errors: IO[str]

    def stop(self) -> None:
        """Stop it: SIGTERM, and SIGKILL if that does not help. Harmless when it has stopped."""
        _end(self.process)
        self.errors.close()

    def __enter__(self) -> Spawned:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def spawn(options: WorkspaceOptions, *, program: Sequence[str] = ("-m", "local_workspace")) -> Spawned:
    """Start a workspace as a child process and wait until it answers; it ends when this process does.

    Raises WorkspaceError with the last lines of the child's standard error when it does not come up.
    """
    import subprocess
    import tempfile

    errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - lives as long as the child
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, *program, *options.to_arguments(), "--exit-with-parent", "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=clean_environment(os.environ),
        text=True,
        start_new_session=True,  # Ctrl+C in the terminal is for the parent, which then stops the child
    )
    line = _first_line(process, START_TIMEOUT_S[options.engine])
    try:
        return Spawned(info=WorkspaceInfo.from_json(line), process=process, errors=errors)
    except ValueError:
        _end(process)
        errors.seek(0)
        tail = errors.read()[-2000:].strip() or "nothing on standard error"
        errors.close()
        raise WorkspaceError(
            f"the local workspace at {options.root} did not start (exit code {process.returncode}): {tail}"
        ) from None


def _first_line(process: subprocess.Popen[str], timeout_s: float) -> str:
    """The line that the child prints when ready; empty when it ends or takes too long."""
    assert process.stdout is not None
    timer = threading.Timer(timeout_s, process.kill)
    timer.start()
    try:
        return process.stdout.readline()
    finally:
        timer.cancel()


def _end(process: subprocess.Popen[str]) -> None:
    import subprocess

    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()

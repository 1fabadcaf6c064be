"""The command line in a process of its own, forked from one that has imported everything.

It is what a user starts, only without two seconds of imports: hundreds of kills would wait for them.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path


def _main(arguments: Sequence[str], environ: Mapping[str, str], log: str, name: str | None) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.clear()
    os.environ.update(environ)
    from databricks_rlm_agent.app import App
    from databricks_rlm_agent.cli.main import main

    if name is not None:  # so that its leases and events can be told from those of the others
        new_id = App.new_id
        App.new_id = staticmethod(lambda prefix: name if prefix == "c" else new_id(prefix))  # type: ignore[method-assign]
    sys.exit(main(list(arguments)))


def warm_up() -> None:
    """Start the process that forks; on Python 3.11 it finds our modules by PYTHONPATH only."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tools.crash.preload"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), before)))
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


class Controller:
    """One controller process: start, wait, stop, kill. ``name``: its own, in place of a random one."""

    def __init__(
        self, arguments: Sequence[str], environ: Mapping[str, str], log: Path, *, name: str | None = None
    ) -> None:
        self.log = log
        self._process: ForkServerProcess = multiprocessing.get_context("forkserver").Process(
            target=_main, args=(tuple(arguments), dict(environ), str(log), name), daemon=True
        )
        self._process.start()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    @property
    def exit_code(self) -> int | None:
        return self._process.exitcode

    def signal(self, number: int) -> None:
        """Send a signal; nothing is sent to a process that has ended."""
        if self._process.is_alive() and self._process.pid is not None:
            os.kill(self._process.pid, number)

    def kill(self) -> float:
        """SIGKILL, unless it has ended; the time at which it was dead."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        return time.time()

    def wait(self, timeout_s: float, *, kill: bool = True) -> bool:
        """Whether it ended by itself in time; if not, it is killed."""
        self._process.join(timeout_s)
        if self._process.is_alive():
            if kill:
                self.kill()
            return False
        return True

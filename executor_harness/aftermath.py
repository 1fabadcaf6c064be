"""What a program leaves behind: tables to measure, threads, child processes and exit handlers."""

from __future__ import annotations

import atexit
import gc
import os
import threading
import time
from typing import TYPE_CHECKING

from executor_harness import processes
from executor_harness.protocol import ProducedTable
from executor_harness.results_table import quoted

if TYPE_CHECKING:
    from executor_harness.session import Session

_MEASURE_S = 10.0
_ENDING_S = 0.5
_OWN_PREFIX = "rlm-"
# Threads that Spark's client keeps for itself.
_LIBRARIES = ("grpc", "pyspark", "py4j")


class Aftermath:
    """Compares the process after the program with the process before it."""

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._children: set[int] = set()
        self._handlers = atexit._ncallbacks()

    def remember(self, watcher: int | None) -> None:
        """Take the state just before the program runs."""
        self._children = processes.descendants(os.getpid()) | ({watcher} if watcher else set())

    def measure_tables(self, tables: list[ProducedTable], session: Session) -> list[str]:
        """Add rows and columns to the tables as far as time allows; returns lines for the log."""
        notes: list[str] = []

        def work() -> None:
            for table in tables:
                try:
                    frame = session.fresh().table(quoted(table["name"]))
                    table["columns"] = list(frame.columns)
                    table["rows"] = int(frame.count())
                except Exception as error:  # noqa: BLE001 -- a note in the log; the program's result stands
                    notes.append(f"table {table['name']} could not be measured: {str(error)[:300]}")

        worker = threading.Thread(target=work, name="rlm-measure", daemon=True)
        worker.start()
        worker.join(_MEASURE_S)
        if worker.is_alive():
            notes.append(f"the tables could not all be measured within {_MEASURE_S:g} s")
        return list(notes)

    def leftovers(self) -> list[str]:
        """Lines for the log on what is still running."""
        threads = [thread for thread in self._left() if not _of_library(thread)]
        if threads:  # pools that nobody holds any more, as Spark's client leaves one after each query
            gc.collect()
        until = time.monotonic() + _ENDING_S
        for thread in threads:  # one that is just ending
            thread.join(max(0.0, until - time.monotonic()))
        threads = [thread for thread in threads if thread.is_alive()]
        children = self._left_children()
        lines = []
        if threads:
            names = ", ".join(sorted(thread.name for thread in threads)[:10])
            lines.append(f"{len(threads)} threads were left running and end with the job: {names}")
        if children:
            lines.append(f"{len(children)} child processes were left running and are stopped")
        return lines

    def kill_children(self) -> None:
        """End the child processes that the program started."""
        for pid in self._left_children():
            processes.kill(pid)

    def keeps_alive(self) -> bool:
        """Whether something of the program could keep or change the end of this process."""
        return bool(self._left()) or atexit._ncallbacks() > self._handlers

    def _left(self) -> list[threading.Thread]:
        return [
            thread
            for thread in threading.enumerate()
            if thread not in self._threads and not thread.name.startswith(_OWN_PREFIX)
        ]

    def _left_children(self) -> set[int]:
        return processes.descendants(os.getpid()) - self._children


def _of_library(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)  # what runs in it; gone once it has ended
    module = str(getattr(target, "__module__", ""))
    return (
        module.startswith(_LIBRARIES)
        or "channel_spin" in thread.name
        or (module == "concurrent.futures.thread" and "ExecutePlan" in thread.name)
    )

"""The leftovers of a program: tables, threads, child processes, exit handlers, functions that it replaced."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from executor_harness.protocol import ProducedTable
from executor_harness.spark import Session, quoted

_MEASURE_S = 10.0
_ENDING_S = 0.5
_OWN_PREFIX = "rlm-"
_STANDARD = sys.stdlib_module_names | {"executor_harness"}
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class that can be changed
_LIBRARIES = ("grpc", "pyspark", "py4j")  # whose threads Spark's client keeps for itself


class Leftovers:
    """Compares the process after the program with the process before it."""

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._children: set[int] = set()
        self._handlers = atexit._ncallbacks()

    def remember(self, watcher: int | None) -> None:
        """Take the child processes just before the program runs."""
        self._children = descendants(os.getpid()) | ({watcher} if watcher else set())

    def measure_tables(self, tables: list[ProducedTable], session: Session) -> list[str]:
        """Add rows and columns to the tables as far as time allows; return lines for the log."""
        notes: list[str] = []

        def measure() -> None:
            for at, table in enumerate(tables):
                try:
                    frame = session.fresh().table(quoted(table.name))
                    tables[at] = replace(table, columns=list(frame.columns))
                    tables[at] = replace(tables[at], rows=int(frame.count()))
                except Exception as error:  # noqa: BLE001 -- a note in the log; the program's result stands
                    notes.append(f"table {table.name} could not be measured: {error}")

        if not within(_MEASURE_S, measure):
            notes.append(f"the tables could not all be measured within {_MEASURE_S:g} s")
        return list(notes)

    def lines(self) -> list[str]:
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
            kill(pid)

    def keeps_alive(self) -> bool:
        """Return whether something of the program could keep or change the end of this process."""
        return bool(self._left()) or atexit._ncallbacks() > self._handlers

    def _left(self) -> list[threading.Thread]:
        new = [thread for thread in threading.enumerate() if thread not in self._threads]
        return [thread for thread in new if not thread.name.startswith(_OWN_PREFIX)]

    def _left_children(self) -> set[int]:
        return descendants(os.getpid()) - self._children


class StandardCode:
    """The functions, classes and methods of the standard library and of this package as they are now: what
    reports needs them, also after a program that replaced or deleted some.
    """

    def __init__(self) -> None:
        self._modules = dict(sys.modules)
        self._saved: list[tuple[dict[str, Any], str, Any]] = []
        self._methods: list[tuple[type, str, Any]] = []
        for name, module in self._modules.items():
            if name.partition(".")[0] in _STANDARD and isinstance(module, ModuleType):
                self._save(name, vars(module))

    def _save(self, module: str, names: dict[str, Any]) -> None:
        for name, value in names.items():
            if callable(value) or isinstance(value, ModuleType):
                self._saved.append((names, name, value))
            if isinstance(value, type) and value.__module__ == module and value.__flags__ & _HEAP_TYPE:
                methods = [item for item in vars(value).items() if type(item[1]) is FunctionType]
                self._methods += [(value, *method) for method in methods]

    def restore(self, set_: Any = type.__setattr__) -> None:
        """Put everything back; needs nothing that a program could have replaced."""
        for names, name, value in self._saved:
            if names.get(name) is not value:
                names[name] = value
        for owner, name, value in self._methods:
            if owner.__dict__.get(name) is not value:
                set_(owner, name, value)
        for name, module in self._modules.items():
            if name not in sys.modules:
                sys.modules[name] = module


def within(seconds: float, function: Callable[[], object]) -> bool:
    """Run a function on a thread of its own; False when it takes longer (it goes on then) or cannot begin."""
    thread = threading.Thread(target=function, name=f"{_OWN_PREFIX}worker", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the program has used up the threads that there may be
        return False
    thread.join(seconds)
    return not thread.is_alive()


def failure_within(seconds: float, function: Callable[[], object]) -> str:
    """Run a function as `within` does; return why it failed, or nothing where it has succeeded."""
    failures: list[str] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 -- returned in words: engines raise anything
            failures.append(f"{type(error).__name__}: {error}")

    if not within(seconds, run):
        return f"no answer from the engine within {seconds:g} s"
    return failures[0] if failures else ""


def descendants(pid: int) -> set[int]:
    """Ids of all processes that descend from `pid`, without itself. The system's first has none.

    They are found through /proc; where there is no /proc there are none.
    """
    if pid <= 1:
        return set()
    children: dict[int, list[int]] = {}
    for child, parent in _parents().items():
        children.setdefault(parent, []).append(child)
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        new = set(children.get(waiting.pop(), [])) - found
        found |= new
        waiting += new
    return found


def kill(pid: int) -> None:
    """End a process at once; one that is gone already is fine. Never the system's first, nor a group."""
    if pid > 1:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _parents() -> dict[int, int]:
    found: dict[int, int] = {}
    try:
        entries = [name for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 -- names only, and fast
    except OSError:
        return found
    for name in entries:
        with contextlib.suppress(OSError, ValueError, IndexError):
            # pid (command) state ppid …; the command may itself hold spaces and parentheses
            stat = Path("/proc", name, "stat").read_text("utf-8", "replace")
            found[int(name)] = int(stat.rpartition(")")[2].split()[1])
    return found


def _of_library(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)  # what runs in it; gone once it has ended
    module = str(getattr(target, "__module__", ""))
    return (
        module.startswith(_LIBRARIES)
        or "channel_spin" in thread.name
        or (module == "concurrent.futures.thread" and "ExecutePlan" in thread.name)
    )

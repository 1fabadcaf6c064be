"""Runs the program in this process, as `__main__`, in surroundings that are put back afterwards."""

from __future__ import annotations

import linecache
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from executor_harness import protocol
from executor_harness.leftovers import StandardCode
from executor_harness.outcome import ProcessExit, of_exception
from executor_harness.rlm.api import Rlm
from executor_harness.session import Session, Unavailable


@dataclass(frozen=True, kw_only=True)
class Program:
    """A verified program: its name in tracebacks, its file, and the folder of its library."""

    source: bytes
    name: str
    file: Path
    codebase: Path | None


def run(
    program: Program,
    rlm: Rlm,
    session: Session,
    standard: StandardCode,
    cancel: Callable[[ProcessExit], None],
) -> None:
    """Run the program; raises whatever it raises unless it ended well, as it does by `sys.exit(0)` too.

    `cancel` ends it from a thread that is not its own. Afterwards the standard library is as it was.
    """
    try:
        _run(program, rlm, session, standard, cancel)
    except SystemExit as error:
        if of_exception(error, program.name).status != protocol.SUCCESS:
            raise


def _run(
    program: Program,
    rlm: Rlm,
    session: Session,
    standard: StandardCode,
    cancel: Callable[[ProcessExit], None],
) -> None:
    home = os.getpid()
    try:
        with _surroundings(program) as module, _soft_exit(cancel):
            # `compile` first: a program that does not parse should not wait for an engine
            code = protocol.compiled(program.source, program.name)
            module.__dict__["rlm"] = rlm
            if b"spark" in program.source:  # a program that never touches Spark does not pay for it
                session.guard()
                module.__dict__["spark"] = _spark(session)
            elif b"llm_" in program.source:  # answers are kept in a table: no call should wait for the engine
                _spark(session)
            try:
                exec(code, module.__dict__)  # noqa: S102 -- what this package is for; the hash is verified
            finally:
                standard.restore()
    finally:
        if os.getpid() != home:
            _end_fork(sys.exc_info()[1])


def _end_fork(error: BaseException | None) -> NoReturn:
    """End a fork of the program that ran off its end, as a process of its own would: it must not report."""
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        code = 1
        traceback.print_exception(type(error), error, error.__traceback__)
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code & 0xFF)


def _spark(session: Session) -> Any:
    try:
        return session.get()
    except Exception as error:  # noqa: BLE001 -- recorded in the stand-in: the word may only be in a comment
        return Unavailable(error)


@contextmanager
def _surroundings(program: Program) -> Iterator[ModuleType]:
    module = ModuleType("__main__")
    module.__dict__.update({"__file__": str(program.file), "__builtins__": __builtins__})
    text = program.source.decode("utf-8", "replace")
    linecache.cache[program.name] = (len(text), None, text.splitlines(True), program.name)
    old = (sys.modules["__main__"], sys.argv, list(sys.path), sys.getrecursionlimit(), _cwd())
    interval, home = sys.getswitchinterval(), os.getpid()
    folder = tempfile.mkdtemp(prefix="rlm-")
    os.chdir(folder)
    sys.modules["__main__"], sys.argv = module, [str(program.file)]
    if program.codebase is not None and program.codebase.is_dir():
        # Last, so that no file of the company's can stand in for the library or for pyspark.
        sys.path.append(str(program.codebase))
    try:
        yield module
    finally:
        if os.getpid() == home:
            sys.modules["__main__"], sys.argv, sys.path[:] = old[:3]
            sys.settrace(None)
            sys.setprofile(None)
            signal.setitimer(signal.ITIMER_REAL, 0)  # an alarm that is still set would end the report
            sys.setswitchinterval(interval)
            with suppress(RecursionError):  # too deep to lower it just now: then it is high enough for us
                sys.setrecursionlimit(max(old[3], 1000))
            with suppress(OSError):  # it is gone
                os.chdir(old[4])
            shutil.rmtree(folder, ignore_errors=True)


def _cwd() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 -- a text is all that is needed
    except OSError:
        return "/"


@contextmanager
def _soft_exit(cancel: Callable[[ProcessExit], None]) -> Iterator[None]:
    """`os._exit` as an exception in this process; in forks of it, which need it, as it always was."""
    real, home, thread = os._exit, os.getpid(), threading.get_ident()
    modules = [os, sys.modules[os.name]]  # where it is from has it as well

    def exit_softly(status: int) -> Any:
        if os.getpid() != home:
            real(status)
        leaving = ProcessExit(status)
        if threading.get_ident() != thread:
            cancel(leaving)
        raise leaving

    for module in modules:
        module._exit = exit_softly  # type: ignore[attr-defined] # it is `posix`
    try:
        yield
    finally:
        for module in modules:
            module._exit = real  # type: ignore[attr-defined] # as above

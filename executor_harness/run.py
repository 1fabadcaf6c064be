"""Runs the program in this process, as `__main__`, in surroundings that are put back afterwards, and makes a
report of how it ended.
"""

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
from executor_harness.protocol import Status
from executor_harness.report import Report
from executor_harness.rlm.api import Rlm
from executor_harness.spark import Session, Unavailable

_OURS = str(Path(__file__).parent)
_FRAMES = 60
_MASKED_CHARS = 1_000_000  # of an error's text: what is cut to its final length later


class ProcessExit(SystemExit):
    """`os._exit` in the program, made into an exit that still reports."""


class WorkflowFailed(Exception):  # noqa: N818 -- the planner reads the name
    """A SQL workflow has not succeeded; its text says which step, file and line, and what to do."""


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
    except SystemExit as error:
        if of_exception(error, program.name).status != protocol.SUCCESS:
            raise
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


def of_end(error: BaseException | None, reason: Status | None, program: str, timeout_s: float) -> Report:
    """The report of a program's end. `reason` is why it was ended from outside, if it was: that counts
    first, whatever was raised because of it. `program` is the name of its file in tracebacks.
    """
    if reason:
        where = place(error, program) if error else ""
        trace = of_exception(error, program).traceback if error else None
        return of_interruption(reason, timeout_s, where, trace)
    if error is None:
        return Report.success()
    try:
        return of_exception(error, program)
    finally:
        # What the frames hold may be the very memory that ran out.
        trace_back = error.__traceback__
        error.__traceback__ = None
        del trace_back


def of_exception(error: BaseException, program: str) -> Report:
    """The report of a program that raised an exception, or exited."""
    if isinstance(error, SystemExit):
        return _of_exit(error, program)
    kind = type(error).__name__
    if isinstance(error, WorkflowFailed):  # its place in the generated program says nothing
        return Report.failed(kind, _message(error))
    return Report.failed(kind, f"{_prefix(error, program)}{kind}: {_message(error)}", formatted(error))


def _of_exit(error: SystemExit, program: str) -> Report:
    """As the interpreter does it: None and 0 are success, a number is the code, else a message and 1."""
    code = error.code
    if code is None or code == 0:
        return Report.success()
    call = "os._exit" if isinstance(error, ProcessExit) else "sys.exit"
    summary = f"{call}({code})" if isinstance(code, int) else f"{call}: {_text(code)}"
    return Report(
        exit_code=(code & 0xFF if isinstance(code, int) else 0) or protocol.EXIT_FAILED,
        error_type="SystemExit",
        error_summary=f"{_prefix(error, program)}{summary}",
        traceback=formatted(error),
    )


def of_interruption(reason: Status, timeout_s: float, where: str, trace: str | None) -> Report:
    """The report of a program that was ended from outside. `where` names the line it was at, if known."""
    is_cancelled = reason == protocol.CANCELLED
    what = (
        "the platform cancelled the run (SIGTERM)"
        if is_cancelled
        else f"stopped after {timeout_s:g} s (timeout_s)"
    )
    return Report.stopped(reason, f"{what}{' at ' if where else ''}{where}", trace)


def formatted(error: BaseException) -> str:
    """The traceback without frames of the harness; the end of it when it is very long."""
    described = traceback.TracebackException(
        type(error), error, error.__traceback__, limit=-_FRAMES, compact=True
    )
    _drop_ours(described, set())
    return _bounded("".join(described.format()))


def current(thread: int, program: str) -> tuple[str, str | None]:
    """Where a running thread is: the program's line, and the whole stack."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "", None
    stack = traceback.StackSummary.from_list(
        [entry for entry in traceback.extract_stack(frame, limit=-_FRAMES) if not _is_ours(entry.filename)]
    )
    lines = [line for entry, line in traceback.walk_stack(frame) if entry.f_code.co_filename == program]
    where = f"line {lines[0]} of {protocol.ENTRYPOINT_FILE}" if lines else ""
    return where, _bounded("Stack when time was up:\n" + "".join(stack.format()))


def place(error: BaseException, program: str) -> str:
    """The innermost line of the program on the way to the error: `line 3 of entrypoint.py`, or nothing."""
    if isinstance(error, SyntaxError) and error.filename == program and error.lineno:
        return f"line {error.lineno} of {protocol.ENTRYPOINT_FILE}"
    found = 0
    for frame, line in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename == program:
            found = line
    return f"line {found} of {protocol.ENTRYPOINT_FILE}" if found else ""


def _prefix(error: BaseException, program: str) -> str:
    found = place(error, program)
    return f"{found}: " if found else ""


def _message(error: BaseException) -> str:
    return error.msg if isinstance(error, SyntaxError) else _text(error)


def _text(value: object) -> str:
    try:
        return str(value)[:_MASKED_CHARS]
    except BaseException as error:  # noqa: BLE001 -- an exception class of the program may raise anything here
        return f"<its text could not be made: {type(error).__name__}>"


def _is_ours(filename: str) -> bool:
    return filename.startswith(_OURS)


def _drop_ours(described: traceback.TracebackException, seen: set[int]) -> None:
    if id(described) in seen:
        return
    seen.add(id(described))
    described.stack[:] = [entry for entry in described.stack if not _is_ours(entry.filename)]
    related = [described.__cause__, described.__context__, *(getattr(described, "exceptions", None) or [])]
    for other in related:
        if other is not None:
            _drop_ours(other, seen)


def _bounded(text: str) -> str:
    """The end of a text that may be of any size; `Report.result` cuts it once secrets are masked."""
    return text[-_MASKED_CHARS:]

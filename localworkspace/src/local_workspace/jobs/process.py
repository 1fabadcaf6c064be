"""One job process: its start, its log, its time limit, its end with all that it started, its error.

Its parent is a keeper (see `keeper`), which ends what the job leaves behind. Should a job kill its keeper,
what carries the run's mark in its environment is ended. Without /proc a run's end covers its process group
only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from local_workspace import keeper, threads

MARK = "RLM_LOCAL_RUN"
# "stdout+stderr, last 5 MB" (databricks-sdk 0.156, jobs.RunOutput.logs)
KEEP = 5 * 1024 * 1024
Reason = Literal["cancel", "timeout", "shutdown", "lost"]
# The platform under the job goes away, as the server or the engine: there is no grace.
_AT_ONCE = frozenset({"shutdown", "lost"})
_KEEPER = Path(keeper.__file__)
_CHUNK = 1 << 20
_HEADER = "Traceback (most recent call last):"
_CHAINED = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)
_TRACE_LIMIT = 64 * 1024
_STRAGGLERS_POLL_S = 0.02
_POLL_S = 0.05  # only where the system cannot signal the end of a process through a descriptor


@dataclass(frozen=True, kw_only=True)
class Launch:
    """The process to start. `mark` in the environment identifies it and all that it starts.

    `before` is a step that must succeed first; it installs the `libraries` that it names.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    mark: str
    before: Launch | None = None
    libraries: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The end of a process. `stopped`: the reason to end it, if any. Negative exit codes are signals."""

    exit_code: int
    stopped: Reason | None


class StopSwitch:
    """Tells the supervisor of one process, from any thread, to end it. The first reason counts."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self.reason: Reason | None = None

    def fileno(self) -> int:
        """Readable once the switch is thrown."""
        return self._reader

    def throw(self, reason: Reason) -> None:
        """Request the end."""
        if self.reason is None:
            self.reason = reason
            with contextlib.suppress(OSError):  # the supervisor may have closed it in this instant
                os.write(self._writer, b"!")

    def close(self) -> None:
        """Release the descriptors."""
        for descriptor in (self._reader, self._writer):
            with contextlib.suppress(OSError):
                os.close(descriptor)


class LogWriter:
    """A task run's log in two segments. A full newer one replaces the older: 2 x `keep` bytes at most."""

    def __init__(self, folder: Path, keep: int = KEEP) -> None:
        self._older, self._newer = folder / "log.0", folder / "log.1"
        self._keep = keep
        self._file: BinaryIO = self._newer.open("wb", buffering=0)
        self._size = 0

    def write(self, data: bytes) -> None:
        """Append bytes; they are readable at once. What the disk does not take is left out, and said."""
        try:
            self._write(data)
        except OSError as error:
            threads.say(f"Output of a job was left out: {error}")

    def _write(self, data: bytes) -> None:
        while data:
            if self._size >= self._keep:
                self._file.close()
                self._newer.replace(self._older)
                self._size = 0
            if self._file.closed:
                self._file = self._newer.open("wb", buffering=0)
            written = self._file.write(data[: self._keep - self._size]) or 0
            self._size, data = self._size + written, data[written:]

    def close(self) -> None:
        """No more output comes."""
        self._file.close()


def read_log(folder: Path, keep: int = KEEP) -> tuple[str, bool]:
    """The last `keep` bytes as text, and whether there were more. Bytes that are not UTF-8 become U+FFFD."""
    whole = b""
    for _ in range(5):
        before = _identity(folder)
        whole = _content(folder / "log.0") + _content(folder / "log.1")
        if _identity(folder) == before:  # else the segments changed places meanwhile
            break
    return whole[-keep:].decode("utf-8", "replace"), len(whole) > keep


def _identity(folder: Path) -> int | None:
    try:
        return (folder / "log.1").stat().st_ino
    except FileNotFoundError:
        return None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def start(launch: Launch, grace_s: float) -> subprocess.Popen[bytes]:
    """Start a job's keeper, and with it the job. Raises OSError when the system refuses.

    What the job leaves has `grace_s` seconds to obey SIGTERM.
    """
    return subprocess.Popen(  # noqa: S603 - running what was submitted is the purpose
        [sys.executable, "-I", "-S", str(_KEEPER), "keep", str(grace_s)],
        env={**launch.env, MARK: launch.mark, keeper.COMMAND: json.dumps(list(launch.argv))},
        cwd=launch.cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        start_new_session=True,
    )


class Supervisor:
    """Watches a keeper's job until it is over.

    `timeout_s` 0 is none. A stop is SIGTERM to the job's group, `grace_s` later SIGKILL; a job that is lost
    gets no grace.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        log: LogWriter,
        switch: StopSwitch,
        *,
        timeout_s: float,
        grace_s: float,
    ) -> None:
        assert process.stdout is not None
        self._process, self._log, self._switch, self._grace_s = process, log, switch, grace_s
        self._output = process.stdout.fileno()
        self._deadline = time.monotonic() + timeout_s if timeout_s > 0 else None
        self._stopped: Reason | None = None
        self._kill_at: float | None = None

    def run(self) -> Finished:
        """Copy the output until the end, or bring it about."""
        try:
            return self._run()
        finally:  # if it failed, the end of its control makes the keeper end everything
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):
                    pipe.close()

    def _run(self) -> Finished:
        os.set_blocking(self._output, False)
        pidfd = _pidfd(self._process.pid)
        with selectors.DefaultSelector() as selector:
            for source in (self._output, self._switch.fileno(), *([pidfd] if pidfd is not None else [])):
                selector.register(source, selectors.EVENT_READ)
            while not _has_ended(self._process.pid):
                self._wait_once(selector, polling=pidfd is None)
        if pidfd is not None:
            os.close(pidfd)
        exit_code = self._process.wait()
        self._drain()
        return Finished(exit_code=exit_code, stopped=self._stopped)

    def _wait_once(self, selector: selectors.BaseSelector, *, polling: bool) -> None:
        events = {key.fd for key, _ in selector.select(self._wait_limit(polling))}
        if self._output in events and not self._drain():
            selector.unregister(self._output)
        if self._switch.fileno() in events:
            selector.unregister(self._switch.fileno())
        now = time.monotonic()
        timed_out = self._deadline is not None and now >= self._deadline
        reason = self._switch.reason or ("timeout" if timed_out else None)
        if reason is not None and self._stopped is None:
            self._stopped, self._kill_at = reason, now + self._grace_s
            self._tell(b"X" if reason in _AT_ONCE else b"T")
        elif self._kill_at is not None and now >= self._kill_at:
            self._kill_at = now + self._grace_s
            self._tell(b"K")
            if reason in _AT_ONCE:  # the keeper itself does not react
                self._process.kill()

    def _tell(self, order: bytes) -> None:
        """Write to the keeper's control."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(order)

    def _wait_limit(self, polling: bool) -> float | None:
        """Seconds until something is due by the clock."""
        due = self._kill_at if self._stopped else self._deadline
        limit = None if due is None else max(0.0, due - time.monotonic())
        if polling:
            return _POLL_S if limit is None else min(_POLL_S, limit)
        return limit

    def _drain(self) -> bool:
        """Copy the output that is there, at most a few chunks; False when the output has ended."""
        for _ in range(16):
            try:
                data = os.read(self._output, _CHUNK)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._log.write(data)
        return True


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, or an old one
        return None


def _has_ended(pid: int) -> bool:
    """Return whether our child has ended; it is left unreaped."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def signal_group(pid: int, number: int) -> None:
    """Send a signal to the group that `pid` leads, if there is one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def started_at(pid: int) -> str | None:
    """When a process started, in the system's own terms; None when there is no such process.

    Together with the number it names one process for good: numbers are used again, this pair is not.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[19]  # field 22, starttime (proc(5))
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except (OSError, IndexError):
        return None
    command = ["ps", "-o", "lstart=", "-p", str(pid)]  # systems without /proc
    asked = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - constant
    return asked.stdout.strip() or None


def end_stragglers(mark: str, grace_s: float) -> None:
    """Send SIGTERM to all processes that carry the mark, wait up to `grace_s` seconds, then send SIGKILL.

    The wait matters: the executor harness has a process that writes the result when the program was killed.
    """
    signalled: set[int] = set()
    deadline = time.monotonic() + grace_s
    while left := _marked(mark):
        expired = time.monotonic() >= deadline
        for pid in left if expired else left - signalled:
            _signal(pid, mark, signal.SIGKILL if expired else signal.SIGTERM)
        signalled |= left
        time.sleep(_STRAGGLERS_POLL_S)


def _marked(mark: str) -> set[int]:
    try:
        names = os.listdir("/proc")  # noqa: PTH208 - names only, and fast
    except OSError:
        return set()
    return {int(name) for name in names if name.isdigit() and _carries(int(name), mark)}


def _carries(pid: int, mark: str) -> bool:
    """Return whether a process other than this one has the mark. One that has ended has no environment."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # ended meanwhile, or somebody else's
        return False
    return f"{MARK}={mark}".encode() in environment.split(b"\0") and pid != os.getpid()


def _signal(pid: int, mark: str, number: int) -> None:
    """Signal one process, surely that one: its number may be another's by now."""
    with contextlib.suppress(OSError, AttributeError):
        handle = os.pidfd_open(pid)
        try:
            if _carries(pid, mark):
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def explain(exit_code: int, log: str) -> tuple[str, str | None]:
    """The `error` and `error_trace` of a failed process: the exception's line and the traceback, if printed.

    `exit_code` is negative for a signal, as in subprocess.
    """
    if exit_code < 0:
        return f"The Python process was ended by {_signal_name(-exit_code)}", None
    start = log.rfind(_HEADER)
    if start < 0 or exit_code != 1:
        # sys.exit(n) prints no traceback; what an interpreter says for exit code 1 is a traceback.
        return f"SystemExit: {exit_code}", None
    trace = _whole_chain(log, start)
    lines = log[start:].splitlines()
    error = next((line for line in lines[1:] if line and not re.match(r"\s|[|+]", line)), lines[-1])
    return error.strip(), trace[-_TRACE_LIMIT:]


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} (exit code {128 + number})"
    except ValueError:
        return f"signal {number}"


def _whole_chain(log: str, start: int) -> str:
    """From the first traceback of a chain of exceptions; `start` is where the last one begins."""
    while True:
        before = log[:start].rstrip()
        if not before.endswith(_CHAINED):
            return log[start:]
        earlier = before.rfind(_HEADER)
        if earlier < 0:
            return log[start:]
        start = earlier

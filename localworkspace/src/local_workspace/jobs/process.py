"""One job process: its own session, its output drained into a log, its time limit, its end."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from local_workspace.jobs.logfile import LogWriter
from local_workspace.jobs.stragglers import MARK

Reason = Literal["cancel", "timeout", "shutdown"]
_CHUNK = 1 << 20
_POLL_S = 0.05  # only where the system cannot signal the end of a process through a descriptor


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What to start. `mark` in the environment tells all that it starts in turn from everything else."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    mark: str


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How the process ended. `stopped` is why we ended it, if we did. Negative exit codes are signals."""

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
        """Ask for the end."""
        if self.reason is None:
            self.reason = reason
            with contextlib.suppress(OSError):  # the supervisor may have closed it in this instant
                os.write(self._writer, b"!")

    def close(self) -> None:
        """Release the descriptors."""
        for descriptor in (self._reader, self._writer):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def start(launch: Launch) -> subprocess.Popen[bytes]:
    """Start the process in a session of its own. Raises OSError when the system refuses."""
    return subprocess.Popen(  # noqa: S603 - running what was submitted is the purpose
        list(launch.argv),
        env={**launch.env, MARK: launch.mark},
        cwd=launch.cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        start_new_session=True,
    )


def supervise(
    process: subprocess.Popen[bytes], log: LogWriter, switch: StopSwitch, *, timeout_s: float, grace_s: float
) -> Finished:
    """Drain and watch a process until it is over; then end what it left behind in its group.

    `timeout_s` 0 is none. A stop is SIGTERM to the group, `grace_s` later SIGKILL.
    """
    return _Watch(process, log, switch, timeout_s, grace_s).run()


class _Watch:
    def __init__(
        self,
        process: subprocess.Popen[bytes],
        log: LogWriter,
        switch: StopSwitch,
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
        os.set_blocking(self._output, False)
        pidfd = _pidfd(self._process.pid)
        with selectors.DefaultSelector() as selector:
            for watched in (self._output, self._switch.fileno(), *([pidfd] if pidfd is not None else [])):
                selector.register(watched, selectors.EVENT_READ)
            while not _over(self._process.pid):
                self._turn(selector, polling=pidfd is None)
        if pidfd is not None:
            os.close(pidfd)
        # Not reaped yet, so its number cannot have become another process's group.
        signal_group(self._process.pid, signal.SIGKILL)
        exit_code = self._process.wait()
        self._drain()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return Finished(exit_code=exit_code, stopped=self._stopped)

    def _turn(self, selector: selectors.BaseSelector, *, polling: bool) -> None:
        events = {key.fd for key, _ in selector.select(self._patience(polling))}
        if self._output in events and not self._drain():
            selector.unregister(self._output)
        if self._switch.fileno() in events:
            selector.unregister(self._switch.fileno())
        now = time.monotonic()
        timed_out = self._deadline is not None and now >= self._deadline
        reason = self._switch.reason or ("timeout" if timed_out else None)
        if reason is not None and self._stopped is None:
            self._stopped, self._kill_at = reason, now + self._grace_s
            signal_group(self._process.pid, signal.SIGTERM)
        elif self._kill_at is not None and now >= self._kill_at:
            self._kill_at = now + self._grace_s
            signal_group(self._process.pid, signal.SIGKILL)

    def _patience(self, polling: bool) -> float | None:
        """Seconds until something is due by the clock."""
        due = self._kill_at if self._stopped else self._deadline
        patience = None if due is None else max(0.0, due - time.monotonic())
        if polling:
            return _POLL_S if patience is None else min(_POLL_S, patience)
        return patience

    def _drain(self) -> bool:
        """Copy what is there, at most a few chunks; False when the output has ended."""
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


def _over(pid: int) -> bool:
    """Whether our child has ended; it is left unreaped."""
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

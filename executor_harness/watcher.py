"""The watcher: a small process of its own that records the program's output and outlives its death.

It reads the pipes behind file descriptors 1 and 2 of the harness, so output survives whatever ends that
process (a crash in native code, SIGKILL, the kernel's out-of-memory killer), costs the program no lock, and
is bounded. When the harness dies without a result the watcher writes one; when the harness cannot even be
interrupted any more (native code that never gives Python a turn) it ends it, some seconds after the time-out.

Protocol, on standard input and output: one line of JSON (`Orders`); `cancel` when the platform asks for the
end (it kills those that take their time, which is then a cancelled run); `stop` once the program is over,
answered with one line of JSON (both streams, and whether their files could be written); then `done` once
result.json is written. A harness that is gone without `done` is dead.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from executor_harness import processes, protocol
from executor_harness.capture import Recording, writer
from executor_harness.models import spend
from executor_harness.redaction import Redactor
from executor_harness.report import Orders, Report, encode, is_final, read_result
from executor_harness.volumes import Volumes

_CHUNK = 1024 * 1024
_TICK_S = 0.25


class Watcher:
    """Records until told to stop, or until the harness is gone."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._volumes = Volumes(root=orders["volumes_root"])
        self._streams = {
            orders["stdout"]: self._recording(orders["pass_stdout"]),
            orders["stderr"]: self._recording(orders["pass_stderr"]),
        }
        self._open = set(self._streams)
        self._control = sys.stdin.buffer.fileno()
        self._listening = True
        self._commands = b""
        self._deadline = time.monotonic() + orders["deadline"]

    def _recording(self, fd: int) -> Recording:
        return Recording(secrets=self._orders["secrets"], cap=self._orders["cap"], write=writer(fd))

    def run(self) -> None:
        """The whole life of the watcher."""
        reason = self._record_until_over()
        if reason == "deadline":
            self._kill_harness()
        streams = self._close_streams()
        if reason == "stop":
            with contextlib.suppress(OSError):  # nobody listens any more: the next check will see the death
                sys.stdout.write(json.dumps(streams) + "\n")
                sys.stdout.flush()
            if self._await_done():
                return
        self._report_death(streams, timed_out=reason == "deadline")

    def _record_until_over(self) -> str:
        while True:
            if self._read_once(_TICK_S):
                return "stop"
            if not self._harness_alive():
                self._read_once(0)  # what it said last
                return "death"
            if time.monotonic() >= self._deadline:
                return "deadline"

    def _read_once(self, timeout: float) -> bool:
        """Read what is there; True when the harness said `stop`."""
        wanted = list(self._open) + ([self._control] if self._listening else [])
        if not wanted:
            time.sleep(timeout)
            return False
        ready = select.select(wanted, [], [], timeout)[0]
        for fd in ready:
            if fd == self._control:
                self._hear()
            else:
                self._take(fd)
        return b"stop\n" in self._commands

    def _take(self, fd: int) -> None:
        data = os.read(fd, _CHUNK)
        if data:
            self._streams[fd].feed(data)
        else:
            self._open.discard(fd)

    def _hear(self) -> None:
        data = os.read(self._control, 4096)
        self._commands += data
        # The end of this pipe alone proves nothing: the program may have closed the descriptor.
        self._listening = bool(data)

    def _harness_alive(self) -> bool:
        # Our parent as long as it lives; afterwards the system gives us another one.
        return os.getppid() == self._orders["harness"]

    def _kill_harness(self) -> None:
        harness = self._orders["harness"]
        children = processes.descendants(harness) - {os.getpid()}
        # Only while it is surely ours: the number of a process that ended may be another one's by now.
        for pid in (*children, harness) if self._harness_alive() else ():
            processes.kill(pid)

    def _await_done(self) -> bool:
        while b"done\n" not in self._commands:
            if not self._harness_alive():
                return False
            if not self._listening:
                time.sleep(_TICK_S)
            elif select.select([self._control], [], [], _TICK_S)[0]:
                self._hear()
        return True

    def _close_streams(self) -> dict[str, protocol.Stream]:
        """Take what is already written (children of the program may hold the pipes open) and write the
        files.
        """
        for fd in list(self._open):
            os.set_blocking(fd, False)
            with contextlib.suppress(BlockingIOError):
                while fd in self._open:
                    self._take(fd)
        folder = self._orders["ticket"]["output_dir"]
        return {
            "stdout": self._keep(self._orders["stdout"], f"{folder}/{protocol.STDOUT_FILE}"),
            "stderr": self._keep(self._orders["stderr"], f"{folder}/{protocol.STDERR_FILE}"),
        }

    def _keep(self, fd: int, path: str) -> protocol.Stream:
        stream = self._streams[fd]
        stream.close()
        try:
            self._volumes.put(path, stream.text())
        except OSError as error:
            writer(self._orders["pass_stderr"])(f"rlm: {path} could not be written: {error}\n".encode())
            return stream.summary(None)
        return stream.summary(path)

    def _report_death(self, streams: dict[str, protocol.Stream], *, timed_out: bool) -> None:
        ticket = self._orders["ticket"]
        path = f"{ticket['output_dir']}/{protocol.RESULT_FILE}"
        if is_final(read_result(self._volumes, path), ticket):
            return
        stderr = streams["stderr"]["head"] + streams["stderr"]["tail"]
        if timed_out:
            report = Report.timed_out(ticket)
        elif b"cancel\n" in self._commands:
            report = Report.cancelled()
        else:
            report = Report.died(stderr)
        report = replace(report, usage=spend.read(self._volumes, ticket["output_dir"]))
        redactor = Redactor(self._orders["secrets"])
        result = report.result(ticket, streams=streams, finished=time.time(), redactor=redactor)
        self._volumes.put(path, encode(result))


def main() -> None:
    """Entry point of the watcher process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    line = b""
    while not line.endswith(b"\n"):  # byte by byte: what follows the line belongs to `Watcher`
        byte = os.read(0, 1)
        if not byte:
            return
        line += byte
    try:
        Watcher(json.loads(line)).run()
    finally:
        _remove(Path(sys.argv[1]))


def _remove(root: Path) -> None:
    """Remove the unpacked zip, and its folder: a harness that was killed cannot."""
    if root.is_file():
        with contextlib.suppress(OSError):
            root.unlink()
            root.parent.rmdir()

"""The watcher: a small process of its own that records the program's output and outlives its death.

It reads the pipes behind file descriptors 1 and 2 of the harness, so output survives whatever ends that
process (a crash in native code, SIGKILL, the kernel's out-of-memory killer), takes no lock of the program,
and is limited in size. When the harness dies without a result the watcher writes one; when the harness cannot
be interrupted any more (native code that never gives Python a turn) it ends it, seconds after the time-out.

Protocol, on standard input and output: one line of JSON (the orders, see `capture.Recorder.start`); `secret`
and a JSON text that is to be masked from then on; `cancel` when the platform asks for the end (it kills those
that take their time, which is then a cancelled run); `stop` once the program is over, answered with one line
of JSON (both streams, all secrets); then `done` once result.json is written, or `failed` and why it cannot
be. A harness that is gone without `done` is dead.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from executor_harness import protocol
from executor_harness.leftovers import descendants, kill
from executor_harness.protocol import PREVIEW_CHARS, Stream
from executor_harness.redaction import Redactor, StreamRedactor
from executor_harness.report import Report, Ticket, encode, is_final, read_result, read_spend
from executor_harness.volumes import Volumes

PASS_HEAD = 1024 * 1024  # bytes of a stream that go on to the job's own log at once, and
PASS_TAIL = 64 * 1024  # at its end
_CHUNK = 1024 * 1024
_TICK_S = 0.25


class HeadAndTail:
    """The first `head` and the last `tail` bytes of a stream of any length."""

    def __init__(self, head: int, tail: int) -> None:
        self._head_cap, self._tail_cap = head, tail
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self.total = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self.total += len(data)
        left = self._head_cap - len(self._head)
        if left > 0:
            self._head += data[:left]
            data = data[left:]
        if data:
            self._tail.append(data)
            self._tail_size += len(data)
            while self._tail and self._tail_size - len(self._tail[0]) >= self._tail_cap:
                self._tail_size -= len(self._tail.popleft())

    @property
    def head(self) -> bytes:
        """The first bytes."""
        return bytes(self._head)

    @property
    def tail(self) -> bytes:
        """The last bytes that `head` does not hold."""
        joined = b"".join(self._tail)
        return joined[-self._tail_cap :] if self._tail_cap else b""

    @property
    def left_out(self) -> int:
        """How many bytes between head and tail are gone."""
        return self.total - len(self._head) - len(self.tail)

    def joined(self) -> bytes:
        """Head and tail, with a line between them that says how much is missing."""
        if not self.left_out:
            return self.head + self.tail
        return self.head + f"\n[... {self.left_out} bytes left out ...]\n".encode() + self.tail


def previews(head: bytes, tail: bytes, *, gap: bool) -> tuple[str, str]:
    """The first and the last characters of what was kept, never the same character twice."""
    many = 4 * PREVIEW_CHARS + 4  # a character has at most four bytes
    if not gap and len(head) + len(tail) <= 2 * many:
        whole = (head + tail).decode("utf-8", "replace")
        return whole[:PREVIEW_CHARS], whole[PREVIEW_CHARS:][-PREVIEW_CHARS:]
    first, last = (head, tail) if gap else (head + tail[:many], head[-many:] + tail)
    return (
        first[:many].decode("utf-8", "replace")[:PREVIEW_CHARS],
        last[-many:].decode("utf-8", "replace")[-PREVIEW_CHARS:],
    )


class Recording:
    """Masks one stream, keeps its head and tail, and passes as much on to the job's own log (`write`)."""

    def __init__(self, *, redactor: Redactor, cap: int, write: Callable[[bytes], None]) -> None:
        self._redactor = StreamRedactor(redactor)
        self._kept = HeadAndTail(cap - cap // 2, cap // 2)
        self._passed = HeadAndTail(PASS_HEAD, PASS_TAIL)
        self._write = write
        self.received = 0

    def feed(self, data: bytes) -> None:
        """Take bytes as the program wrote them."""
        self.received += len(data)
        self._take(self._redactor.feed(data))

    def close(self) -> bytes:
        """End the stream, pass its tail on, and return what belongs into its file."""
        self._take(self._redactor.flush())
        rest = self._passed.joined()[PASS_HEAD:]
        if rest:
            self._write(rest)
        return self._kept.joined()

    def _take(self, data: bytes) -> None:
        left = PASS_HEAD - self._passed.total
        if left > 0 and data:
            self._write(data[:left])
        self._passed.feed(data)
        self._kept.feed(data)

    def summary(self, path: str | None) -> Stream:
        """The stream's entry in result.json."""
        truncated = self._kept.left_out > 0
        head, tail = previews(self._kept.head, self._kept.tail, gap=truncated)
        return Stream(path=path, bytes=self.received, truncated=truncated, head=head, tail=tail)


def writer(fd: int) -> Callable[[bytes], None]:
    """Write everything to a file descriptor; a reader that went away does not stop the recording."""

    def write(data: bytes) -> None:
        view = memoryview(data)
        with contextlib.suppress(OSError):
            while view:
                view = view[os.write(fd, view) :]

    return write


class Watcher:
    """Records until it gets `stop`, or until the harness is gone."""

    def __init__(self, orders: Mapping[str, Any]) -> None:
        self._orders = orders
        self._ticket = protocol.read(Ticket, orders["ticket"])
        self._harness = int(orders["harness"])
        self._volumes = Volumes(root=orders["volumes_root"])
        self._redactor = Redactor(orders["secrets"])
        self._streams = {
            orders[name]: Recording(
                redactor=self._redactor, cap=orders["cap"], write=writer(orders[f"pass_{name}"])
            )
            for name in ("stdout", "stderr")
        }
        self._open = set(self._streams)
        self._control = sys.stdin.buffer.fileno()
        self._listening = True
        self._unread = b""
        self._commands: set[bytes] = set()
        self._failure: str | None = None
        self._deadline = time.monotonic() + orders["deadline"]

    def run(self) -> None:
        """The whole life of the watcher."""
        reason = self._record_until_over()
        if reason == "deadline":
            self._kill_harness()
        streams = self._close_streams()
        if reason == "stop":
            with contextlib.suppress(OSError):  # nobody reads it any more: the next check will see the death
                plain = {name: protocol.plain(stream) for name, stream in streams.items()}
                sys.stdout.write(json.dumps({"streams": plain, "secrets": self._redactor.secrets}) + "\n")
                sys.stdout.flush()
            if self._await_done():
                return
        self._report_death(streams, timed_out=reason == "deadline")

    def _record_until_over(self) -> str:
        while True:
            if self._read_once(_TICK_S):
                return "stop"
            if self._failure or not self._harness_alive():
                self._read_once(0)  # what it wrote last
                return "death"
            if time.monotonic() >= self._deadline:
                return "deadline"

    def _read_once(self, timeout: float) -> bool:
        """Read what is there; True when the harness sent `stop`."""
        wanted = ([self._control] if self._listening else []) + list(self._open)
        if not wanted:
            time.sleep(timeout)
            return False
        for fd in select.select(wanted, [], [], timeout)[0]:
            if fd == self._control:
                self._hear()
            else:
                self._take(fd)
        return b"stop" in self._commands

    def _take(self, fd: int) -> None:
        data = os.read(fd, _CHUNK)
        if data:
            # A secret is announced before the program has it: it must be known before it is passed on.
            while self._listening and select.select([self._control], [], [], 0)[0]:
                self._hear()
            self._streams[fd].feed(data)
        else:
            self._open.discard(fd)

    def _hear(self) -> None:
        data = os.read(self._control, _CHUNK)
        # The end of this pipe alone proves nothing: the program may have closed the descriptor.
        self._listening = bool(data)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            command, _, content = line.partition(b" ")
            if command == b"secret":
                self._redactor.add(json.loads(content))
            elif command == b"failed":
                self._failure = json.loads(content)
            else:
                self._commands.add(command)

    def _harness_alive(self) -> bool:
        # Our parent as long as it lives; afterwards the system gives us another one.
        return os.getppid() == self._harness

    def _kill_harness(self) -> None:
        children = descendants(self._harness) - {os.getpid()}
        # Only while it is surely ours: the number of a process that ended may be another one's by now.
        for pid in (*children, self._harness) if self._harness_alive() else ():
            kill(pid)

    def _await_done(self) -> bool:
        while b"done" not in self._commands:
            if self._failure or not self._harness_alive():
                return False
            if not self._listening:
                time.sleep(_TICK_S)
            elif select.select([self._control], [], [], _TICK_S)[0]:
                self._hear()
        return True

    def _close_streams(self) -> dict[str, Stream]:
        """Take what is already written (children of the program may hold the pipes open); write the files."""
        for fd in list(self._open):
            os.set_blocking(fd, False)
            with contextlib.suppress(BlockingIOError):
                while fd in self._open:
                    self._take(fd)
        files = {"stdout": protocol.STDOUT_FILE, "stderr": protocol.STDERR_FILE}
        folder = self._ticket.output_dir
        return {name: self._keep(self._orders[name], f"{folder}/{file}") for name, file in files.items()}

    def _keep(self, fd: int, path: str) -> Stream:
        stream = self._streams[fd]
        text = stream.close()
        try:
            self._volumes.put(path, text)
        except OSError as error:
            writer(self._orders["pass_stderr"])(f"rlm: {path} could not be written: {error}\n".encode())
            return stream.summary(None)
        return stream.summary(path)

    def _report_death(self, streams: dict[str, Stream], *, timed_out: bool) -> None:
        ticket = self._ticket
        if is_final(read_result(self._volumes, ticket.result_path), ticket):
            return
        if timed_out:
            report = Report.stopped(
                protocol.TIMEOUT,
                f"stopped after {ticket.timeout_s:g} s (timeout_s); native code did not let go of the "
                "interpreter, so its process was killed",
            )
        elif self._failure:
            report = Report.failed(protocol.PROCESS_DIED, self._failure)
        elif b"cancel" in self._commands:
            what = "the platform cancelled the run (SIGTERM), and killed it before it had ended"
            report = Report.stopped(protocol.CANCELLED, what)
        else:
            report = Report.died(streams["stderr"].head + streams["stderr"].tail)
        report = replace(report, usage=read_spend(self._volumes, ticket.output_dir))
        result = report.result(ticket, streams=streams, finished=time.time(), redactor=self._redactor)
        self._volumes.put(ticket.result_path, encode(result))


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

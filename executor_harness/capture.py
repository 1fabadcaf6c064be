"""The harness's side of the recording: pipes behind descriptors 1 and 2, and the watcher that reads them."""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import io
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from executor_harness import protocol
from executor_harness.leftovers import within
from executor_harness.protocol import Stream
from executor_harness.redaction import Redactor
from executor_harness.report import Ticket

_PIPE_BYTES = 1024 * 1024
_REPLY_S = 60.0  # generous: a large text on a slow mount
_START = "import sys; sys.path.insert(0, sys.argv[1]); from executor_harness.watcher import main; main()"


class Recorder:
    """Takes over the output of this process, children included, from `start` to `stop`."""

    def __init__(self, *, root: Path, volumes_root: str, redactor: Redactor) -> None:
        self._root = root
        self._volumes_root = volumes_root
        self._redactor = redactor
        self._streams = (sys.stdout, sys.stderr)
        self._enabled_faults = False
        self._ours: tuple[TextIO, ...] = ()
        self._saved: list[int] = []
        self._forwarders: list[threading.Thread] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped: dict[str, Stream] | None = None

    @property
    def pid(self) -> int | None:
        """The watcher's process id."""
        return self._process.pid if self._process else None

    def start(self, ticket: Ticket, *, cap: int, deadline: float) -> None:
        """Record everything written from here on, and have our death reported.

        `cap` is in bytes of each stream, `deadline` in seconds from now.
        """
        _flush(*self._streams)
        self._saved = [os.dup(1), os.dup(2)]
        out, err = _pipe(), _pipe()
        passed = [self._passed_to(stream, fd) for stream, fd in zip(self._streams, (1, 2), strict=True)]
        orders = {
            "harness": os.getpid(),
            "volumes_root": self._volumes_root,
            "ticket": protocol.plain(ticket),
            "secrets": self._redactor.secrets,
            "cap": cap,
            "deadline": deadline,
            "stdout": out[0],
            "stderr": err[0],
            "pass_stdout": passed[0],
            "pass_stderr": passed[1],
        }
        self._process = self._spawn(orders, (out[0], err[0], *passed))
        self._redactor.listeners.append(self._hide)
        os.dup2(out[1], 1)
        os.dup2(err[1], 2)
        for fd in (*out, *err, *passed):
            os.close(fd)
        # Replaced even where they do write to 1 and 2 already: a notebook's streams do not, and the encoding
        # of a job's log must not make a program fail.
        sys.stdout, sys.stderr = self._ours = _text(1), _text(2)
        if not faulthandler.is_enabled():
            # A crash in native code then says where it was, and the watcher reports it.
            faulthandler.enable(2)
            self._enabled_faults = True

    def _spawn(self, orders: dict[str, Any], fds: tuple[int, ...]) -> subprocess.Popen[bytes]:
        # Bytecode must not appear as files in a Volume; elsewhere it is welcome.
        cache = f"pycache_prefix={sys.pycache_prefix}" if sys.pycache_prefix else None
        flags = ["-X", cache] if cache else ["-B"] if sys.dont_write_bytecode else []
        with _signals_blocked():
            process = subprocess.Popen(  # noqa: S603 -- our own interpreter and module; nothing of the program in it
                [sys.executable, "-I", "-S", *flags, "-c", _START, str(self._root)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=fds,
                start_new_session=True,  # a signal to our process group must not end it
                cwd="/",
            )
        assert process.stdin is not None
        process.stdin.write(json.dumps(orders).encode() + b"\n")
        process.stdin.flush()
        return process

    def _passed_to(self, stream: TextIO, fd: int) -> int:
        """A descriptor for the job's own log. A notebook's log is an object, which a thread has to feed."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if stream.fileno() == fd:
                return os.dup(fd)
        read, write = os.pipe()
        forwarder = threading.Thread(target=_forward, args=(read, stream), name="rlm-forward", daemon=True)
        forwarder.start()
        self._forwarders.append(forwarder)
        return write

    def stop(self) -> dict[str, Stream]:
        """Give the output back, have the files written, and return what was recorded."""
        if self._stopped is None:
            if self._enabled_faults:
                faulthandler.disable()
            within(
                2, lambda: _flush(sys.stdout, sys.stderr, *self._ours)
            )  # a thread may hold a lock for ever
            for saved, fd in zip(self._saved, (1, 2), strict=True):
                with contextlib.suppress(OSError):  # the program closed our descriptor
                    os.dup2(saved, fd)
            sys.stdout, sys.stderr = self._streams
            self._stopped = self._ask()
        return self._stopped

    def _ask(self) -> dict[str, Stream]:
        try:
            assert self._process is not None
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(b"stop\n")
            self._process.stdin.flush()
            reply = b""
            while not reply.endswith(b"\n"):
                if not select.select([self._process.stdout], [], [], _REPLY_S)[0]:
                    raise TimeoutError("no answer")
                data = os.read(self._process.stdout.fileno(), 1024 * 1024)
                if not data:
                    raise EOFError("it is gone")
                reply += data
            answer = json.loads(reply)
            for secret in answer["secrets"]:  # some were handed out to a fork of this process
                self._redactor.add(secret)
            return {name: protocol.read(Stream, stream) for name, stream in answer["streams"].items()}
        except (OSError, ValueError, EOFError) as error:
            with contextlib.suppress(OSError, ValueError):  # the program closed it as well
                sys.stderr.write(f"rlm: the output of the program was not recorded to its end: {error!r}\n")
            return {"stdout": Stream(), "stderr": Stream()}

    def _hide(self, secret: str) -> None:
        """Mask a secret from now on: the watcher looks here before it passes on any output."""
        self._send(b"secret " + json.dumps(secret).encode() + b"\n")

    def failed(self, reason: str) -> None:
        """No result can be written here: have the watcher write one that says why."""
        self._send(b"failed " + json.dumps(reason).encode() + b"\n")
        self._await_end()

    def cancelled(self) -> None:
        """The platform cancels the run: if we die before there is a result, that was why."""
        self._send(b"cancel\n")

    def done(self) -> None:
        """The result is written: the watcher may go."""
        self._send(b"done\n")
        self._await_end()

    def _await_end(self) -> None:
        if self._process is not None:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self._process.wait(2)
        for forwarder in self._forwarders:
            forwarder.join(2)

    def _send(self, command: bytes) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):  # the watcher is gone
                self._process.stdin.write(command)
                self._process.stdin.flush()


def _pipe() -> tuple[int, int]:
    read, write = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux: fewer switches between writer and reader
        with contextlib.suppress(OSError):
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return read, write


def _text(fd: int) -> TextIO:
    # Line buffered: what was printed before a crash in native code is the best witness of it.
    raw = io.FileIO(fd, "wb", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw, 64 * 1024), encoding="utf-8", errors="backslashreplace", line_buffering=True
    )


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process that is started inside is born with these signals blocked: until the watcher ignores them,
    whoever cleans up after a program that died at once could end it before it has reported.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _forward(fd: int, stream: TextIO) -> None:
    with open(fd, encoding="utf-8", errors="replace", closefd=True) as source:
        for line in source:
            with contextlib.suppress(OSError, ValueError):
                stream.write(line)


def _flush(*streams: object) -> None:
    for stream in streams:
        with contextlib.suppress(Exception):  # whatever object the program put there: its failure is its own
            stream.flush()  # type: ignore[attr-defined] # checked by trying

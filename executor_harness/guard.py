"""Ends the program when its time is up or the platform cancels it.

In three steps, each for programs that the one before did not end: an exception raised by a signal handler
(which wakes sleeps and reads), an asynchronous exception (for programs that replaced the handler, or run
outside of the main thread), and after the grace `overrun`, called on this thread while the program still
runs. A program that holds the interpreter itself is left to the watcher.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from os import read
from select import select
from threading import Thread
from time import monotonic
from types import FrameType
from typing import Any, NoReturn

from executor_harness import protocol
from executor_harness.protocol import Status

_NUDGE = signal.SIGUSR2
_OVER = b"\xff"  # no signal has this number
_SECOND_TRY_S = 1.0


class Interruption(BaseException):
    """Raised inside the program to end it; not an Exception, so that ordinary handlers let it pass."""


@dataclass(kw_only=True, eq=False)
class Guard:
    """Guards one program, which runs on the thread that creates the guard.

    `ending` is called when the end begins, `interrupt` ends what the engine does, `overrun` must not return.
    `reason` is why the program was ended, if it was.
    """

    timeout_s: float
    grace_s: float
    ending: Callable[[Status], None]
    interrupt: Callable[[], None]
    overrun: Callable[[Status], None]
    reason: Status | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._armed = False
        self._taken_over = False
        self._over = threading.Event()
        self._main = threading.get_ident()
        self._handlers: dict[int, Any] = {}
        self._wake = (-1, -1)
        self._old_wakeup = -1
        self._thread = Thread(target=self._run, name="rlm-guard", daemon=True)

    def arm(self) -> None:
        """From here on the thread may be interrupted at any moment, until `disarm`."""
        self._wake = os.pipe()
        for fd in self._wake:
            os.set_blocking(fd, False)
        if threading.current_thread() is threading.main_thread():  # else signals are somebody else's
            for number in (signal.SIGTERM, _NUDGE):
                self._handlers[number] = signal.signal(number, self._on_signal)
            # Written in C as the signal arrives: works while the program sits in native code.
            self._old_wakeup = signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        os.register_at_fork(
            # A worker that is ended while it starts would otherwise write to our wake-up pipe.
            before=lambda: self._mask_cancel(signal.SIG_BLOCK),
            after_in_parent=lambda: self._mask_cancel(signal.SIG_UNBLOCK),
            after_in_child=self._forget,
        )
        self._armed = True
        self._thread.start()

    def disarm(self) -> Status | None:
        """Stop interrupting, and return why the program was ended, if it was.

        Does not return when the guard has given the program up and is reporting already.
        """
        while True:
            try:
                with self._lock:
                    self._armed = False
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._main), None)
                break
            except Interruption:
                continue
        self._over.set()
        with contextlib.suppress(OSError):
            os.write(self._wake[1], _OVER)
        if self._taken_over:
            _park()
        return self.reason

    def cancel(self) -> None:
        """End the program as if the platform had asked."""
        with contextlib.suppress(OSError):
            os.write(self._wake[1], bytes([signal.SIGTERM]))

    def restore(self) -> None:
        """Give the signals back: for a process that lives on."""
        if self._handlers:
            signal.set_wakeup_fd(self._old_wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._handlers.clear()

    def _mask_cancel(self, how: int) -> None:
        if self._handlers:
            signal.pthread_sigmask(how, {signal.SIGTERM})

    def _forget(self) -> None:
        """In a fork, give the signals back: `terminate` on a worker must not cancel the run."""
        if self._handlers:
            signal.set_wakeup_fd(-1)
        for number in self._handlers:
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, signal.SIG_DFL)
        self._mask_cancel(signal.SIG_UNBLOCK)
        self._handlers.clear()
        self._armed = False

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            self.cancel()  # a second way to the thread: libraries replace the wake-up descriptor
        elif self._armed and self.reason:
            raise Interruption(self.reason)

    def _run(self) -> None:
        reason = self._await_reason()
        with self._lock:
            if not self._armed:
                return
            self.reason = reason
        self.ending(reason)
        Thread(target=self.interrupt, name="rlm-interrupt", daemon=True).start()
        self._nudge()
        first = min(_SECOND_TRY_S, self.grace_s / 2)
        if self._over.wait(first):
            return
        with self._lock:
            if self._armed:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._main), ctypes.py_object(Interruption)
                )
        if self._over.wait(self.grace_s - first):
            return
        with self._lock:
            if not self._running():
                return
            self._armed, self._taken_over = False, True
        self.overrun(reason)

    def _await_reason(self) -> Status:
        """CANCELLED when SIGTERM came, TIMEOUT when time is up; either when the program is over."""
        deadline = monotonic() + self.timeout_s
        while not self._over.is_set():
            left = deadline - monotonic()
            if left <= 0:
                break
            try:
                ready = select([self._wake[0]], [], [], left)[0]
                data = read(self._wake[0], 4096) if ready else b""
            except (OSError, ValueError):
                self._over.wait(left)  # the program closed our descriptor: the time-out is left
                break
            if signal.SIGTERM in data:
                return protocol.CANCELLED
        return protocol.TIMEOUT

    def _running(self) -> bool:  # a call, so that the type checker does not take the answer for settled
        return self._armed

    def _nudge(self) -> None:
        """Interrupt what the program's thread sleeps in, unless the program has a handler of its own."""
        if _NUDGE in self._handlers and signal.getsignal(_NUDGE) == self._on_signal:
            signal.pthread_kill(self._main, _NUDGE)


def _park() -> NoReturn:
    while True:  # the guard's thread ends the process
        time.sleep(3600)

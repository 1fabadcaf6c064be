"""The one way to start a thread here: what ends it is said, and an essential one ends the server.

A thread that dies in silence leaves a server that answers and does nothing.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable

# What `fatal` does besides saying why; the server sets it, for it knows how to end.
_handlers: list[Callable[[str], None]] = []


def begin(
    name: str, work: Callable[..., None], *arguments: object, essential: bool = False
) -> threading.Thread:
    """Start and return a thread that runs `work`. When an essential one fails, the server ends."""
    thread = threading.Thread(target=_run, args=(name, work, arguments, essential), name=name, daemon=True)
    thread.start()
    return thread


def _run(name: str, work: Callable[..., None], arguments: tuple[object, ...], essential: bool) -> None:
    try:
        work(*arguments)
    except BaseException as error:  # noqa: BLE001 - said, with its place, and escalated if need be
        say(f"The thread {name} ended: {''.join(traceback.format_exception(error)).rstrip()}")
        if essential:
            fatal(f"its thread {name} failed ({type(error).__name__}: {error})")


def on_fatal(handler: Callable[[str], None] | None) -> None:
    """Set what ends the server; it is called once, from any thread, with the reason. None: nothing does."""
    _handlers[:] = [] if handler is None else [handler]


def fatal(reason: str) -> None:
    """End the server, for it cannot go on. The first reason counts."""
    say(f"The local workspace ends: {reason}")
    if _handlers:
        _handlers.pop()(reason)


def say(text: str) -> None:
    """Write a line of the server's log, which is its standard error."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - server log

"""Threads of ours: none ends in silence."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from databricks_rlm_agent.errors import RlmError

log = logging.getLogger(__name__)
_deaths: list[str] = []


def start(name: str, target: Callable[..., object], *arguments: Any) -> threading.Thread:
    """Start a daemon, for a process that is told to end waits for nobody.

    An error that ends it is logged, and raised by ``check`` wherever the process goes on.
    """

    def run() -> None:
        try:
            target(*arguments)
        except BaseException as error:  # a thread has no caller
            log.critical("The thread %s has died: %r", name, error, exc_info=True)
            _deaths.append(f"The thread {name} has died: {type(error).__name__}: {error}")

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def check() -> None:
    """Raise RlmError if a thread has died since the last check."""
    if _deaths:
        raise RlmError(_deaths.pop(), fix="This is a fault of ours; start the process again.")

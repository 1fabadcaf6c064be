"""Logs: lines that say what happened to which run, as text or as JSON, without secrets.

What a line belongs to (run, iteration, attempt, epoch, controller) is bound once, around the work, and found
again on every line that is logged inside, a vendor's too.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

from databricks_rlm_agent.secrets import Secret, redact

FORMATS = ("text", "json")
_OURS = "databricks_rlm_agent"
# What they log, our own errors and warnings say better.
_NOISY = ("databricks.sql", "databricks.sdk", "google_adk", "google_genai", "LiteLLM", "urllib3")
# Tokens are renewed every hour or so: the newest are enough.
_MAX_SECRETS = 64

_bound: ContextVar[dict[str, Any]] = ContextVar("rlm_log_fields", default={})  # noqa: B039 - never mutated
_secrets: dict[str, Secret] = {}
_secrets_lock = threading.Lock()


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Put fields on every line that is logged inside, besides those bound outside it; None takes one away.

    They follow a coroutine and ``asyncio.to_thread``; a thread of a pool binds its own.
    """
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def fields() -> dict[str, Any]:
    """Return the fields that are bound in this context."""
    return {name: value for name, value in _bound.get().items() if value is not None}


def hide(*secrets: Secret) -> None:
    """Show these values as ``***`` in all lines from now on."""
    with _secrets_lock:
        for secret in secrets:
            _secrets.pop(secret.reveal(), None)
            _secrets[secret.reveal()] = secret
        while len(_secrets) > _MAX_SECRETS:
            _secrets.pop(next(iter(_secrets)))


def masked(text: str) -> str:
    """``text`` without the values that are to be hidden."""
    with _secrets_lock:
        known = list(_secrets.values())
    return redact(text, known)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC), level, logger, message, bound fields, an error with its trace.

    Whatever is logged, it makes a line: what JSON cannot hold becomes its text.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            **{name: _plain(value) for name, value in fields().items()},
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": masked(_message(record)),
        }
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            line["error"] = f"{type(error).__name__}: {masked(_text(error))}"
            line["traceback"] = masked(self.formatException(record.exc_info))
        if record.stack_info:
            line["stack"] = masked(str(record.stack_info))
        return json.dumps(line)  # in ASCII: any stream can take it, and no line end is inside


class TextFormatter(logging.Formatter):
    """A line for people, such as ``… WARNING …tick: it is tried again [run r1 iteration 2]``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class has it
        """The line without what follows it, a traceback."""
        where = " ".join(f"{name} {_text(value)}" for name, value in fields().items())
        return super().formatMessage(record) + (f" [{where}]" if where else "")

    def format(self, record: logging.LogRecord) -> str:
        """The line, a traceback below it."""
        safe = logging.makeLogRecord({**record.__dict__, "msg": _message(record), "args": None})
        return masked(super().format(safe))


class _Handler(logging.StreamHandler[TextIO]):
    """Ours: known by its class, so that a second set-up replaces the first."""

    def __init__(self, stream: TextIO | None, *, vendors: bool) -> None:
        super().__init__(stream)
        self._fixed, self._vendors = stream, vendors

    def emit(self, record: logging.LogRecord) -> None:
        """Write to the given stream, or to standard error as it is now: notebooks and tests exchange it."""
        self.stream = self._fixed or sys.stderr
        super().emit(record)

    def filter(self, record: logging.LogRecord) -> bool:
        """Ours at every level; vendors only with what is worth an operator's while."""
        name = record.name
        if not self._vendors and name.partition(".")[0] != _OURS:
            noisy = any(name == one or name.startswith(one + ".") for one in _NOISY)
            if record.levelno < (logging.CRITICAL if noisy else logging.WARNING):
                return False
        return bool(super().filter(record))


def configure(
    *,
    level: int = logging.WARNING,
    format: str = "text",  # noqa: A002 - what logging itself calls it
    stream: TextIO | None = None,
    vendors: bool = False,
) -> None:
    """Log to a stream (standard error), as ``text`` or ``json``; once more replaces the former set-up.

    ``vendors`` lets other packages speak at ``level`` too. In JSON, warnings become lines as well.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        # A runtime's own handler on our standard error would say every line twice, once not in JSON.
        if isinstance(handler, _Handler) or (
            type(handler) is logging.StreamHandler and handler.stream in (sys.stderr, sys.__stderr__)
        ):
            root.removeHandler(handler)
    handler = _Handler(stream, vendors=vendors)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    handler.setLevel(level)
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(format == "json")


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 - recorded: a line with wrong arguments is still worth reading
        return f"{_text(record.msg)} {_text(record.args)} (not formatted: {type(error).__name__})"


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int) else masked(_text(value))


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - recorded: an object that does not print must not stop the log
        return f"<{type(value).__name__} that does not print: {type(error).__name__}>"


def keep_off_root(name: str) -> None:
    """Keep a library's logger off the root logger; who wants its log adds a handler to it."""
    logger = logging.getLogger(name)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    logger.propagate = False

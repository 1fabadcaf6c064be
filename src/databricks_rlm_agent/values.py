"""Small values used everywhere: rows, clocks, identifiers, clipped text, the SQL session protocol. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from databricks_rlm_agent.errors import UsageError

Row = Mapping[str, Any]
"""A row of a query's answer, by column."""

Sleep = Callable[[float], None]
"""Waits for so many seconds; passed in, so that tests need not wait."""

Clock = Callable[[], datetime]
"""The time now, with a time zone: for the record, never for a decision about a lease."""

NewId = Callable[[str], str]
"""A new id that starts with the given letters."""


class SqlSession(Protocol):
    """One session of a SQL engine, with its own USE, SET and temporary views. Errors are RemoteErrors.

    Parameters are bound as ``:name``. One statement at a time; ``cancel`` from any thread.
    """

    @property
    def alive(self) -> bool:
        """False once the session is lost or closed, and with it what belonged to it."""

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int | None:
        """Run a statement and return how many rows it changed; None where the engine does not say."""

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Row]:
        """Run a query and return its rows."""

    def cancel(self) -> None:
        """Ask for the end of the statement that runs now, if one does. Never raises."""

    def close(self) -> None:
        """End the session. Never raises."""


class SqlEngine(Protocol):
    """Opens sessions. Safe to use from several threads."""

    def session(self) -> SqlSession:
        """Open a session."""


def storable(text: str) -> str:
    """``text`` with ``?`` for lone surrogates, which neither JSON nor a file in UTF-8 can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def clip(text: str, limit: int) -> str:
    """``text``, or its head and tail with a mark that says how many characters were left out.

    The result never has more than ``limit`` characters (``limit`` at least 40), and can always be stored.
    """
    if len(text) <= limit:
        return storable(text)
    # As wide as the mark can get: no more can be left out than there is.
    room = max(0, limit - len(_mark(len(text))))
    head = room * 2 // 3
    return storable(f"{text[:head]}{_mark(len(text) - room)}{text[len(text) - (room - head) :]}")


def _mark(left_out: int) -> str:
    return f" […{left_out:,} characters left out…] "


ID_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_NAME_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")


def check_id(value: str) -> str:
    """Return ``value`` if it is a valid id of a run; raise UsageError otherwise."""
    if not ID_PATTERN.fullmatch(value):
        raise UsageError(
            f"{value[:80]!r} is not a valid run id.",
            fix="Use 1 to 64 of a-z, 0-9, '_' and '-', starting with a letter or digit.",
        )
    return value


def check_name(value: str, *, what: str) -> str:
    """Return ``value`` if it is a plain catalog, schema, volume or table name; raise UsageError otherwise."""
    if not _NAME_PATTERN.fullmatch(value):
        raise UsageError(
            f"{value[:80]!r} is not a valid {what} name.",
            fix="Use letters, digits and '_', starting with a letter.",
        )
    return value


def check_table_name(value: str) -> str:
    """Return a three-level table name if each of its parts is a plain name; raise UsageError otherwise."""
    parts = value.split(".")
    if len(parts) != 3:
        raise UsageError(f"{value[:200]!r} is not a full table name.", fix="Write catalog.schema.table.")
    for part, what in zip(parts, ("catalog", "schema", "table"), strict=True):
        check_name(part, what=what)
    return value


def quoted_table(value: str) -> str:
    """A three-level table name as a statement may hold it; raise UsageError as ``check_table_name`` does."""
    return ".".join(f"`{part}`" for part in check_table_name(value).split("."))


def check_volume_path(path: str) -> str:
    """The normal form of a path in a Volume; raise UsageError for any other, and for ``..``."""
    clean = posixpath.normpath(path)
    whole = len(path) <= 1_000 and path.isprintable() and ".." not in path.split("/")
    if not whole or not clean.startswith("/Volumes/"):
        raise UsageError(
            f"{path[:200]!r} is not a path in a Volume.",
            fix="Give /Volumes/<catalog>/<schema>/<volume>/… without '..'.",
        )
    return clean

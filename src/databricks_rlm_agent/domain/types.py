"""Types that are passed in everywhere: rows, and the outside world as functions. Imports nothing of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

Row = Mapping[str, Any]
"""A row of a query's answer, by column."""

Sleep = Callable[[float], None]
"""Waits for so many seconds; passed in, so that tests need not wait."""

Clock = Callable[[], datetime]
"""The time now, with a time zone: for the record, never for a decision about a lease."""

NewId = Callable[[str], str]
"""A new id that starts with the given letters."""

"""What runs the statements of SQL workflows: a seam that ``remote`` implements, and ``app`` joins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from databricks_rlm_agent.domain.types import Row


class Session(Protocol):
    """One session of a warehouse, with its own USE, SET and temporary views. Errors are RemoteErrors.

    One statement at a time; ``cancel`` from any thread.
    """

    @property
    def alive(self) -> bool:
        """False once it is lost, and with it what belonged to it. It is never opened again in silence."""

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int | None:
        """Run a statement; how many rows it changed, None where the warehouse does not say."""

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Row]:
        """Run a query and return its rows."""

    def cancel(self) -> None:
        """Ask for the end of the statement that runs now, if one does. Never raises."""

    def close(self) -> None:
        """End it. Never raises."""


class Engine(Protocol):
    """Opens sessions. Safe to use from several threads."""

    def session(self) -> Session:
        """A new session, in the workflow's catalog and schema."""

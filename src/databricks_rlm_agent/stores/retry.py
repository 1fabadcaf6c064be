"""How statements on our state are repeated: by the table in ``retries``. Every one is safe to send again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tenacity import Retrying

from databricks_rlm_agent.ports import Row, Sleep, SqlBackend
from databricks_rlm_agent.retries import STATEMENTS

ATTEMPTS = STATEMENTS.attempts
PATIENCE_S = STATEMENTS.patience_s


def retrying(sleep: Sleep) -> Retrying:
    """Repeat on conflicts, unknown outcomes and throttling, with jitter; the last error is raised."""
    return STATEMENTS.retrying(sleep)


def fetch(
    backend: SqlBackend, sql: str, parameters: Mapping[str, Any] | None = None, *, sleep: Sleep
) -> Sequence[Row]:
    """The rows of a query, asked again on passing faults."""
    for attempt in retrying(sleep):
        with attempt:
            rows = backend.fetch(sql, parameters)
    return rows


@dataclass(frozen=True, kw_only=True)
class Repeating:
    """A SqlBackend that repeats every call on passing faults: for statements that are safe to send again."""

    backend: SqlBackend
    sleep: Sleep

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Row]:
        """Run a query and return its rows."""
        return fetch(self.backend, sql, parameters, sleep=self.sleep)

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """Run a statement and return how many rows it changed; after a lost answer, what the repeat says."""
        changed: int = retrying(self.sleep)(self.backend.execute, sql, parameters)
        return changed

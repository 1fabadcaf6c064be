"""The append-only ledgers: requests, results, events. A repeat of the same key adds nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from databricks_rlm_agent.domain.layout import Namespace
from databricks_rlm_agent.domain.records import EventRow, RequestRow, ResultRow
from databricks_rlm_agent.ports import Row, Sleep, SqlBackend
from databricks_rlm_agent.stores import sql
from databricks_rlm_agent.stores.retry import fetch, retrying
from databricks_rlm_agent.stores.schema import distinct, one_per_key, to_json

# The executor's own word counts more than what the controller had to conclude without it.
_PREFERENCE = {"executor": 0, "controller": 1}


class Ledger:
    """Appends to and reads the ledgers."""

    def __init__(self, backend: SqlBackend, namespace: Namespace, *, sleep: Sleep) -> None:
        self._backend, self._namespace, self._sleep = backend, namespace, sleep

    def append(self, rows: Sequence[RequestRow] | Sequence[ResultRow] | Sequence[EventRow]) -> None:
        """Add rows of one table in one commit; rows whose key is there already are left out."""
        if not rows:
            return
        statement = sql.append(self._namespace, type(rows[0]))
        for attempt in retrying(self._sleep):
            with attempt:
                self._backend.execute(statement, {"rows": to_json(distinct(rows))})

    def requests(self, run_id: str) -> list[Row]:
        """The submitted attempts of a run, in order."""
        rows = self._fetch(sql.by_key(self._namespace, RequestRow), {"value": run_id})
        return one_per_key(rows, RequestRow)

    def events(self, run_id: str) -> list[Row]:
        """The events of a run, in order."""
        rows = self._fetch(sql.by_key(self._namespace, EventRow), {"value": run_id})
        return one_per_key(rows, EventRow)

    def results(self, run_id: str) -> list[Row]:
        """One result per attempt of a run, in order; of two, the executor's."""
        rows = self._fetch(sql.by_key(self._namespace, ResultRow), {"value": run_id})
        return one_per_key(sorted(rows, key=_rank), ResultRow)

    def _fetch(self, statement: str, parameters: Mapping[str, Any]) -> Sequence[Row]:
        return fetch(self._backend, statement, parameters, sleep=self._sleep)


def _rank(row: Row) -> tuple[int, int, int, str]:
    return row["iter_n"], row["attempt"], _PREFERENCE.get(row["reported_by"], 2), str(row["status"])

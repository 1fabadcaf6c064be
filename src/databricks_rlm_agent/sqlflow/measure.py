"""How many rows an iteration changed. A failure to measure is an error, never a zero."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from databricks_rlm_agent.domain.types import Row
from databricks_rlm_agent.domain.workflow.model import Iteration
from databricks_rlm_agent.domain.workflow.names import Name, common, quoted, shown
from databricks_rlm_agent.domain.workflow.running.convergence import Measure
from databricks_rlm_agent.domain.workflow.running.sqlerrors import classify
from databricks_rlm_agent.errors import InvalidData, RlmError
from databricks_rlm_agent.sqlflow import comparison
from databricks_rlm_agent.sqlflow.comparison import Column
from databricks_rlm_agent.sqlflow.steady import SteadySession

_DECLARE = "Declare `convergence` or `key_columns` for the loop in workflow.yml."


class MeasureFailedError(Exception):
    """The number of changed rows could not be found; ``error`` says why."""

    def __init__(self, error: RlmError) -> None:
        super().__init__(str(error))
        self.error = error


class Measurer:
    """Measures the iterations of one loop. The key is found once, from its first two tables."""

    def __init__(
        self,
        session: SteadySession,
        *,
        key_columns: Sequence[str] = (),
        notice: Callable[[str], None] = lambda _text: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session, self._declared = session, tuple(key_columns)
        self._notice, self._monotonic = notice, monotonic
        self._key: tuple[str, ...] | None = None
        self._described: dict[Name, tuple[Column, ...]] = {}  # tables of earlier iterations
        self._said: set[str] = set()

    def measure(self, iteration: Iteration, *, affected: int | None, last: Measure | None = None) -> Measure:
        """Compare an iteration's table with the one before; raise MeasureFailedError.

        ``affected`` is how many rows its statements changed, and ``last`` what was measured before: for a
        loop that changes one table in place.
        """
        started = self._monotonic()
        try:
            changed, state = self._measured(iteration, affected, last)
        except RlmError as error:
            raise MeasureFailedError(error) from None
        return Measure(
            n=iteration.number,
            changed=changed,
            rows=int(state["n"]) if state else None,
            fingerprint=str(state["h"]) if state else None,
            seconds=round(self._monotonic() - started, 3),
            file=iteration.file.name,
        )

    def _measured(
        self, iteration: Iteration, affected: int | None, last: Measure | None
    ) -> tuple[int | None, Row | None]:
        table, before = iteration.table, iteration.before
        for name in [name for name in self._described if common(iteration.file.writes, [name])]:
            del self._described[name]
        if iteration.convergence is not None:
            return self._asked(iteration.convergence), self._state_if_any(table)
        if table is None:
            raise InvalidData("Which table the iteration makes is not known.", fix=_DECLARE)
        if before is None:
            return None, self._state(table)
        if table == before:
            return self._in_place(table, affected, last)
        row = self._compared(table, before)
        return _whole(row["changed"]), row

    def _in_place(self, table: Name, affected: int | None, last: Measure | None) -> tuple[int | None, Row]:
        """Rows that the statements changed, as they say; none only if the table has the same rows as before.

        Statements that write rows as they are count them as changed, and CREATE … AS counts nothing.
        """
        state = self._state(table)
        if last is not None and (last.rows, last.fingerprint) == (int(state["n"]), str(state["h"])):
            return 0, state
        return affected or None, state

    def _asked(self, query: str) -> int:
        rows = self._session.fetch(query)
        if len(rows) != 1 or len(rows[0]) != 1:
            raise InvalidData(
                f"The convergence query gave {len(rows)} rows; it must give one number.", where=query[:200]
            )
        return _whole(next(iter(rows[0].values())))

    def _state(self, table: Name) -> Row:
        return self._session.fetch(comparison.state(table, self._columns(table)))[0]

    def _state_if_any(self, table: Name | None) -> Row | None:
        """For finding oscillations only: the query that was declared decides."""
        try:
            return self._state(table) if table is not None else None
        except RlmError as error:
            self._tell(f"Oscillations cannot be found: {classify(error).message}")
            return None

    def _compared(self, table: Name, before: Name) -> Row:
        both = comparison.common(self._columns(table), self._columns(before))
        stamps = self._stamps(table, before, comparison.stamps(both))
        compared = [column for column in both if column not in stamps]
        if not compared:
            raise InvalidData(
                f"{shown(table)} and {shown(before)} have no columns in common to compare.", fix=_DECLARE
            )
        if self._key is None:
            self._key = self._find_key(table, before, compared)
        key = [column for column in compared if column.name.lower() in self._key]
        return self._session.fetch(comparison.difference(table, before, compared, key))[0]

    def _columns(self, table: Name) -> tuple[Column, ...]:
        known = self._described.get(table)
        if known is None:
            known = comparison.columns(self._session.fetch(f"DESCRIBE TABLE {quoted(table)}"))
            self._described[table] = known
        return known

    def _stamps(self, table: Name, before: Name, may_be: Sequence[Column]) -> list[Column]:
        """Columns to leave out: stamps of the iteration by their names, with one value in all rows."""
        may_be = [column for column in may_be if column.name.lower() not in map(str.lower, self._declared)]
        if not may_be:
            return []
        now, then = (self._session.fetch(comparison.constants(name, may_be))[0] for name in (table, before))
        if min(now["n"], then["n"]) < 2:
            return []
        found = [
            column
            for i, column in enumerate(may_be)
            if now[f"lo{i}"] == now[f"hi{i}"] and then[f"lo{i}"] == then[f"hi{i}"] != now[f"lo{i}"]
        ]
        for column in found:
            self._tell(f"Column {column.name} only stamps the iteration: it is not compared.")
        return found

    def _find_key(self, table: Name, before: Name, compared: Sequence[Column]) -> tuple[str, ...]:
        if self._declared:
            there = {column.name.lower() for column in compared}
            if missing := [name for name in self._declared if name.lower() not in there]:
                raise InvalidData(
                    f"Key column {missing[0]} is not in both {shown(table)} and {shown(before)}.",
                    fix="Correct `key_columns` of the loop in workflow.yml.",
                )
            return tuple(name.lower() for name in self._declared)
        keys = comparison.candidates(compared)
        rows = [self._session.fetch(comparison.uniqueness(name, keys))[0] for name in (table, before)]
        for i, key in enumerate(keys):
            if all(row[f"u{i}"] == row["n"] for row in rows):
                names = tuple(column.name.lower() for column in key)
                self._tell(f"Key found from the tables: {', '.join(names)}.")
                return names
        self._tell("No key of one or two columns: rows are compared as they are.")
        return ()

    def _tell(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._notice(text)


def _whole(value: Any) -> int:
    """A count; raise InvalidData for anything else, NULL too."""
    number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or value != int(value):
        raise InvalidData(f"The number of changed rows is {value!r}, which is no count.", fix=_DECLARE)
    return int(value)

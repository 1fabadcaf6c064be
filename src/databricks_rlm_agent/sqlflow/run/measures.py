"""Measures tables by queries: their rows, keys and coverage, and the rows that an iteration changed.

Changed rows are counted of a multiset, by every column that both tables have. A failure to count is an error,
never a zero.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from databricks_rlm_agent.errors import InvalidData, RlmError
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.sqlflow.model import CoverageRule, Iteration
from databricks_rlm_agent.sqlflow.run.outcome import Measure
from databricks_rlm_agent.sqltext.errors import classify
from databricks_rlm_agent.sqltext.names import Name, common, quoted, shown
from databricks_rlm_agent.values import Row

_PAIRED_COLUMNS = 6  # keys of two columns are looked for among so many, the likeliest first
_LIKELY_KEY = re.compile(r"(^|_)(id|key|uuid|guid|node|vertex|follower|member)$|^id_", re.IGNORECASE)
# Columns in which generators record when, or in which iteration, a row was written.
_STAMP = re.compile(
    r"((etl|dw|row|record)_)?(created|updated|modified|processed|loaded|inserted|run)_?(at|ts|on|time)"
    r"|(loop_?)?(iter|iteration|round)(_?(no|num|number|n))?",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table."""

    name: str
    type: str

    @property
    def quoted(self) -> str:
        """Its name as a statement has it."""
        return quoted((self.name,))

    @property
    def comparable(self) -> str:
        """An expression of its value that can be grouped: maps cannot."""
        return f"to_json({self.quoted})" if "map<" in self.type.lower() else self.quoted

    @property
    def may_be_key(self) -> bool:
        """Return whether keys may have its type."""
        return not re.match(r"(array|map|struct|binary|float|double|variant)", self.type, re.IGNORECASE)


def columns(described: Iterable[Row]) -> tuple[Column, ...]:
    """Return the columns from the rows of DESCRIBE TABLE, where partitions follow after an empty line."""
    rows = itertools.takewhile(lambda row: row["col_name"] and not row["col_name"].startswith("#"), described)
    return tuple(Column(name=row["col_name"], type=row["data_type"]) for row in rows)


def range_query(table: Name, some: Sequence[Column]) -> str:
    """A query of one row: ``n`` rows, and every column's least and greatest value, ``lo<i>``, ``hi<i>``."""
    parts = (
        f"CAST(min({column.quoted}) AS STRING) AS lo{i}, CAST(max({column.quoted}) AS STRING) AS hi{i}"
        for i, column in enumerate(some)
    )
    return f"SELECT count(*) AS n, {', '.join(parts)} FROM {quoted(table)}"


def possible_keys(compared: Sequence[Column]) -> tuple[tuple[Column, ...], ...]:
    """Return what may be the key, likeliest first: one column, or two."""
    possible = [column for column in compared if column.may_be_key]
    possible.sort(key=lambda column: not _LIKELY_KEY.search(column.name))
    return (*((column,) for column in possible), *itertools.combinations(possible[:_PAIRED_COLUMNS], 2))


def uniqueness_query(table: Name, keys: Sequence[Sequence[Column]]) -> str:
    """A query of one row: ``n`` rows, and for every key ``u<i>``, its distinct values without a NULL.

    A subquery for each: several ``count(DISTINCT …)`` in one SELECT cost ten times as much, 12 s and not 1.3
    for a million rows of two columns on the local workspace.
    """
    parts = (f"(SELECT count(*) FROM ({_distinct(table, key)})) AS u{i}" for i, key in enumerate(keys))
    return f"SELECT {', '.join([f'(SELECT count(*) FROM {quoted(table)}) AS n', *parts])}"


def _distinct(table: Name, key: Sequence[Column]) -> str:
    names = [column.quoted for column in key]
    known = " AND ".join(f"{name} IS NOT NULL" for name in names)
    return f"SELECT DISTINCT {', '.join(names)} FROM {quoted(table)} WHERE {known}"


def state_query(table: Name, compared: Sequence[Column]) -> str:
    """A query of one row: ``n`` rows and ``h``, the sum of their hashes, which is the same in any order."""
    values = ", ".join(column.comparable for column in compared)
    return f"SELECT count(*) AS n, {_HASHES.format(values)} AS h FROM {quoted(table)}"


def difference_query(table: Name, before: Name, compared: Sequence[Column], key: Sequence[Column]) -> str:
    """A query of one row: ``changed`` rows, and ``n`` and ``h`` of the first table as in ``state_query``.

    With a key, ``changed`` counts its values whose rows differ; without one, the rows of either table that
    the other lacks, the larger of both numbers.
    """
    listed = ", ".join(f"{column.comparable} AS c{i}" for i, column in enumerate(compared))
    names = ", ".join(f"c{i}" for i in range(len(compared)))
    keys = ", ".join(f"c{compared.index(column)}" for column in key)
    changed = (
        f"(SELECT count(*) FROM (SELECT {keys} FROM differing GROUP BY {keys}))"
        if key
        else "(SELECT coalesce(greatest(sum(CASE WHEN d > 0 THEN d ELSE 0 END), "
        "sum(CASE WHEN d < 0 THEN -d ELSE 0 END)), 0) FROM differing)"
    )
    return (
        f"WITH current AS (SELECT {listed} FROM {quoted(table)}), "
        f"previous AS (SELECT {listed} FROM {quoted(before)}), "
        f"differing AS (SELECT {names}, sum(side) AS d FROM "
        f"(SELECT {names}, 1 AS side FROM current UNION ALL SELECT {names}, -1 AS side FROM previous) "
        f"GROUP BY {names} HAVING sum(side) <> 0) "
        f"SELECT {changed} AS changed, (SELECT count(*) FROM current) AS n, "
        f"(SELECT {_HASHES.format(names)} FROM current) AS h"
    )


# DECIMAL: the sum of many BIGINTs overflows, which is an error on Databricks.
_HASHES = "sum(CAST(xxhash64({}) AS DECIMAL(38,0)))"


_DECLARE = "Declare `convergence` or `key_columns` for the loop in workflow.yml."


def rows_query(tables: Sequence[Name]) -> str:
    """A query of one row: the rows of each table, ``n<i>``."""
    counts = (f"(SELECT count(*) FROM {quoted(name)}) AS n{i}" for i, name in enumerate(tables))
    return f"SELECT {', '.join(counts)}"


def key_query(table: Name, key: Sequence[str]) -> str:
    """A query of one row: ``n`` rows, and ``u`` distinct values of the key."""
    names = ", ".join(quoted((column,)) for column in key)
    distinct = f"(SELECT count(*) FROM (SELECT DISTINCT {names} FROM {quoted(table)})) AS u"
    return f"SELECT (SELECT count(*) FROM {quoted(table)}) AS n, {distinct}"


def coverage_query(table: Name, rule: CoverageRule) -> str:
    """A query of the distinct keys of the covered table, and of those that the other table has."""
    columns = [(quoted((here,)), quoted((there,)), f"k{n}") for n, (here, there) in enumerate(rule.on)]
    here = ", ".join(f"{name} AS {alias}" for name, _, alias in columns)
    there = ", ".join(f"{name} AS {alias}" for _, name, alias in columns)
    known = " AND ".join(f"{name} IS NOT NULL" for _, name, _ in columns)
    same = " AND ".join(f"c.{alias} = t.{alias}" for _, _, alias in columns)
    return (
        f"SELECT count(*) AS all_keys, count(t.found) AS found_keys "
        f"FROM (SELECT DISTINCT {there} FROM {quoted(rule.table)} WHERE {known}) c "
        f"LEFT JOIN (SELECT DISTINCT {here}, 1 AS found FROM {quoted(table)}) t ON {same}"
    )


class ChangeCounter:
    """Measures the iterations of one loop. The key is found once, from its first two tables."""

    def __init__(
        self,
        session: RetryingSession,
        *,
        key_columns: Sequence[str] = (),
        notice: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._session, self._declared = session, tuple(key_columns)
        self._notice = notice
        self._key: tuple[str, ...] | None = None
        self._described: dict[Name, tuple[Column, ...]] = {}  # tables of earlier iterations
        self._notices: set[str] = set()

    def measure(self, iteration: Iteration, *, affected: int | None, last: Measure | None = None) -> Measure:
        """Compare an iteration's table with the one before; raise RlmError.

        ``affected`` is how many rows its statements changed, and ``last`` the measure before: both are for a
        loop that changes one table in place.
        """
        changed, state = self._changed(iteration, affected, last)
        return Measure(
            n=iteration.number,
            changed=changed,
            rows=int(state["n"]) if state else None,
            fingerprint=str(state["h"]) if state else None,
            file=iteration.file.name,
        )

    def _changed(
        self, iteration: Iteration, affected: int | None, last: Measure | None
    ) -> tuple[int | None, Row | None]:
        table, before = iteration.table, iteration.before
        for name in [name for name in self._described if common(iteration.file.writes, [name])]:
            del self._described[name]
        if iteration.convergence is not None:
            return self._fetch_count(iteration.convergence), self._state_if_any(table)
        if table is None:
            raise InvalidData("Which table the iteration makes is not known.", fix=_DECLARE)
        if before is None:
            return None, self._state(table)
        if table == before:
            return self._in_place(table, affected, last)
        row = self._compared(table, before)
        return _count(row["changed"]), row

    def _in_place(self, table: Name, affected: int | None, last: Measure | None) -> tuple[int | None, Row]:
        """Return how many rows the statements changed; 0 only if the table has the same rows as before.

        Statements that write unchanged rows count them as changed, and CREATE … AS counts nothing.
        """
        state = self._state(table)
        if last is not None and (last.rows, last.fingerprint) == (int(state["n"]), str(state["h"])):
            return 0, state
        return affected or None, state

    def _fetch_count(self, query: str) -> int:
        rows = self._session.fetch(query)
        if len(rows) != 1 or len(rows[0]) != 1:
            raise InvalidData(
                f"The convergence query gave {len(rows)} rows; it must give one number.", where=query[:200]
            )
        return _count(next(iter(rows[0].values())))

    def _state(self, table: Name) -> Row:
        return self._session.fetch(state_query(table, self._columns(table)))[0]

    def _state_if_any(self, table: Name | None) -> Row | None:
        """Return the state for finding oscillations; the declared query decides about convergence."""
        try:
            return self._state(table) if table is not None else None
        except RlmError as error:
            self._notify(f"Oscillations cannot be found: {classify(error).message}")
            return None

    def _compared(self, table: Name, before: Name) -> Row:
        here, there = self._columns(table), self._columns(before)
        names = {column.name.lower() for column in there}
        both = [column for column in here if column.name.lower() in names]
        stamps = self._stamps(table, before, both)
        compared = [column for column in both if column not in stamps]
        if not compared:
            raise InvalidData(
                f"{shown(table)} and {shown(before)} have no columns in common to compare.", fix=_DECLARE
            )
        if self._key is None:
            self._key = self._find_key(table, before, compared)
        key = [column for column in compared if column.name.lower() in self._key]
        return self._session.fetch(difference_query(table, before, compared, key))[0]

    def _columns(self, table: Name) -> tuple[Column, ...]:
        if table not in self._described:
            self._described[table] = columns(self._session.fetch(f"DESCRIBE TABLE {quoted(table)}"))
        return self._described[table]

    def _stamps(self, table: Name, before: Name, both: Sequence[Column]) -> list[Column]:
        """Return the columns to leave out: stamps by their names, which have one value in all rows."""
        declared = {name.lower() for name in self._declared}
        candidates = [
            column
            for column in both
            if _STAMP.fullmatch(column.name) and column.may_be_key and column.name.lower() not in declared
        ]
        if not candidates:
            return []
        now, then = (self._session.fetch(range_query(name, candidates))[0] for name in (table, before))
        if min(now["n"], then["n"]) < 2:
            return []
        found = [
            column
            for i, column in enumerate(candidates)
            if now[f"lo{i}"] == now[f"hi{i}"] and then[f"lo{i}"] == then[f"hi{i}"] != now[f"lo{i}"]
        ]
        for column in found:
            self._notify(f"Column {column.name} only stamps the iteration: it is not compared.")
        return found

    def _find_key(self, table: Name, before: Name, compared: Sequence[Column]) -> tuple[str, ...]:
        if self._declared:
            existing = {column.name.lower() for column in compared}
            if missing := [name for name in self._declared if name.lower() not in existing]:
                raise InvalidData(
                    f"Key column {missing[0]} is not in both {shown(table)} and {shown(before)}.",
                    fix="Correct `key_columns` of the loop in workflow.yml.",
                )
            return tuple(name.lower() for name in self._declared)
        keys = possible_keys(compared)
        rows = [self._session.fetch(uniqueness_query(name, keys))[0] for name in (table, before)]
        for i, key in enumerate(keys):
            if all(row[f"u{i}"] == row["n"] for row in rows):
                names = tuple(column.name.lower() for column in key)
                self._notify(f"Key found from the tables: {', '.join(names)}.")
                return names
        self._notify("No key of one or two columns: rows are compared as they are.")
        return ()

    def _notify(self, text: str) -> None:
        if text not in self._notices:
            self._notices.add(text)
            self._notice(text)


def _count(value: Any) -> int:
    """Return a value as a count; raise InvalidData for anything else, NULL too."""
    number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or value != int(value):
        raise InvalidData(f"The number of changed rows is {value!r}, which is no count.", fix=_DECLARE)
    return int(value)

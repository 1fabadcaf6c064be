"""A warehouse in memory: tables of one column of numbers with a Delta history, and processes that die.

It understands the few statements below. A statement may be on its way when its process dies: it then commits
later, unless what it goes by has changed meanwhile, as Delta has it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from databricks_rlm_agent.errors import AlreadyExists, Conflict, NotFound, Rejected

Rows = tuple[int, ...]
_VALUES = re.compile(r"\((-?\d+)\)")


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Commit:
    operation: str
    rows: Rows
    affected: int
    parameters: dict[str, str]


@dataclass
class Made:
    """A table. ``shape`` changes with its metadata."""

    born: int
    commits: list[Commit] = field(default_factory=list)
    shape: int = 0

    @property
    def rows(self) -> Rows:
        return self.commits[-1].rows

    def add(self, operation: str, rows: Rows, affected: int, **parameters: str) -> None:
        self.commits.append(Commit(operation, rows, affected, parameters))


@dataclass
class World:
    """``die`` is called with every call of the engine, before and after it, and may raise Killed."""

    tables: dict[str, Made] = field(default_factory=dict)
    die: Callable[[str, str], None] = lambda _when, _sql: None
    in_flight: list[Callable[[], None]] = field(default_factory=list)
    born: int = 0

    def session(self) -> _Session:
        return _Session(self)

    def state(self) -> dict[str, Rows]:
        return {name: tuple(sorted(table.rows)) for name, table in sorted(self.tables.items())}

    def commits(self) -> dict[str, list[str]]:
        """What changed rows of every table, but for what may be done again."""
        kept = {"SET TBLPROPERTIES", "CREATE OR REPLACE TABLE AS SELECT"}
        return {
            name: [commit.operation for commit in table.commits if commit.operation not in kept]
            for name, table in sorted(self.tables.items())
        }

    def arrive(self) -> None:
        """What was on its way commits, or fails."""
        in_flight, self.in_flight = self.in_flight, []
        for commit in in_flight:
            commit()

    def of(self, name: str) -> Made:
        found = self.tables.get(_bare(name))
        if found is None:
            raise NotFound(f"[TABLE_OR_VIEW_NOT_FOUND] {name}")
        return found

    def make(self, name: str, rows: Rows, operation: str) -> None:
        table = self.tables.get(name)
        if table is None:
            self.born += 1
            table = self.tables[name] = Made(born=self.born)
        table.shape += 1
        table.add(operation, rows, len(rows), mode="Overwrite")

    def start(self, sql: str) -> Callable[[], int | None]:
        """A statement that has read what it reads; what it gives back commits."""
        if found := re.match(r"CREATE (OR REPLACE )?TABLE (\S+) AS (.*)", sql, re.DOTALL):
            return self._create(_bare(found[2]), self._query(found[3]), replace=bool(found[1]))
        if found := re.match(r"INSERT (INTO|OVERWRITE) (\S+) (.*)", sql, re.DOTALL):
            return self._insert(self.of(found[2]), self._query(found[3]), over=found[1] == "OVERWRITE")
        if found := re.match(r"(UPDATE|DELETE FROM|MERGE INTO) (\S+) ?(.*)", sql, re.DOTALL):
            return self._change(self.of(found[2]), found[1].split()[0], found[3])
        if found := re.match(r"ALTER TABLE (\S+) SET TBLPROPERTIES (.*)", sql):
            return lambda: self._set(found[1], found[2])
        if found := re.match(r"ALTER TABLE (\S+) RENAME TO (\S+)", sql):
            return lambda: self._rename(found[1], found[2])
        if found := re.match(r"DROP TABLE (IF EXISTS )?(\S+)", sql):
            return lambda: self._drop(found[2], spares=bool(found[1]))
        if re.match(r"USE|SET|CREATE TEMP|SELECT|OPTIMIZE", sql):
            return lambda: None
        raise Rejected(f"[PARSE_SYNTAX_ERROR] {sql}")

    def _create(self, name: str, rows: Rows, *, replace: bool) -> Callable[[], int]:
        before = self.tables.get(name)
        shape = before.shape if before else None

        def commit() -> int:
            now = self.tables.get(name)
            if now is not None and not replace:
                raise AlreadyExists(f"[TABLE_OR_VIEW_ALREADY_EXISTS] {name}")
            if (now.shape if now else None) != shape:
                raise Conflict("[DELTA_METADATA_CHANGED] x")
            self.make(name, rows, "CREATE OR REPLACE TABLE AS SELECT" if replace else "CREATE TABLE")
            return len(rows)

        return commit

    def _insert(self, table: Made, rows: Rows, *, over: bool) -> Callable[[], int]:
        shape, seen = table.shape, len(table.commits)

        def commit() -> int:
            if table.shape != shape or (over and len(table.commits) != seen):
                raise Conflict("[DELTA_METADATA_CHANGED] x")
            mode = "Overwrite" if over else "Append"
            table.add("WRITE", rows if over else (*table.rows, *rows), len(rows), mode=mode)
            return len(rows)

        return commit

    def _change(self, table: Made, kind: str, rest: str) -> Callable[[], int]:
        rows, affected = _changed(self, table.rows, kind, rest)
        seen = len(table.commits)

        def commit() -> int:
            if affected and len(table.commits) != seen:
                raise Conflict("[DELTA_CONCURRENT_APPEND] x")
            if affected:
                table.add(kind, rows, affected)
            return affected

        return commit

    def _set(self, name: str, properties: str) -> None:
        table = self.of(name)
        table.shape += 1
        table.add("SET TBLPROPERTIES", table.rows, 0, properties=properties)

    def _rename(self, old: str, new: str) -> None:
        if new in self.tables:
            raise AlreadyExists(f"[TABLE_OR_VIEW_ALREADY_EXISTS] {new}")
        self.of(old)
        self.tables[new] = self.tables.pop(old)

    def _drop(self, name: str, *, spares: bool) -> None:
        if not spares:
            self.of(name)
        self.tables.pop(name, None)

    def _query(self, text: str) -> Rows:
        if text.startswith("VALUES"):
            return tuple(int(value) for value in _VALUES.findall(text))
        return self.of(text.split()[-1]).rows

    def history(self, name: str) -> list[dict[str, Any]]:
        table = self.of(name)
        rows = [
            {
                "version": n,
                "timestamp": f"{table.born}.{n}",
                "operation": commit.operation,
                "operationParameters": list(commit.parameters.items()),
                "operationMetrics": [(_METRICS.get(commit.operation, "numOutputRows"), commit.affected)],
            }
            for n, commit in enumerate(table.commits)
        ]
        return rows[::-1]


def _bare(name: str) -> str:
    return name.replace("`", "").rpartition(".")[2]


_METRICS = {
    "MERGE": "numTargetRowsInserted",
    "UPDATE": "numUpdatedRows",
    "DELETE": "numDeletedRows",
}


def _changed(world: World, rows: Rows, kind: str, rest: str) -> tuple[Rows, int]:
    if kind == "MERGE":  # adds ten to what both have, and takes over what is new
        source = world._query(rest.partition(" ON ")[0])
        new = tuple(value + 10 if value in source else value for value in rows)
        return (*new, *(value for value in source if value not in rows)), len(source)
    if kind == "UPDATE":  # SET v = v - 1 WHERE v > 0
        return tuple(value - (value > 0) for value in rows), sum(value > 0 for value in rows)
    gone = max(rows, default=None) if "max" in rest else int(rest.rpartition("= ")[2])
    left = tuple(value for value in rows if value != gone)
    return left, len(rows) - len(left)


class _Session:
    def __init__(self, world: World) -> None:
        self._world, self.alive = world, True
        world.die("before", "open")

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int | None:
        self._world.die("before", sql)
        commit = self._world.start(sql)
        try:
            self._world.die("during", sql)
        except Killed:
            self._world.in_flight.append(lambda: _quietly(commit))
            raise
        answer = commit()
        self._world.die("after", sql)
        return answer

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Mapping[str, Any]]:
        self._world.die("before", sql)
        if sql.startswith("DESCRIBE HISTORY"):
            return self._world.history(sql.split()[2])
        if sql.startswith("DESCRIBE"):
            self._world.of(sql.split()[-1])
            return [{"col_name": "v", "data_type": "bigint"}]
        if found := re.match(r"SELECT sum\(v\) FROM (\S+)", sql):  # the loop's convergence
            return [{"n": sum(self._world.of(found[1]).rows)}]
        if found := re.search(r"FROM (`\S+`)", sql):
            rows = self._world.of(found[1]).rows
            return [{"n": len(rows), "h": str(sorted(rows))}]
        raise AssertionError(sql)

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        pass


def _quietly(commit: Callable[[], int | None]) -> None:
    with contextlib.suppress(Conflict, AlreadyExists, NotFound):
        commit()

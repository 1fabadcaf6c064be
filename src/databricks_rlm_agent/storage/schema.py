"""Our Delta tables as typed rows, and their DDL as numbered migrations.

DDL, the JSON shape of a batch and the parsing of rows derive from the rows.
Column names and kinds are fixed by the design, section 5. A batch of rows travels as one bound parameter
(JSON), so the text of a statement does not grow with the batch.

DDL on a Delta table fails every concurrent writer, so it has a command of its own (``rlm-agent init``) and
never runs at the start of a tick. A table that is created today has today's columns; a migration that adds
some names them itself, for it must not change any more once it is released.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, get_type_hints

from databricks_rlm_agent.attempts.records import EventRow, ModelCallRow, RequestRow, ResultRow
from databricks_rlm_agent.errors import NotFound
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.values import SqlSession

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SQL_TYPES = {str: "STRING", int: "BIGINT", float: "DOUBLE", datetime: "TIMESTAMP"}


@dataclass(frozen=True, kw_only=True)
class WorkItemRow:
    """A task that somebody gave."""

    TABLE: ClassVar[str] = "work_items"
    KEY: ClassVar[tuple[str, ...]] = ("item_id",)

    item_id: str
    title: str | None
    description: str | None
    priority: int | None
    status: str | None
    assignee: str | None
    mode: str | None
    updated_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class RunStateRow:
    """A run, changed by compare-and-set only."""

    TABLE: ClassVar[str] = "run_state"
    KEY: ClassVar[tuple[str, ...]] = ("run_id",)

    run_id: str
    item_id: str | None
    parent_run_id: str | None
    depth: int
    current_mode: str
    fsm_state: str
    iter_n: int
    attempt: int
    lease_owner: str | None
    lease_epoch: int
    lease_expiry: datetime | None
    version: int
    write_id: str | None
    capsule: str
    budget: str
    last_request: str | None
    last_result: str | None
    outcome: str | None
    model: str | None
    cancel_reason: str | None
    item_revision: str | None
    due_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True)
class WatermarkRow:
    """How far an intake source has been read."""

    TABLE: ClassVar[str] = "intake_watermarks"
    KEY: ClassVar[tuple[str, ...]] = ("source",)

    source: str
    last_version: int | None
    last_updated_at: datetime | None


RowType = (
    type[WorkItemRow]
    | type[RunStateRow]
    | type[RequestRow]
    | type[ResultRow]
    | type[EventRow]
    | type[WatermarkRow]
    | type[ModelCallRow]
)
AnyRow = WorkItemRow | RunStateRow | RequestRow | ResultRow | EventRow | WatermarkRow | ModelCallRow
ALL_TABLES: tuple[RowType, ...] = (
    WorkItemRow,
    RunStateRow,
    RequestRow,
    ResultRow,
    EventRow,
    WatermarkRow,
    ModelCallRow,
)


def columns(row_type: RowType) -> dict[str, str]:
    """Column names of a table and their SQL types, in order."""
    return _COLUMNS[row_type]


def json_shape(row_type: RowType) -> str:
    """The ``from_json`` type of a batch of rows; timestamps travel as microseconds since the epoch."""
    parts = (
        f"{name}:{'BIGINT' if kind == 'TIMESTAMP' else kind}" for name, kind in columns(row_type).items()
    )
    return f"array<struct<{','.join(parts)}>>"


def to_json(rows: Iterable[AnyRow]) -> str:
    """A batch of rows as the parameter that ``json_shape`` describes."""
    return json.dumps([{k: _as_json(v) for k, v in asdict(row).items()} for row in rows], ensure_ascii=True)


def distinct(rows: Sequence[AnyRow]) -> list[AnyRow]:
    """The first row of every key: what a MERGE finds twice in its own source, it inserts twice."""
    found: dict[tuple[Any, ...], AnyRow] = {}
    for row in rows:
        found.setdefault(tuple(getattr(row, name) for name in row.KEY), row)
    return list(found.values())


def one_per_key(rows: Iterable[Mapping[str, Any]], row_type: RowType) -> list[Mapping[str, Any]]:
    """The first row of every key, in order. A platform may let two MERGEs create the same row."""
    found: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in row_type.KEY), row)
    return list(found.values())


def _as_json(value: Any) -> Any:
    if not isinstance(value, datetime):
        return value
    if value.tzinfo is None:
        raise ValueError("a timestamp without a time zone")
    return (value - EPOCH) // timedelta(microseconds=1)  # timestamp() would lose some to floating point


def _plain(hint: Any) -> type:
    kinds = [kind for kind in getattr(hint, "__args__", (hint,)) if kind is not type(None)]
    return kinds[0]  # type: ignore[no-any-return]  # the rows above use plain types and None only


def _typed(row_type: RowType) -> dict[str, str]:
    hints = get_type_hints(row_type)
    return {field.name: _SQL_TYPES[_plain(hints[field.name])] for field in fields(row_type)}


# Asked for with every row that is read.
_COLUMNS = {row_type: _typed(row_type) for row_type in ALL_TABLES}


_TABLE = "schema_migrations"
_COMPACT = "'delta.autoOptimize.autoCompact' = 'true'"


@dataclass(frozen=True, kw_only=True)
class Migration:
    """One change: its number, what it does, and how. It must be safe to apply again."""

    number: int
    summary: str
    apply: Callable[[SqlSession, Namespace], None]


def create_table(namespace: Namespace, row_type: RowType) -> str:
    """DDL of one table: unpartitioned, clustered by its key, deletion vectors on (row-level concurrency).

    Every tick commits a few rows: without compaction, what a query costs would grow with the commits.
    """
    body = ", ".join(f"{name} {kind}" for name, kind in columns(row_type).items())
    return (
        f"CREATE TABLE IF NOT EXISTS {namespace.table(row_type.TABLE)} ({body}) USING DELTA "
        f"CLUSTER BY ({row_type.KEY[0]}) "
        f"TBLPROPERTIES ('delta.enableDeletionVectors' = 'true', {_COMPACT})"
    )


def _create_tables(session: SqlSession, namespace: Namespace) -> None:
    for table in ALL_TABLES:
        session.execute(create_table(namespace, table))


def _add_cancellation(session: SqlSession, namespace: Namespace) -> None:
    _add(session, namespace.table("run_state"), {"cancel_reason": "STRING", "item_revision": "STRING"})


def _add_due_times(session: SqlSession, namespace: Namespace) -> None:
    _add(session, namespace.table("run_state"), {"due_at": "TIMESTAMP"})


def _add(session: SqlSession, table: str, wanted: dict[str, str]) -> None:
    """Add the columns that a table lacks, by name and type; ``repair`` makes a table that is not there."""
    try:
        present = {row["col_name"] for row in session.fetch(f"DESCRIBE TABLE {table}")}
    except NotFound:
        return
    if missing := [f"{name} {kind}" for name, kind in wanted.items() if name not in present]:
        session.execute(f"ALTER TABLE {table} ADD COLUMNS ({', '.join(missing)})")


def _compact(session: SqlSession, namespace: Namespace) -> None:
    for table in (
        *("work_items", "run_state", "execution_requests", "execution_results", "run_events"),
        "intake_watermarks",
    ):
        with suppress(NotFound):  # as above
            session.execute(f"ALTER TABLE {namespace.table(table)} SET TBLPROPERTIES ({_COMPACT})")


MIGRATIONS = (
    Migration(number=1, summary="the tables", apply=_create_tables),
    Migration(number=2, summary="cancellation and item revisions", apply=_add_cancellation),
    Migration(number=3, summary="compaction of small files", apply=_compact),
    Migration(number=4, summary="model calls of programs", apply=_create_tables),
    Migration(number=5, summary="due times", apply=_add_due_times),
)


def migrate(session: SqlSession, namespace: Namespace) -> list[Migration]:
    """Apply the migrations that the schema has not seen, and return them.

    A crash between a statement and its record repeats the statement, which is safe; two at once may record
    a number twice, which is read as once.
    """
    record = namespace.table(_TABLE)
    session.execute(
        f"CREATE TABLE IF NOT EXISTS {record} "
        "(number BIGINT, summary STRING, applied_at TIMESTAMP) USING DELTA"
    )
    applied = {int(row["number"]) for row in session.fetch(f"SELECT number FROM {record}")}
    pending = [migration for migration in MIGRATIONS if migration.number not in applied]
    for migration in pending:
        migration.apply(session, namespace)
        session.execute(
            f"INSERT INTO {record} VALUES (:number, :summary, current_timestamp())",
            {"number": migration.number, "summary": migration.summary},
        )
    return pending


def faults(session: SqlSession, namespace: Namespace) -> list[str]:
    """Return a line for each table or column of ours that is missing or has another type."""
    return [text for _, text in _faults(session, namespace)]


def repair(session: SqlSession, namespace: Namespace) -> list[str]:
    """Make the tables and columns anew that somebody dropped; return the lines of what was made.

    What they held is gone. A column of another type is left as it is: ``doctor`` names it.
    """
    done = []
    for statement, text in _faults(session, namespace):
        if statement is not None:
            session.execute(statement)
            done.append(text)
    return done


def _faults(session: SqlSession, namespace: Namespace) -> Iterator[tuple[str | None, str]]:
    """Yield the statement that mends a fault (None where none does) and the fault."""
    for row_type in ALL_TABLES:
        table = namespace.table(row_type.TABLE)
        try:
            rows = session.fetch(f"DESCRIBE TABLE {table}")
        except NotFound:
            yield create_table(namespace, row_type), f"there is no table {table}"
            continue
        present = {str(row["col_name"]).lower(): str(row["data_type"]).upper() for row in rows}
        for name, kind in columns(row_type).items():
            if name not in present:
                statement = f"ALTER TABLE {table} ADD COLUMNS ({name} {kind})"
                yield statement, f"{table} has no column {name}"
            elif present[name] != kind:
                yield None, f"{table}.{name} is {present[name]} where {kind} is expected"

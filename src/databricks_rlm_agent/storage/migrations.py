"""DDL of our tables, as numbered migrations: applied by ``rlm-agent init`` and never at the start of a tick.

DDL on a Delta table fails every concurrent writer, so it has a command of its own. A table that is created
today has today's columns; a migration that adds some names them itself, for it must not change any more once
it is released.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from databricks_rlm_agent.errors import NotFound
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.ports import SqlSession
from databricks_rlm_agent.storage.schema import ALL_TABLES, RowType, columns

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

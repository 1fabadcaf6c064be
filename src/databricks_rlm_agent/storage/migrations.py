"""DDL of our tables, as numbered migrations: applied by ``rlm-agent init`` and never at the start of a tick.

DDL on a Delta table fails every concurrent writer, so it has a command of its own. A table that is created
today has today's columns; a migration that adds some names them itself, for it must not change any more once
it is released.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
    table = namespace.table("run_state")
    present = {row["col_name"] for row in session.fetch(f"DESCRIBE TABLE {table}")}
    if missing := [name for name in ("cancel_reason", "item_revision") if name not in present]:
        session.execute(
            f"ALTER TABLE {table} ADD COLUMNS ({', '.join(f'{name} STRING' for name in missing)})"
        )


def _compact(session: SqlSession, namespace: Namespace) -> None:
    for table in (
        *("work_items", "run_state", "execution_requests", "execution_results", "run_events"),
        "intake_watermarks",
    ):
        session.execute(f"ALTER TABLE {namespace.table(table)} SET TBLPROPERTIES ({_COMPACT})")


MIGRATIONS = (
    Migration(number=1, summary="the tables", apply=_create_tables),
    Migration(number=2, summary="cancellation and item revisions", apply=_add_cancellation),
    Migration(number=3, summary="compaction of small files", apply=_compact),
    Migration(number=4, summary="model calls of programs", apply=_create_tables),
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

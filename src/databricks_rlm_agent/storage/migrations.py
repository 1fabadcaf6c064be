"""Numbered changes of our tables, applied by ``rlm-agent init`` and never at the start of a tick.

DDL on a Delta table fails every concurrent writer, so it has a command of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.ports import SqlSession
from databricks_rlm_agent.storage import sql
from databricks_rlm_agent.storage.schema import ALL_TABLES, columns

_TABLE = "schema_migrations"


@dataclass(frozen=True, kw_only=True)
class Migration:
    """One change: its number, what it does, and how. It must be safe to apply again."""

    number: int
    summary: str
    apply: Callable[[SqlSession, Namespace], None]


def _create_tables(session: SqlSession, namespace: Namespace) -> None:
    for table in ALL_TABLES:
        session.execute(sql.create_table(namespace, table))


def _add_missing_columns(session: SqlSession, namespace: Namespace) -> None:
    """Bring older tables to the columns of today; those that were made today have them."""
    for table in ALL_TABLES:
        there = {row["col_name"] for row in session.fetch(sql.describe(namespace, table))}
        if missing := [name for name in columns(table) if name not in there]:
            session.execute(sql.add_columns(namespace, table, missing))


def _compact(session: SqlSession, namespace: Namespace) -> None:
    for table in ALL_TABLES:
        session.execute(sql.compact(namespace, table))


MIGRATIONS = (
    Migration(number=1, summary="the tables", apply=_create_tables),
    Migration(number=2, summary="cancellation and item revisions", apply=_add_missing_columns),
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

"""The workspace's own records, in one SQLite file: they survive a restart of the server."""

from __future__ import annotations

import base64
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from local_workspace.errors import WorkspaceError

# Ids are larger than 32 bits, as on Databricks, so that a client that truncates them fails here too.
FIRST_ID = 562_949_953_421_312

_SCHEMA = """
CREATE TABLE IF NOT EXISTS ids (last INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS runs (run_id INTEGER PRIMARY KEY, job_id INTEGER NOT NULL, run_type TEXT NOT NULL,
  start_time INTEGER NOT NULL, active INTEGER NOT NULL, doc TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS active_runs ON runs (active) WHERE active = 1;
CREATE INDEX IF NOT EXISTS job_runs ON runs (job_id, run_id);
CREATE TABLE IF NOT EXISTS task_runs (task_run_id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS tokens (scope INTEGER NOT NULL, token TEXT NOT NULL, run_id INTEGER NOT NULL,
  PRIMARY KEY (scope, token));
CREATE TABLE IF NOT EXISTS jobs (job_id INTEGER PRIMARY KEY, created_time INTEGER NOT NULL,
  settings TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS scopes (name TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS secrets (scope TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
  updated_at INTEGER NOT NULL, PRIMARY KEY (scope, key));
CREATE TABLE IF NOT EXISTS acls (scope TEXT NOT NULL, principal TEXT NOT NULL, permission TEXT NOT NULL,
  PRIMARY KEY (scope, principal));
CREATE TABLE IF NOT EXISTS permissions (object TEXT PRIMARY KEY, doc TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS volumes (full_name TEXT PRIMARY KEY, doc TEXT NOT NULL);
"""

Row = tuple[Any, ...]


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    path.chmod(0o600)
    # WAL with NORMAL keeps every commit over a kill of the process (not over a power cut).
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def now_ms() -> int:
    """Unix time in milliseconds."""
    return int(time.time() * 1000)


class Database:
    """One connection, one lock: every statement of the workspace is short.

    Raises WorkspaceError for a file that holds no records.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._path = path
        if not path.exists():
            self._create()
        try:
            if path.stat().st_size == 0:  # SQLite would take it for a new one, and everything would be gone
                raise sqlite3.DatabaseError("the file is empty")
            self._connection = _open(path)
            # Later versions have further tables.
            self._connection.executescript(_SCHEMA)
        except sqlite3.OperationalError as error:
            text = f"{path} cannot be written ({error}): see to the disk, then start again"
            raise WorkspaceError(text) from error
        except sqlite3.DatabaseError as error:
            raise WorkspaceError(f"{self._damaged(error)}; then start again") from error

    def _create(self) -> None:
        """Make the file whole or not at all."""
        draft = self._path.with_suffix(".new")
        for leftover in self._path.parent.glob(f"{draft.name}*"):
            leftover.unlink()
        connection = _open(draft)
        connection.executescript(_SCHEMA)
        connection.execute("INSERT INTO ids VALUES (?)", (FIRST_ID,))
        connection.close()
        draft.rename(self._path)

    def _damaged(self, error: sqlite3.Error) -> str:
        return (
            f"{self._path} is damaged ({error}): it holds jobs, runs and secrets. Put a copy of it back, or "
            f"move it and {self._path.name}-wal away to begin with none of them (tables and Volumes stay)"
        )

    @contextmanager
    def _reported(self) -> Iterator[sqlite3.Connection]:
        """Hold the connection; a failure of SQLite's is raised as what it means, besides its own class."""
        with self._lock:
            try:
                yield self._connection
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as error:
                raise sqlite3.DatabaseError(self._damaged(error)) from error

    def rows(self, sql: str, *values: object) -> list[Row]:
        """All rows of a query."""
        with self._reported() as connection:
            return connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: object) -> Row | None:
        """The first row of a query, or None."""
        with self._reported() as connection:
            found: Row | None = connection.execute(sql, values).fetchone()
            return found

    def run(self, sql: str, *values: object) -> int:
        """Execute a command; returns the number of rows that it changed."""
        with self._reported() as connection:
            return connection.execute(sql, values).rowcount

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements of the block take effect, or none; other threads wait."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk has ended it already
                    self._connection.execute("ROLLBACK")
                raise

    def new_ids(self, count: int) -> Sequence[int]:
        """`count` fresh ids, ascending, never given out before. Not to be called within a transaction."""
        with self.transaction():
            self.run("UPDATE ids SET last = last + ?", count)
            row = self.row("SELECT last FROM ids")
            assert row is not None
            return range(row[0] - count + 1, row[0] + 1)

    def secret(self, scope: str, key: str) -> bytes | None:
        """A secret's value, or None. Values lie base64-coded, so that no plain secret is on disk."""
        found = self.row("SELECT value FROM secrets WHERE scope = ? AND key = ?", scope, key)
        return base64.b64decode(found[0]) if found else None

    def close(self) -> None:
        """Close the file; the object is unusable afterwards."""
        with self._lock:
            self._connection.close()

"""SQL through databricks-sql-connector: one connection, opened late, reopened when the session is gone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from databricks_rlm_agent.errors import ConfigError, Unreachable
from databricks_rlm_agent.ports import Row
from databricks_rlm_agent.remote.errors import sql_errors
from databricks_rlm_agent.remote.workspace import RETRY_TIMEOUT_S, Workspace

T = TypeVar("T")


class Warehouse:
    """Implements ports.SqlBackend. The connection takes one statement at a time (threadsafety 1)."""

    def __init__(self, workspace: Workspace, *, http_path: str | None) -> None:
        self._workspace, self._http_path = workspace, http_path
        self._lock = threading.Lock()
        self._connection: Any = None

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Row]:
        """Run a query and return its rows."""
        with self._lock, sql_errors(self._where), self._cursor() as cursor:
            cursor.execute(sql, dict(parameters) if parameters else None)
            rows: list[Row] = cursor.fetchall_arrow().to_pylist()
            return rows

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """Run a statement and return how many rows it changed (-1 where the warehouse does not say)."""
        with self._lock, sql_errors(self._where), self._cursor() as cursor:
            cursor.execute(sql, dict(parameters) if parameters else None)
            return int(cursor.rowcount)

    def close(self) -> None:
        """End the session."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(
                Exception
            ):  # the session ends by itself if this does not reach the server
                connection.close()

    @property
    def _where(self) -> str:
        return f"warehouse {self._http_path} at {self._workspace.host}"

    @contextlib.contextmanager
    def _cursor(self) -> Any:
        if self._connection is None:
            self._connection = self._connect()
        try:
            with self._connection.cursor() as cursor:
                yield cursor
        except Exception as error:
            if _session_is_gone(error):
                # Nothing is lost but the session: the caller's retry opens another one.
                self._connection = None
                raise Unreachable(f"The warehouse session is gone: {error}.", where=self._where) from None
            raise

    def _connect(self) -> Any:
        if not self._http_path:
            raise ConfigError(
                "No SQL warehouse is configured.",
                where="RLM_WAREHOUSE_HTTP_PATH",
                fix="Set it to the warehouse's HTTP path, such as /sql/1.0/warehouses/<id>.",
            )
        config = self._workspace.config
        from databricks import sql

        # The URI, not the host name, decides between http and https; telemetry would phone home.
        return sql.connect(
            server_hostname=str(config.host).split("://")[-1].rstrip("/"),
            http_path=self._http_path,
            credentials_provider=lambda: config.authenticate,
            _connection_uri=f"{str(config.host).rstrip('/')}{self._http_path}",
            enable_telemetry=False,
            use_cloud_fetch=False,
            _retry_delay_min=0.2,
            _retry_stop_after_attempts_duration=RETRY_TIMEOUT_S,
            user_agent_entry="databricks-rlm-agent",
        )


def _session_is_gone(error: Exception) -> bool:
    text = f"{type(error).__name__} {error}"
    return any(
        mark in text for mark in ("SessionAlreadyClosed", "Invalid SessionHandle", "SESSION_NOT_FOUND")
    )

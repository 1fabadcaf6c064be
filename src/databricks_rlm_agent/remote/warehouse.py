"""SQL through databricks-sql-connector: one connection, opened late, reopened when the session is gone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from databricks_rlm_agent.domain.types import Row
from databricks_rlm_agent.errors import ConfigError, Unreachable
from databricks_rlm_agent.remote.deadline import within
from databricks_rlm_agent.remote.errors import sql_errors
from databricks_rlm_agent.remote.patience import connector_options
from databricks_rlm_agent.remote.workspace import Access, Workspace

T = TypeVar("T")


class Warehouse:
    """Implements ports.SqlBackend. The connection takes one statement at a time (threadsafety 1).

    A statement is sent once: whether it may be repeated is for the caller to know (``stores/retry.py``). Only
    where the credentials are refused, and so nothing has happened, it is sent again with ones read anew.

    ``limit_s`` bounds a statement in seconds: for statements that others wrote, or on tables of any size. One
    that takes longer is cancelled, and raises Rejected.
    """

    def __init__(self, workspace: Workspace, *, http_path: str | None, limit_s: float | None = None) -> None:
        self._workspace, self._http_path, self._limit_s = workspace, http_path, limit_s
        self._lock = threading.Lock()
        self._connection: Any = None
        self._access: Access | None = None

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Row]:
        """Run a query and return its rows."""
        rows: list[Row] = self._run(sql, parameters, lambda cursor: cursor.fetchall_arrow().to_pylist())
        return rows

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int:
        """Run a statement and return how many rows it changed (-1 where the warehouse does not say)."""
        return self._run(sql, parameters, lambda cursor: int(cursor.rowcount))

    def close(self) -> None:
        """End the session."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(
                Exception
            ):  # the session ends by itself if this does not reach the server
                connection.close()

    def _run(self, sql: str, parameters: Mapping[str, Any] | None, read: Callable[[Any], T]) -> T:
        def once(access: Access) -> T:
            with (
                sql_errors(self._where, lambda: retry_after(self._connection)),
                self._cursor(access) as cursor,
                within(self._limit_s, cursor, where=self._where),
            ):
                cursor.execute(sql, dict(parameters) if parameters else None)
                return read(cursor)

        with self._lock:
            return self._workspace.renewing(once)

    @property
    def _where(self) -> str:
        return f"warehouse {self._http_path} at {self._workspace.host}"

    @contextlib.contextmanager
    def _cursor(self, access: Access) -> Any:
        if self._access is not access:  # a session that was opened with other credentials may end with them
            self.close()
        if self._connection is None:
            self._connection, self._access = open_connection(access, self._http_path), access
        try:
            with self._connection.cursor() as cursor:
                yield cursor
        except Exception as error:
            if session_is_gone(error):
                # Nothing is lost but the session: the caller's retry opens another one.
                self._connection = None
                raise Unreachable(f"The warehouse session is gone: {error}.", where=self._where) from None
            raise


def open_connection(access: Access, http_path: str | None, **options: Any) -> Any:
    """A new connection of the connector, without its own retries; raise ConfigError without a path."""
    if not http_path:
        raise ConfigError(
            "No SQL warehouse is configured.",
            where="RLM_WAREHOUSE_HTTP_PATH",
            fix="Set it to the warehouse's HTTP path, such as /sql/1.0/warehouses/<id>.",
        )
    from databricks import sql

    address = urlsplit(str(access.config.host))  # as copied from a browser, it may go on with /?o=…
    host = f"{address.scheme}://{address.netloc}" if address.netloc else str(access.config.host).rstrip("/")
    # The URI, not the host name, decides between http and https; telemetry would phone home.
    return sql.connect(
        server_hostname=host.split("://")[-1],
        http_path=http_path,
        credentials_provider=lambda: access.config.authenticate,
        _connection_uri=f"{host}{http_path}",
        enable_telemetry=False,
        use_cloud_fetch=False,
        user_agent_entry="databricks-rlm-agent",
        **connector_options(),
        **options,
    )


def retry_after(connection: Any) -> float | None:
    """The Retry-After of the last reply in seconds; the connector has no word for it, its transport has."""
    headers = connection
    for name in ("session", "backend", "_transport", "headers"):
        headers = getattr(headers, name, None)
    try:
        return float(headers["Retry-After"]) if headers is not None else None
    except (KeyError, TypeError, ValueError):
        return None


def session_is_gone(error: Exception) -> bool:
    """Whether the warehouse knows the session no more."""
    text = f"{type(error).__name__} {error}"
    return any(
        mark in text for mark in ("SessionAlreadyClosed", "Invalid SessionHandle", "SESSION_NOT_FOUND")
    )

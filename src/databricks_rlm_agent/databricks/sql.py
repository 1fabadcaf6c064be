"""Sessions of a SQL warehouse over databricks-sql-connector: one class for stores, checks and workflows."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from databricks_rlm_agent import threads
from databricks_rlm_agent.databricks.errors import connector_options, sql_errors
from databricks_rlm_agent.databricks.workspace import Workspace
from databricks_rlm_agent.errors import ConfigError, Rejected, Unreachable
from databricks_rlm_agent.values import Row
from executor_harness.rlm.client import retry_after

T = TypeVar("T")
_CANCEL_AGAIN_S = 1.0
_GONE = ("SessionAlreadyClosed", "Invalid SessionHandle", "Invalid OperationHandle", "SESSION_NOT_FOUND")


class WarehouseEngine:
    """Implements values.SqlEngine: opens sessions, in one catalog and schema where they are given.

    ``limit_s`` limits every statement, in seconds: for statements that others wrote, or on tables of any
    size. One that takes longer is cancelled, and raises Rejected.
    """

    def __init__(
        self,
        workspace: Workspace,
        *,
        http_path: str | None,
        catalog: str | None = None,
        schema: str | None = None,
        limit_s: float | None = None,
    ) -> None:
        # Without its first slash it would become a part of the port.
        self._workspace, self._http_path = workspace, http_path and "/" + http_path.strip().lstrip("/")
        self._place = {k: v for k, v in {"catalog": catalog, "schema": schema}.items() if v is not None}
        self._limit_s = limit_s

    def session(self) -> WarehouseSession:
        """Open a session; raise ConfigError if no warehouse is configured."""
        http_path = self._http_path
        if not http_path:
            raise ConfigError(
                "No SQL warehouse is configured.",
                where="RLM_WAREHOUSE_HTTP_PATH",
                fix="Set it to the warehouse's HTTP path, such as /sql/1.0/warehouses/<id>, or name a local "
                "workspace by --root DIR.",
            )
        where = f"warehouse {http_path} at {self._workspace.host}"

        def once(_access: object) -> Any:
            with sql_errors(where):
                return _connect(self._workspace, http_path, **self._place)

        try:
            connection = self._workspace.renewing(once)
        except Unreachable as error:
            raise self._explained(error) from None
        return WarehouseSession(connection, where=where, limit_s=self._limit_s)

    def _explained(self, error: Unreachable) -> Unreachable:
        """Turn what the connector says of an address that is not a warehouse's into advice."""
        host = self._workspace.host
        if "HTTP 404" in error.what:
            return Unreachable(
                f"There is no SQL warehouse {self._http_path} (HTTP 404).",
                where=host,
                fix="Check --http-path (RLM_WAREHOUSE_HTTP_PATH): see the warehouse's connection details.",
            )
        if error.what == "Error during request to server.":  # it has answered, but not as a warehouse does
            return Unreachable(
                "What answers is not a Databricks SQL warehouse.",
                where=f"{host}{self._http_path}",
                fix="Check --server-hostname (DATABRICKS_HOST) and --http-path (RLM_WAREHOUSE_HTTP_PATH).",
            )
        return error


class WarehouseSession:
    """Implements values.SqlSession over one connection of the connector, which takes one statement at a time.

    A statement is sent once: whether it may be repeated is for the caller to know (``RetryingSession``).
    """

    def __init__(self, connection: Any, *, where: str, limit_s: float | None = None) -> None:
        self._connection, self._where, self._limit_s = connection, where, limit_s
        self._lock = threading.Lock()
        self._cursor: Any = None
        self._alive = True

    @property
    def alive(self) -> bool:
        """False once it is lost or closed."""
        return self._alive

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int | None:
        """Run a statement and return how many rows it changed; None where the warehouse does not say."""
        changed = self._run(sql, parameters, lambda cursor: int(cursor.rowcount))
        return changed if changed >= 0 else None

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Row]:
        """Run a query and return its rows."""
        rows: list[Row] = self._run(sql, parameters, lambda cursor: cursor.fetchall_arrow().to_pylist())
        return rows

    def cancel(self) -> None:
        """Ask for the end of the statement that runs now."""
        cursor = self._cursor
        if cursor is not None:
            with contextlib.suppress(Exception):  # the statement's own thread meets the same fault
                cursor.cancel()

    def close(self) -> None:
        """End the session."""
        self._alive = False
        with contextlib.suppress(Exception):  # it ends by itself if this does not reach the server
            self._connection.close()

    def _run(self, sql: str, parameters: Mapping[str, Any] | None, read: Callable[[Any], T]) -> T:
        with self._lock, sql_errors(self._where, lambda: _retry_after(self._connection)):
            if not self._alive:
                raise Unreachable("The warehouse session is gone.", where=self._where)
            with self._opened() as cursor:
                cursor.execute(sql, dict(parameters) if parameters else None)
                return read(cursor)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        """A cursor, which ``cancel`` and the time limit can reach."""
        try:
            with self._connection.cursor() as self._cursor, self._limited():
                yield self._cursor
        except Exception as error:
            if any(mark in f"{type(error).__name__} {error}" for mark in _GONE):
                self._alive = False
                raise Unreachable(f"The warehouse session is gone: {error}.", where=self._where) from None
            raise
        finally:
            self._cursor = None

    @contextlib.contextmanager
    def _limited(self) -> Iterator[None]:
        """Cancel the statement when its time is up, and raise Rejected then.

        ``Cursor.cancel`` may be called from another thread (databricks-sql-connector 4.9). It is called again
        until the statement has ended: the first call may come before the warehouse has given it an id.
        """
        if self._limit_s is None:
            yield
            return
        done, expired = threading.Event(), threading.Event()

        def cancel_when_expired(wait_s: float) -> None:
            while not done.wait(wait_s):
                expired.set()
                wait_s = _CANCEL_AGAIN_S
                self.cancel()

        threads.start("statement-limit", cancel_when_expired, self._limit_s)
        try:
            yield
        except Exception:
            if not expired.is_set():
                raise
            raise Rejected(
                f"The statement was cancelled: it took longer than {self._limit_s:g} seconds.",
                where=self._where,
                fix="Write one that reads less.",
            ) from None
        finally:
            done.set()


def _connect(workspace: Workspace, http_path: str, **options: Any) -> Any:
    """Open a connection without the connector's own retries; requests use the credentials in force."""
    from databricks import sql

    config = workspace.access.config
    address = urlsplit(str(config.host))  # as copied from a browser, it may go on with /?o=…
    host = f"{address.scheme}://{address.netloc}" if address.netloc else str(config.host).rstrip("/")
    # The URI, not the host name, decides between http and https; telemetry would phone home.
    return sql.connect(
        server_hostname=host.split("://")[-1],
        http_path=http_path,
        credentials_provider=lambda: lambda: workspace.access.config.authenticate(),
        _connection_uri=f"{host}{http_path}",
        enable_telemetry=False,
        use_cloud_fetch=False,
        user_agent_entry="databricks-rlm-agent",
        **connector_options(),
        **options,
    )


def _retry_after(connection: Any) -> float | None:
    """The Retry-After of the last reply in seconds: the connector does not tell it, its transport does."""
    headers = connection
    for name in ("session", "backend", "_transport", "headers"):
        headers = getattr(headers, name, None)
    return None if headers is None else retry_after(headers.get("Retry-After"), time.time())

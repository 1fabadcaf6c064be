"""Sessions of a SQL warehouse for other people's SQL: each a connection of its own, that can be cancelled.

Unlike ``Warehouse``, one that is lost stays lost: USE, SET and temporary views went with it, and only who
wrote them there can say whether to begin again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

from databricks_rlm_agent.databricks.errors import sql_errors
from databricks_rlm_agent.databricks.transport import connector_options
from databricks_rlm_agent.databricks.workspace import Access, Workspace
from databricks_rlm_agent.errors import ConfigError, Rejected, Unreachable
from databricks_rlm_agent.values import Row

_AGAIN_S = 1.0


@contextmanager
def statement_timeout(limit_s: float | None, cursor: Any, *, where: str) -> Iterator[None]:
    """Cancel what a cursor of the connector is doing after so many seconds, and raise Rejected then.

    ``Cursor.cancel`` may be called from another thread (databricks-sql-connector 4.9). It is called again
    until the statement has ended: the first call may come before the warehouse has given it an id.
    """
    if limit_s is None:
        yield
        return
    done, late = threading.Event(), threading.Event()

    def watch(pause: float) -> None:
        while not done.wait(pause):
            late.set()
            pause = _AGAIN_S
            with suppress(Exception):  # the statement's own thread meets the same fault, and reports it
                cursor.cancel()

    threading.Thread(target=watch, args=(limit_s,), name="statement-limit", daemon=True).start()
    try:
        yield
    except Exception:
        if not late.is_set():
            raise
        raise Rejected(
            f"The statement was cancelled: it took longer than {limit_s:g} seconds.",
            where=where,
            fix="Write one that reads less.",
        ) from None
    finally:
        done.set()


T = TypeVar("T")


class Warehouse:
    """Implements ports.SqlBackend. The connection takes one statement at a time (threadsafety 1).

    A statement is sent once: whether it may be repeated is for the caller to know (``retry.py``). Only
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
                statement_timeout(self._limit_s, cursor, where=self._where),
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


class WarehouseEngine:
    """Implements sqlflow's Engine: sessions in one catalog and schema."""

    def __init__(
        self,
        workspace: Workspace,
        *,
        http_path: str | None,
        catalog: str | None = None,
        schema: str | None = None,
    ) -> None:
        # Without its first slash it would become a part of the port.
        self._workspace, self._http_path = workspace, http_path and "/" + http_path.strip().lstrip("/")
        self._place = {k: v for k, v in {"catalog": catalog, "schema": schema}.items() if v is not None}

    def session(self) -> WarehouseSession:
        """Open a session; credentials that are refused are read anew once."""
        where = f"warehouse {self._http_path} at {self._workspace.host}"

        def once(access: Access) -> Any:
            with sql_errors(where):
                return open_connection(access, self._http_path, **self._place)

        try:
            return WarehouseSession(self._workspace.renewing(once), where=where)
        except Unreachable as error:
            raise self._plainly(error) from None

    def _plainly(self, error: Unreachable) -> Unreachable:
        """What the connector says of an address that is not a warehouse's, so that a person can mend it."""
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
    """Implements sqlflow's Session over one connection of the connector."""

    def __init__(self, connection: Any, *, where: str) -> None:
        self._connection, self._where = connection, where
        self._lock = threading.Lock()
        self._cursor: Any = None
        self._alive = True

    @property
    def alive(self) -> bool:
        """False once it is lost or closed."""
        return self._alive

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int | None:
        """Run a statement; how many rows it changed, None where the warehouse does not say."""
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
        with self._lock, sql_errors(self._where, lambda: retry_after(self._connection)):
            if not self._alive:
                raise Unreachable("The warehouse session is gone.", where=self._where)
            try:
                with self._connection.cursor() as self._cursor:
                    self._cursor.execute(sql, dict(parameters) if parameters else None)
                    return read(self._cursor)
            except Exception as error:
                if session_is_gone(error):
                    self._alive = False
                    raise Unreachable(f"The warehouse session is gone: {error}.", where=self._where) from None
                raise
            finally:
                self._cursor = None

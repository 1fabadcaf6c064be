"""Sessions of a SQL warehouse for other people's SQL: each a connection of its own, that can be cancelled.

Unlike ``Warehouse``, one that is lost stays lost: USE, SET and temporary views went with it, and only who
wrote them there can say whether to begin again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from databricks_rlm_agent.domain.types import Row
from databricks_rlm_agent.errors import Unreachable
from databricks_rlm_agent.remote.errors import sql_errors
from databricks_rlm_agent.remote.warehouse import open_connection, retry_after, session_is_gone
from databricks_rlm_agent.remote.workspace import Access, Workspace

T = TypeVar("T")


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

"""The connector on a local workspace, as the tests of both engines use it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from local_workspace import WorkspaceInfo


@contextlib.contextmanager
def connected(info: WorkspaceInfo, **options: Any) -> Iterator[Any]:
    """Yield a cursor of a session of its own; `options` are the connector's, such as catalog and schema."""
    from databricks import sql

    with (
        sql.connect(
            server_hostname="127.0.0.1",
            http_path=info.http_path,
            access_token=info.token,
            _connection_uri=info.host + info.http_path,
            enable_telemetry=False,
            **options,
        ) as connection,
        connection.cursor() as cursor,
    ):
        yield cursor


def rows(cursor: Any, sql: str, parameters: Any = None) -> list[dict[str, Any]]:
    """Run a statement and return its rows."""
    cursor.execute(sql, parameters)
    return [row.asDict() for row in cursor.fetchall()]

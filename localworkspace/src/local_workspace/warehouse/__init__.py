"""The SQL warehouse of the local workspace: Databricks' Thrift service over HTTP, for unmodified
connectors.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from local_workspace.engine import Engine

from .protocol import GoneError, answer, sql_of
from .service import ThriftService

__all__ = ["ThriftService", "routes", "sql_of"]

# Requests wait here for their statement (a second at most), so a cancel always finds a free thread.
_REQUEST_THREADS = 64


def routes(engine: Engine, warehouse_id: str = "local") -> list[Any]:
    """The Starlette routes of one warehouse: POST /sql/1.0/warehouses/{id}."""
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    service = ThriftService(engine)
    threads = ThreadPoolExecutor(_REQUEST_THREADS, thread_name_prefix="warehouse-request")

    async def post(request: Request) -> Response:
        body = await request.body()
        try:
            reply = await asyncio.get_running_loop().run_in_executor(threads, answer, service, body)
        except GoneError as gone:
            # The connector takes a 404 on a close as "closed already".
            return Response(status_code=404, headers={"x-thriftserver-error-message": str(gone)})
        except (EOFError, ValueError) as error:
            return Response(f"Not a Thrift call: {error}", status_code=400)
        return Response(reply, media_type="application/x-thrift")

    return [Route(f"/sql/1.0/warehouses/{warehouse_id}", post, methods=["POST"])]

"""Databricks' Thrift service over HTTP, for unmodified connectors: one call in, one reply out."""

from __future__ import annotations

import asyncio
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from databricks.sql.thrift_api.TCLIService import TCLIService
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.protocol.TProtocol import TProtocolException
from thrift.Thrift import TApplicationException
from thrift.transport.TTransport import TMemoryBuffer

from local_workspace.engine import Engine
from local_workspace.options import WAREHOUSE_ID
from local_workspace.workspace import Workspace

from .service import GoneError, ThriftService

# Requests wait here for their statement (a second at most), so a cancel always finds a free thread.
_REQUEST_THREADS = 64
# Of the strict binary protocol: version 1, message type call (Thrift binary protocol specification).
_CALL = 0x80010001
_EXECUTE = b"ExecuteStatement"


def routes(workspace: Workspace) -> list[Route]:
    """The route of the warehouse."""
    return [warehouse_route(workspace.engine, WAREHOUSE_ID)]


def warehouse_route(engine: Engine, warehouse_id: str) -> Route:
    """POST /sql/1.0/warehouses/{id}."""
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

    return Route(f"/sql/1.0/warehouses/{warehouse_id}", post, methods=["POST"])


def answer(service: Any, body: bytes) -> bytes:
    """Let `service` answer the Thrift call in `body`; raises `EOFError` or `ValueError` when it is none."""

    outgoing = TMemoryBuffer()
    try:
        TCLIService.Processor(service).process(_protocol(TMemoryBuffer(body)), _protocol(outgoing))
    except (TProtocolException, TApplicationException, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error
    return bytes(outgoing.getvalue())


def sql_of(body: bytes) -> str | None:
    """The SQL text in the body of an ExecuteStatement call; None for anything else."""
    if len(body) < 8 or not body.startswith(struct.pack("!I", _CALL)):
        return None
    if body[4:8] != struct.pack("!I", len(_EXECUTE)) or not body.startswith(_EXECUTE, 8):
        return None

    protocol = _protocol(TMemoryBuffer(body))
    arguments = TCLIService.ExecuteStatement_args()
    try:
        protocol.readMessageBegin()
        arguments.read(protocol)
    except (TProtocolException, EOFError, UnicodeDecodeError):
        return None
    statement: str | None = arguments.req.statement if arguments.req else None
    return statement


def _protocol(transport: Any) -> Any:

    # thrift 0.25 caps strings at 16 MB; a statement or a result batch may be larger, and we are on loopback.
    return TBinaryProtocol(transport, string_length_limit=None, container_length_limit=None)

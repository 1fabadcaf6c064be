"""Thrift's binary protocol over byte strings: one call in, one answer out."""

from __future__ import annotations

import struct
from typing import Any

# Of the strict binary protocol: version 1, message type call (Thrift binary protocol specification).
_CALL = 0x80010001
_EXECUTE = b"ExecuteStatement"


class GoneError(Exception):
    """A session or operation to close that is not there; travels as HTTP 404."""


def answer(service: Any, body: bytes) -> bytes:
    """Let `service` answer the Thrift call in `body`; raises `EOFError` or `ValueError` when it is none."""
    from databricks.sql.thrift_api.TCLIService import TCLIService
    from thrift.protocol.TProtocol import TProtocolException
    from thrift.Thrift import TApplicationException
    from thrift.transport.TTransport import TMemoryBuffer

    outgoing = TMemoryBuffer()
    try:
        TCLIService.Processor(service).process(_protocol(TMemoryBuffer(body)), _protocol(outgoing))
    except (TProtocolException, TApplicationException, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error
    return bytes(outgoing.getvalue())


def sql_of(body: bytes) -> str | None:
    """The SQL text in the body of an ExecuteStatement call; None for any other call, or for no call at
    all.
    """
    if len(body) < 8 or not body.startswith(struct.pack("!I", _CALL)):
        return None
    if body[4:8] != struct.pack("!I", len(_EXECUTE)) or not body.startswith(_EXECUTE, 8):
        return None
    from databricks.sql.thrift_api.TCLIService import TCLIService
    from thrift.protocol.TProtocol import TProtocolException
    from thrift.transport.TTransport import TMemoryBuffer

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
    from thrift.protocol.TBinaryProtocol import TBinaryProtocol

    # thrift 0.25 caps strings at 16 MB; a statement or a result batch may be larger, and we are on loopback.
    return TBinaryProtocol(transport, string_length_limit=None, container_length_limit=None)

"""Thrift calls as bytes: read with suspicion, answered by a service, written."""

from __future__ import annotations

import struct
from typing import Any

from databricks.sql.thrift_api.TCLIService import TCLIService
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.Thrift import TApplicationException, TMessageType
from thrift.transport.TTransport import TMemoryBuffer

from local_workspace.http import Connection

# Of the strict binary protocol: version 1, message type call (Thrift binary protocol specification).
_CALL = 0x80010001
_EXECUTE = b"ExecuteStatement"


class NoCallError(Exception):
    """The bytes are no call of the service; the message is one line."""


def answer(service: Any, body: bytes, connection: Connection | None = None) -> bytes:
    """Let `service` answer the Thrift call in `body`. Raises `NoCallError` when it is none.

    A call that the service does not know gets Thrift's own answer to that.
    """
    outgoing = TMemoryBuffer()
    protocol = _protocol(outgoing)
    name, sequence, arguments = _read_call(body)
    handler = getattr(service, name, None)
    if arguments is None or handler is None:
        kind: int = TMessageType.EXCEPTION
        result: Any = TApplicationException(TApplicationException.UNKNOWN_METHOD, f"Unknown function {name}")
    else:
        kind, result = TMessageType.REPLY, getattr(TCLIService, f"{name}_result")()
        service.caller.connection = connection
        result.success = handler(arguments.req)
    protocol.writeMessageBegin(name, kind, sequence)
    result.write(protocol)
    protocol.writeMessageEnd()
    return bytes(outgoing.getvalue())


def _read_call(body: bytes) -> tuple[str, int, Any]:
    """Return name, sequence number and arguments of a call; no arguments for one that is not known."""
    protocol = _protocol(TMemoryBuffer(body))
    try:
        name, _, sequence = protocol.readMessageBegin()
        made = getattr(TCLIService, f"{name}_args", None)
        arguments = made() if name.isalpha() and made is not None else None
        if arguments is not None:
            arguments.read(protocol)
            if arguments.req is None:
                raise ValueError(f"{name} has no request")
            _require(arguments.req)
    except Exception as error:
        text = " ".join(f"{error}".split()) or "it ends too early"
        raise NoCallError(f"{type(error).__name__}: {text[:200]}") from error
    return name, sequence, arguments


def _require(struct: Any) -> None:
    """Raise TProtocolException unless all required fields are there, in structs within as well."""
    struct.validate()
    for value in vars(struct).values():
        for each in value if isinstance(value, list) else [value]:
            if hasattr(each, "validate"):
                _require(each)


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
    except Exception:  # noqa: BLE001 - it will be refused when it is read as a call
        return None
    statement: str | None = arguments.req.statement if arguments.req else None
    return statement


def _protocol(transport: Any) -> Any:
    # thrift 0.25 caps strings at 16 MB; a statement or a result batch may be larger, and we are on loopback.
    return TBinaryProtocol(transport, string_length_limit=None, container_length_limit=None)

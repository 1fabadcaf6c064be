"""Answer for the Spark Connect endpoint itself: results of commands carried out here, and errors."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

from .errors import EngineError
from .wire import arrow_stream

_MAX_MESSAGE = 2048  # gRPC carries an error's message in a header, whose size is limited


def responses(request: Any, table: Any, server_session: str) -> Iterator[bytes]:
    """The answer to a SQL command carried out here: its rows as a local relation, then the end."""
    import pyarrow as pa
    import pyspark.sql.connect.proto as pb

    # The engine refuses a relation without columns, so what has no result gets an empty one.
    table = table if table.column_names else pa.table({"result": pa.array([], pa.string())})
    relation = pb.Relation(local_relation=pb.LocalRelation(data=arrow_stream(table)))
    envelope = {
        "session_id": request.session_id,
        "server_side_session_id": server_session,
        "operation_id": request.operation_id,
    }
    answer = pb.ExecutePlanResponse(response_id=str(uuid.uuid4()), **envelope)
    answer.sql_command_result.relation.CopyFrom(relation)
    yield answer.SerializeToString()
    end = pb.ExecutePlanResponse(response_id=str(uuid.uuid4()), **envelope)
    end.result_complete.SetInParent()
    yield end.SerializeToString()


def relay(context: Any, error: Any) -> None:
    """Hand an error on as it came."""
    context.set_trailing_metadata(
        tuple(pair for pair in error.trailing_metadata() or () if pair[0] == "grpc-status-details-bin")
    )
    context.abort(error.code(), error.details())


def abort(context: Any, error: EngineError) -> None:
    """End the call with an error that pyspark turns into its own exception, condition and SQLSTATE
    included.
    """
    import grpc

    message = error.message[:_MAX_MESSAGE]
    metadata = {
        "classes": json.dumps(error.classes),
        "errorClass": error.condition,
        "sqlState": error.sqlstate,
    }
    entries = b"".join(_field(3, _field(1, key) + _field(2, value)) for key, value in metadata.items())
    info = _field(1, error.java_class) + _field(2, "org.apache.spark") + entries
    detail = _field(1, "type.googleapis.com/google.rpc.ErrorInfo") + _field(2, info)
    # google.rpc.Status: code 13 (INTERNAL), message, details.
    status = b"\x08\x0d" + _field(2, message) + _field(3, detail)
    context.set_trailing_metadata((("grpc-status-details-bin", status),))
    context.abort(grpc.StatusCode.INTERNAL, message)


def _field(number: int, value: str | bytes) -> bytes:
    """One length-delimited protobuf field."""
    data = value.encode() if isinstance(value, str) else value
    size, length = len(data), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data

"""Talking Spark Connect to the embedded engine with bare protocol messages: one round trip a statement.

The DataFrame client spends two or three round trips on what is one here (it asks for the plan of a command
first), so it would cost more than the engine itself.
"""

from __future__ import annotations

import threading
import uuid
from typing import Any

from .errors import EngineError, from_engine

# The engine streams batches of a few megabytes; the limit guards against nothing here, and results may be large.
CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class ConnectClient:
    """One Spark Connect session, as bare messages."""

    def __init__(self, stub: Any, *, session_id: str, user_id: str) -> None:
        self._stub = stub
        self._session_id = session_id
        self._user_id = user_id
        self._running: dict[str, Any] = {}
        self._cancelled: set[str] = set()
        self._guard = threading.Lock()

    def sql(self, text: str) -> Any:
        """Run one statement; its result as a pyarrow.Table. Raises `EngineError`."""
        import pyspark.sql.connect.proto as pb

        return self.run(pb.Plan(root=pb.Relation(sql=pb.SQL(query=text))))

    def run(self, plan: Any) -> Any:
        """Run a plan; its result as a pyarrow.Table. Raises `EngineError`."""
        import grpc
        import pyspark.sql.connect.proto as pb

        operation = str(uuid.uuid4())
        request = pb.ExecutePlanRequest(
            session_id=self._session_id, user_context=self._user(), operation_id=operation, plan=plan
        )
        try:
            call = self._stub.ExecutePlan(request)
            with self._guard:
                self._running[operation] = call
            buffers = [response.arrow_batch.data for response in call if response.HasField("arrow_batch")]
        except grpc.RpcError as error:
            self._raise_if_cancelled(operation)
            raise error_of(error) from error
        finally:
            with self._guard:
                self._running.pop(operation, None)
        # An interrupted statement ends its stream early and without an error.
        self._raise_if_cancelled(operation)
        return _table(buffers)

    def write_table(self, query: str, *, table: str, options: dict[str, str], partitions: list[str]) -> None:
        """Overwrite a Delta table by a query's rows (and schema, with `overwriteSchema` in `options`)."""
        import pyspark.sql.connect.proto as pb

        write = pb.WriteOperation
        target = write.SaveTable(
            table_name=table, save_method=write.SaveTable.TABLE_SAVE_METHOD_SAVE_AS_TABLE
        )
        operation = write(
            input=pb.Relation(sql=pb.SQL(query=query)), source="delta", mode=write.SAVE_MODE_OVERWRITE,
            table=target, options=options, partitioning_columns=partitions,
        )  # fmt: skip
        self.run(pb.Plan(command=pb.Command(write_operation=operation)))

    def configure(self, settings: dict[str, str]) -> None:
        """Set session configuration; an engine that does not know a key keeps it without effect."""
        import pyspark.sql.connect.proto as pb

        pairs = [pb.KeyValue(key=key, value=value) for key, value in settings.items()]
        operation = pb.ConfigRequest.Operation(set=pb.ConfigRequest.Set(pairs=pairs))
        request = pb.ConfigRequest(
            session_id=self._session_id, user_context=self._user(), operation=operation
        )
        self._call("Config", request)

    def interrupt(self) -> None:
        """Stop what runs now. The statement's own thread sees OPERATION_CANCELED."""
        import pyspark.sql.connect.proto as pb

        with self._guard:
            running = dict(self._running)
            self._cancelled.update(running)
        for operation, call in running.items():
            request = pb.InterruptRequest(
                session_id=self._session_id,
                user_context=self._user(),
                interrupt_type=pb.InterruptRequest.INTERRUPT_TYPE_OPERATION_ID,
                operation_id=operation,
            )
            self._call("Interrupt", request)
            call.cancel()

    def release(self) -> None:
        """End the session; its temporary views go with it."""
        import pyspark.sql.connect.proto as pb

        self._call(
            "ReleaseSession", pb.ReleaseSessionRequest(session_id=self._session_id, user_context=self._user())
        )

    def _call(self, method: str, request: Any) -> Any:
        import grpc

        try:
            return getattr(self._stub, method)(request)
        except grpc.RpcError as error:
            raise error_of(error) from error

    def _user(self) -> Any:
        import pyspark.sql.connect.proto as pb

        return pb.UserContext(user_id=self._user_id)

    def _raise_if_cancelled(self, operation: str) -> None:
        with self._guard:
            cancelled = operation in self._cancelled
            self._cancelled.discard(operation)
        if cancelled:
            raise EngineError.of("OPERATION_CANCELED", "The operation was cancelled.", "HY008")


def connect_stub(channel: Any) -> Any:
    """The service stub on a channel."""
    from pyspark.sql.connect.proto import base_pb2_grpc

    return base_pb2_grpc.SparkConnectServiceStub(channel)


def error_of(error: Any) -> EngineError:
    """The engine error in a gRPC failure."""
    import grpc

    if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
        return EngineError.of("ENGINE_UNAVAILABLE", f"The engine does not answer: {error.details()}", "08006")
    return from_engine(error.details() or "", java_class=_java_class(error))


def _java_class(error: Any) -> str:
    """The exception class that the engine names in its error details (google.rpc.ErrorInfo.reason)."""
    from grpc_status import rpc_status

    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        # ErrorInfo's first field is the reason; read as text, for the message class is not ours to import.
        text = detail.value
        if detail.type_url.endswith("/google.rpc.ErrorInfo") and text[:1] == b"\n":
            return bytes(text[2 : 2 + text[1]]).decode("utf-8", "replace")
    return ""


def _table(buffers: list[bytes]) -> Any:
    import pyarrow as pa

    tables = [pa.ipc.open_stream(buffer).read_all() for buffer in buffers]
    if not tables:
        return pa.table({})
    return pa.concat_tables(tables) if len(tables) > 1 else tables[0]

"""Spark Connect as bare protocol messages: sessions of the engine, and what the endpoint itself answers.

The DataFrame client spends two or three round trips on what is one here (it asks for the plan of a command
first), so it would cost more than the engine itself.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import pyarrow as pa
import pyspark.sql.connect.proto as pb
from google.protobuf.any_pb2 import Any as AnyMessage  # type: ignore[import-untyped] # ships no types
from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped] # ships no types
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped] # ships no types
from grpc_status import rpc_status  # type: ignore[import-untyped] # ships no types
from pyspark.sql.connect.proto import base_pb2_grpc

from .errors import EngineError, from_engine, from_spark, operation_canceled
from .servers import Servers

# No limit: results may be large.
CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

_MAX_MESSAGE = 2048  # gRPC carries an error's message in a header, whose size is limited
# An engine that does not answer such a request is none to wait for: the watch over it takes its measures.
_END_SECONDS = 5.0


class _Statement:
    """A statement on its way: whether an interrupt is meant for it (`wanted`), and whether one has come."""

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self.wanted = wanted
        self.cancelled = False
        self.operation = ""
        self.call: Any = None

    def raise_if_cancelled(self) -> None:
        if self.cancelled:
            raise operation_canceled()


class ConnectClient:
    """One Spark Connect session, as bare messages."""

    def __init__(self, servers: Servers, *, session_id: str, user_id: str) -> None:
        self._servers = servers
        self.server = servers.enter()
        self._stub = self.server.stub
        self._left = False
        self.user_id = user_id
        self._who = {"session_id": session_id, "user_context": pb.UserContext(user_id=user_id)}
        self._statements: set[_Statement] = set()
        self._current = threading.local()
        self._guard = threading.Lock()
        # Clients compare it between answers; known after `configure`.
        self.server_session_id = session_id

    @property
    def is_current(self) -> bool:
        """Tell whether new sessions begin on this one's server."""
        return self._servers.is_newest(self.server)

    @property
    def lost(self) -> bool:
        """Tell whether the session has gone with its server."""
        return self.server.lost

    def successor(self) -> ConnectClient:
        """Return a session of the same name on the server for new sessions."""
        return ConnectClient(self._servers, session_id=self._who["session_id"], user_id=self.user_id)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Note that a statement goes to the server, and is waited for while the context lasts."""
        self._servers.count(self.server)
        with self._servers.running(self.server):
            yield

    @contextmanager
    def statement(self, wanted: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """Make everything that this thread runs one statement: `interrupt` stops all of it if `wanted`."""
        if getattr(self._current, "statement", None) is not None:
            yield
            return
        statement = _Statement(wanted)
        self._current.statement = statement
        with self._guard:
            self._statements.add(statement)
        try:
            yield
        finally:
            self._current.statement = None
            with self._guard:
                self._statements.discard(statement)

    def sql(self, text: str) -> Any:
        """Run one statement; its result as a pyarrow.Table. Raises `EngineError`."""
        return self.run(pb.Plan(root=pb.Relation(sql=pb.SQL(query=text))), text)

    def run(self, plan: Any, text: str = "") -> Any:
        """Run a plan, of the SQL `text`; return its result as a pyarrow.Table. Raises `EngineError`."""
        request = pb.ExecutePlanRequest(operation_id=str(uuid.uuid4()), plan=plan, **self._who)
        with self.counted(), self.statement():
            statement = self._current.statement
            try:
                call = self._begin(statement, request)
                buffers = [response.arrow_batch.data for response in call if response.HasField("arrow_batch")]
            except grpc.RpcError as error:
                statement.raise_if_cancelled()
                raised = error_of(error)
                raised.sent = text
                raise raised from error
            # An interrupted statement ends its stream early and without an error.
            statement.raise_if_cancelled()
        return _table(buffers)

    def _begin(self, statement: _Statement, request: Any) -> Any:
        with self._guard:  # an interrupt comes either before, and is seen here, or finds the call
            statement.raise_if_cancelled()
            statement.operation = request.operation_id
            try:
                statement.call = self._stub.ExecutePlan(request)
            except ValueError as error:
                raise _gone(error) from error
            return statement.call

    def write_table(self, query: str, *, table: str, options: dict[str, str], partitions: list[str]) -> None:
        """Overwrite a Delta table by a query's rows (and schema, with `overwriteSchema` in `options`)."""
        write = pb.WriteOperation
        target = write.SaveTable(
            table_name=table, save_method=write.SaveTable.TABLE_SAVE_METHOD_SAVE_AS_TABLE
        )
        operation = write(
            input=pb.Relation(sql=pb.SQL(query=query)), source="delta", mode=write.SAVE_MODE_OVERWRITE,
            table=target, options=options, partitioning_columns=partitions,
        )  # fmt: skip
        self.run(pb.Plan(command=pb.Command(write_operation=operation)), query)

    def columns(self, relation: Any) -> list[str]:
        """Return the names of the columns of a relation. Raises `EngineError`."""
        asked = pb.AnalyzePlanRequest.Schema(plan=pb.Plan(root=relation))
        answer = self._call("AnalyzePlan", pb.AnalyzePlanRequest(schema=asked, **self._who))
        fields = answer.schema.schema.struct.fields
        return [field.name for field in fields]

    def create_view(self, name: str, table: Any) -> None:
        """Make or replace a temporary view of the rows of a pyarrow.Table. Raises `EngineError`."""
        relation = pb.Relation(local_relation=pb.LocalRelation(data=arrow_stream(table)))
        view = pb.CreateDataFrameViewCommand(input=relation, name=name, replace=True)
        self.run(pb.Plan(command=pb.Command(create_dataframe_view=view)))

    def configure(self, settings: dict[str, str]) -> None:
        """Set session configuration; an engine that does not know a key keeps it without effect."""
        pairs = [pb.KeyValue(key=key, value=value) for key, value in settings.items()]
        self._config(pb.ConfigRequest.Operation(set=pb.ConfigRequest.Set(pairs=pairs)))

    def unset(self, key: str) -> None:
        """Take a session configuration back."""
        self._config(pb.ConfigRequest.Operation(unset=pb.ConfigRequest.Unset(keys=[key])))

    def setting(self, key: str) -> str:
        """Return the value of a session configuration; empty if it has none."""
        get = pb.ConfigRequest.GetOption(keys=[key])
        answer = self._config(pb.ConfigRequest.Operation(get_option=get))
        return str(answer.pairs[0].value) if answer.pairs else ""

    def _config(self, operation: Any) -> Any:
        answer = self._call("Config", pb.ConfigRequest(operation=operation, **self._who))
        self.server_session_id = answer.server_side_session_id or self.server_session_id
        return answer

    def interrupt(self) -> None:
        """Stop what runs now and is meant. The statement's own thread sees OPERATION_CANCELED."""
        with self._guard:
            running = [each for each in self._statements if not each.cancelled and each.wanted()]
            for statement in running:
                statement.cancelled = True
        for statement in running:
            if statement.call is None:
                continue
            self.server.cancelled = True
            one = pb.InterruptRequest.INTERRUPT_TYPE_OPERATION_ID
            request = pb.InterruptRequest(interrupt_type=one, operation_id=statement.operation, **self._who)
            with suppress(EngineError):  # its own thread sees that it was cancelled, whatever the engine does
                self._call("Interrupt", request, _END_SECONDS)
            statement.call.cancel()

    def release(self) -> None:
        """End the session and what runs in it; its temporary views go with it. Raises `EngineError`."""
        everything = pb.InterruptRequest.INTERRUPT_TYPE_ALL
        with self._guard:  # their streams end early and without an error, as if there were no more rows
            for statement in self._statements:
                statement.cancelled = True
        try:
            if not self.lost:
                self.server.cancelled = self.server.cancelled or bool(self._statements)
                interrupt = pb.InterruptRequest(interrupt_type=everything, **self._who)
                self._call("Interrupt", interrupt, _END_SECONDS)
                self._call("ReleaseSession", pb.ReleaseSessionRequest(**self._who), _END_SECONDS)
        finally:
            self.leave()

    def leave(self) -> None:
        """Note that the session is over; later calls do nothing."""
        with self._guard:
            left, self._left = self._left, True
        if not left:
            self._servers.leave(self.server)

    def _call(self, method: str, request: Any, seconds: float | None = None) -> Any:
        try:
            return getattr(self._stub, method)(request, timeout=seconds)
        except grpc.RpcError as error:
            raise error_of(error) from error
        except ValueError as error:
            raise _gone(error) from error


def _gone(error: ValueError) -> EngineError:
    """Return the error for a channel that is closed: the engine was stopped."""
    return EngineError.of("ENGINE_UNAVAILABLE", f"The engine is gone: {error}", "08006")


def arrow_stream(table: Any) -> bytes:
    """Return a pyarrow.Table as a stream, with one batch at least."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in table.to_batches() or [pa.RecordBatch.from_pylist([], table.schema)]:
            writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def open_channel(target: str) -> Any:
    """Return a channel to an engine's server that asks for no credential."""
    # Of a Unix socket, gRPC would make the path the authority, which is none by HTTP's rules.
    return grpc.insecure_channel(target, options=[*CHANNEL_OPTIONS, ("grpc.default_authority", "localhost")])


def connect_stub(channel: Any) -> Any:
    """Return the service stub on a channel."""
    return base_pb2_grpc.SparkConnectServiceStub(channel)


def error_of(error: Any) -> EngineError:
    """Return the engine error in a gRPC failure."""
    gone = "Channel closed" in (error.details() or "")
    if gone or error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
        return EngineError.of("ENGINE_UNAVAILABLE", f"The engine does not answer: {error.details()}", "08006")
    text, (reason, metadata) = error.details() or "", _info(error)
    condition, sqlstate = metadata.get("errorClass", ""), metadata.get("sqlState", "")
    if not condition or not sqlstate:
        return from_engine(text, java_class=reason)
    classes = json.loads(metadata.get("classes") or "[]")
    return from_spark(text, condition=condition, sqlstate=sqlstate, classes=classes or [reason])


def _info(error: Any) -> tuple[str, dict[str, str]]:
    """Return reason (the exception's class) and metadata of an error (google.rpc.ErrorInfo), or nothing."""
    status, info = rpc_status.from_call(error), ErrorInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info):
            return info.reason, dict(info.metadata)
    return "", {}


def _table(buffers: list[bytes]) -> Any:
    tables = [pa.ipc.open_stream(buffer).read_all() for buffer in buffers]
    if not tables:
        return pa.table({})
    return pa.concat_tables(tables) if len(tables) > 1 else tables[0]


# --- what the endpoint itself answers


def responses(request: Any, table: Any, server_session: str) -> Iterator[bytes]:
    """Yield the answer to a SQL command carried out here: its rows as a local relation, then the end."""
    # The engine refuses a relation without columns, so what has no result gets an empty one.
    table = table if table.column_names else pa.table({"result": pa.array([], pa.string())})
    relation = pb.Relation(local_relation=pb.LocalRelation(data=arrow_stream(table)))
    rows = pb.ExecutePlanResponse.SqlCommandResult(relation=relation)
    for part in (
        {"sql_command_result": rows},
        {"result_complete": pb.ExecutePlanResponse.ResultComplete()},
    ):
        yield pb.ExecutePlanResponse(
            session_id=request.session_id, server_side_session_id=server_session,
            operation_id=request.operation_id, response_id=str(uuid.uuid4()), **part,
        ).SerializeToString()  # fmt: skip


def abort(context: Any, error: EngineError) -> None:
    """End a call with an error that pyspark turns into its own exception, with condition and SQLSTATE."""
    message = error.message[:_MAX_MESSAGE]
    metadata = {
        "classes": json.dumps(error.classes), "errorClass": error.condition, "sqlState": error.sqlstate,
    }  # fmt: skip
    detail = AnyMessage()
    detail.Pack(ErrorInfo(reason=error.java_class, domain="org.apache.spark", metadata=metadata))
    status = Status(code=grpc.StatusCode.INTERNAL.value[0], message=message, details=[detail])
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(grpc.StatusCode.INTERNAL, message)

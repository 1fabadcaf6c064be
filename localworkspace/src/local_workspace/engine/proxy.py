"""The Spark Connect endpoint of job processes: a gRPC server in front of the engine.

Every request passes through as bytes, except plans: those first bring their session up to date with the
catalog tree, and SQL commands that the engine lacks are carried out here.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from .errors import EngineError
from .jobs import JobRequest
from .servers import Servers
from .session import Backend, CatalogSession, StatementResult
from .wire import CHANNEL_OPTIONS, JOB_HEADER, ConnectClient, arrow_stream, error_of

_SERVICE = "spark.connect.SparkConnectService"
_UNARY = {
    "Config": "ConfigRequest",
    "ArtifactStatus": "ArtifactStatusesRequest",
    "Interrupt": "InterruptRequest",
    "FetchErrorDetails": "FetchErrorDetailsRequest",
    "CloneSession": "CloneSessionRequest",
    "GetStatus": "GetStatusRequest",
    "ReleaseExecute": "ReleaseExecuteRequest",
}
# A session of no job of ours (a notebook on this machine) ends when nobody used it for so long, in seconds.
_IDLE_S = 8 * 3600.0
# A job's long query holds a thread, and so does each of its reattached streams.
_THREADS = 128
_MAX_MESSAGE = 2048  # gRPC carries an error's message in a header, whose size is limited


class ConnectProxy:
    """Serves Spark Connect on loopback for one engine."""

    def __init__(
        self, backend: Backend, servers: Servers, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._backend, self._servers, self._clock = backend, servers, clock
        self._sessions: dict[tuple[str, str], _Entry] = {}
        self._guard = threading.Lock()
        self._server: Any = None

    def start(self) -> int:
        """Start serving; the port."""
        import grpc

        threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="connect")
        server = grpc.server(threads, options=CHANNEL_OPTIONS)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, self._handlers()),))
        port: int = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self._server = server
        return port

    def stop(self) -> None:
        """Stop serving; streams that run are cut."""
        self._server.stop(grace=0).wait()

    def end_job(self, job: str) -> None:
        """End the sessions of a job, and what still runs in them."""
        self._end(lambda entry: entry.job == job)

    def _end(self, chosen: Callable[[_Entry], bool]) -> None:
        with self._guard:
            over = [key for key, entry in self._sessions.items() if chosen(entry)]
            entries = [self._sessions.pop(key) for key in over]
        for entry in entries:
            with suppress(EngineError):  # an engine that has gone has taken its sessions along
                entry.session.client.release()

    def _handlers(self) -> dict[str, Any]:
        import grpc

        handlers = {name: grpc.unary_unary_rpc_method_handler(self._unary(name)) for name in _UNARY}
        handlers["AnalyzePlan"] = grpc.unary_unary_rpc_method_handler(self._analyze)
        handlers["CloneSession"] = grpc.unary_unary_rpc_method_handler(self._clone_session)
        handlers["ReleaseExecute"] = grpc.unary_unary_rpc_method_handler(self._release_execute)
        handlers["ReleaseSession"] = grpc.unary_unary_rpc_method_handler(self._release_session)
        handlers["ExecutePlan"] = grpc.unary_stream_rpc_method_handler(self._execute)
        handlers["ReattachExecute"] = grpc.unary_stream_rpc_method_handler(self._reattach)
        handlers["AddArtifacts"] = grpc.stream_unary_rpc_method_handler(self._add_artifacts)
        return handlers

    # --- plans

    def _execute(self, body: bytes, context: Any) -> Iterator[bytes]:
        import grpc
        import pyspark.sql.connect.proto as pb

        request = pb.ExecutePlanRequest.FromString(body)
        request.operation_id = request.operation_id or str(uuid.uuid4())
        try:
            session = self._session(request, context)
            client = session.client
            job = JobRequest(session, request)
            result = job.prepare()
            if result is not None:
                self._entry(request, context).answered.add(request.operation_id)
                yield from _responses(request, result, client.server_session_id)
                return
            client.counted()
            with job.writing():
                call = _stream(client, "ExecutePlan")(request.SerializeToString())
                # A job that is killed leaves its statement running, unless somebody stops it.
                context.add_callback(lambda: _stop(client.server.stub, request, call))
                yield from call
        except EngineError as error:
            _abort(context, error)
        except grpc.RpcError as error:
            _abort(context, error_of(error))

    def _analyze(self, body: bytes, context: Any) -> Any:
        import grpc
        import pyspark.sql.connect.proto as pb

        request = pb.AnalyzePlanRequest.FromString(body)
        try:
            session = self._session(request, context)
            JobRequest(session, request).prepare()
            session.client.counted()
            return _call(session.client, "AnalyzePlan")(request.SerializeToString())
        except EngineError as error:
            return _abort(context, error)
        except grpc.RpcError as error:
            return _abort(context, error_of(error))

    def _session(self, request: Any, context: Any) -> CatalogSession:
        return self._entry(request, context).session

    def _entry(self, request: Any, context: Any) -> _Entry:
        """The session of a request, new if need be. Raises `EngineError`."""
        key = _key(request)
        now = self._clock()
        with self._guard:
            entry = self._sessions.get(key)
            if entry is None:
                client = ConnectClient(self._servers, session_id=key[1], user_id=key[0])
                job = dict(context.invocation_metadata()).get(JOB_HEADER)
                entry = self._sessions[key] = _Entry(self._backend.session(client), job)
                fresh = True
            else:
                fresh = False
            entry.used = now
        if fresh:
            self._end(lambda each: each.job is None and each.used < now - _IDLE_S)
        return entry

    # --- the rest, as bytes

    def _unary(self, method: str) -> Any:
        import pyspark.sql.connect.proto as pb

        message = getattr(pb, _UNARY[method])

        def forward(body: bytes, context: Any) -> Any:
            import grpc

            try:
                client = self._session(message.FromString(body), context).client
                return _call(client, method)(body)
            except EngineError as error:
                return _abort(context, error)
            except grpc.RpcError as error:
                return _relay(context, error)

        return forward

    def _clone_session(self, body: bytes, context: Any) -> Any:
        """Clone a session. Its catalog and schema are the clone's, too, and so is the job."""
        import pyspark.sql.connect.proto as pb

        request = pb.CloneSessionRequest.FromString(body)
        answer = self._unary("CloneSession")(body, context)
        made = pb.CloneSessionResponse.FromString(answer)
        entry = self._entry(request, context)
        user_id = request.user_context.user_id
        client = ConnectClient(self._servers, session_id=made.new_session_id, user_id=user_id)
        clone = _Entry(self._backend.session(client), entry.job)
        clone.session.namespace, clone.used = entry.session.namespace, self._clock()
        with self._guard:
            self._sessions[user_id, made.new_session_id] = clone
        return answer

    def _reattach(self, body: bytes, context: Any) -> Iterator[bytes]:
        import grpc
        import pyspark.sql.connect.proto as pb

        try:
            client = self._session(pb.ReattachExecuteRequest.FromString(body), context).client
            call = _stream(client, "ReattachExecute")(body)
            context.add_callback(call.cancel)
            yield from call
        except EngineError as error:
            _abort(context, error)
        except grpc.RpcError as error:
            _relay(context, error)

    def _add_artifacts(self, bodies: Iterator[bytes], context: Any) -> Any:
        import grpc
        import pyspark.sql.connect.proto as pb

        try:
            first = next(bodies)  # each part names the session
            client = self._session(pb.AddArtifactsRequest.FromString(first), context).client
            channel = client.server.channel
            return channel.stream_unary(f"/{_SERVICE}/AddArtifacts")(itertools.chain([first], bodies))
        except EngineError as error:
            return _abort(context, error)
        except grpc.RpcError as error:
            return _relay(context, error)

    def _release_execute(self, body: bytes, context: Any) -> Any:
        """Release an operation; one that was answered here, the engine has never heard of."""
        import pyspark.sql.connect.proto as pb

        request = pb.ReleaseExecuteRequest.FromString(body)
        try:
            entry = self._entry(request, context)
        except EngineError as error:
            return _abort(context, error)
        ours = request.operation_id in entry.answered
        if request.HasField("release_all"):
            entry.answered.discard(request.operation_id)
        if not ours:
            return self._unary("ReleaseExecute")(body, context)
        return pb.ReleaseExecuteResponse(
            session_id=request.session_id,
            server_side_session_id=entry.session.client.server_session_id,
            operation_id=request.operation_id,
        ).SerializeToString()

    def _release_session(self, body: bytes, context: Any) -> Any:
        import grpc
        import pyspark.sql.connect.proto as pb

        request = pb.ReleaseSessionRequest.FromString(body)
        with self._guard:
            entry = self._sessions.pop(_key(request), None)
        if entry is None:  # it never did anything, or has been ended already
            return pb.ReleaseSessionResponse(session_id=request.session_id).SerializeToString()
        client = entry.session.client
        try:
            return _call(client, "ReleaseSession")(body)
        except grpc.RpcError as error:
            return _relay(context, error)
        finally:
            client.leave()


class _Entry:
    """A session of the endpoint: whose it is (None: no job's), when it was last used, and which operations
    were answered here.
    """

    def __init__(self, session: CatalogSession, job: str | None) -> None:
        self.session, self.job, self.used = session, job, 0.0
        self.answered: set[str] = set()


def _key(request: Any) -> tuple[str, str]:
    return request.user_context.user_id, request.session_id


def _call(client: ConnectClient, method: str) -> Any:
    """A call with one answer, as bytes."""
    return client.server.channel.unary_unary(f"/{_SERVICE}/{method}")


def _stream(client: ConnectClient, method: str) -> Any:
    """A call with a stream of answers, as bytes."""
    return client.server.channel.unary_stream(f"/{_SERVICE}/{method}")


def _stop(stub: Any, request: Any, call: Any) -> None:
    """Stop a statement whose client has gone."""
    import pyspark.sql.connect.proto as pb

    if call.done() or not call.is_active():
        return
    interrupt = pb.InterruptRequest(
        session_id=request.session_id,
        user_context=request.user_context,
        interrupt_type=pb.InterruptRequest.INTERRUPT_TYPE_OPERATION_ID,
        operation_id=request.operation_id,
    )
    # In a thread: the callback runs on the one that serves every job.
    threading.Thread(target=_quietly, args=(stub.Interrupt, interrupt), daemon=True).start()
    call.cancel()


def _quietly(method: Any, request: Any) -> None:
    import grpc

    # An engine that has stopped in the meantime runs nothing any more, and nobody waits for an answer.
    with suppress(grpc.RpcError, ValueError):
        method(request)


def _responses(request: Any, result: StatementResult, server_session: str) -> Iterator[bytes]:
    """The answer to a SQL command carried out here: its rows as a local relation, then the end."""
    import pyarrow as pa
    import pyspark.sql.connect.proto as pb

    # The engine refuses a relation without columns, so what has no result gets an empty one.
    table = result.table if result.table.column_names else pa.table({"result": pa.array([], pa.string())})
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


def _relay(context: Any, error: Any) -> None:
    """Hand an error on as it came."""
    context.set_trailing_metadata(
        tuple(pair for pair in error.trailing_metadata() or () if pair[0] == "grpc-status-details-bin")
    )
    context.abort(error.code(), error.details())


def _abort(context: Any, error: EngineError) -> None:
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

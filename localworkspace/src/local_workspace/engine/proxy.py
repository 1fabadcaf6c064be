"""The Spark Connect endpoint of job processes: a gRPC server in front of the engine.

Every request passes through as bytes, except plans: those first bring their session up to date with the
catalog tree, and SQL commands that the engine lacks are carried out here. Every request carries a bearer
token: the workspace's, or one that a job was given.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import pyspark.sql.connect.proto as pb

from local_workspace import threads

from .backends import Backend
from .errors import EngineError, session_lost
from .plans import JobRequest
from .servers import EngineServer, Servers
from .session import CatalogSession
from .wire import CHANNEL_OPTIONS, ConnectClient, abort, error_of, responses

_SERVICE = "spark.connect.SparkConnectService"
_UNARY = {
    "Config": pb.ConfigRequest, "ArtifactStatus": pb.ArtifactStatusesRequest,
    "Interrupt": pb.InterruptRequest, "FetchErrorDetails": pb.FetchErrorDetailsRequest,
    "CloneSession": pb.CloneSessionRequest, "GetStatus": pb.GetStatusRequest,
    "ReleaseExecute": pb.ReleaseExecuteRequest,
}  # fmt: skip
# A session of no job of ours (a notebook on this machine) ends when nobody used it for so long, in seconds.
_IDLE_S = 8 * 3600.0
# A job's long query holds a thread, and so does each of its reattached streams.
_THREADS = 128
_STOP_SECONDS = 5.0
_WATCH_SECONDS = 2.0
_SILENT = 3  # calls in a row without an answer


class ConnectProxy:
    """Serves Spark Connect on loopback for one engine."""

    def __init__(self, backend: Backend, servers: Servers, token: str) -> None:
        self._backend, self._servers = backend, servers
        # The header of each caller that is let in, and the job that it is (None: no job of ours).
        self._callers: dict[str, str | None] = {f"Bearer {token}": None}
        self._sessions: dict[tuple[str, str], _Entry] = {}
        self._guard = threading.Lock()
        self._server: Any = None
        self._token, self._ended = token, threading.Event()

    def start(self) -> int:
        """Start serving; the port."""
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="connect")
        server = grpc.server(pool, options=CHANNEL_OPTIONS, interceptors=[_guard(self._callers)])
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, self._handlers()),))
        port: int = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self._server = server
        threads.begin("connect-watch", self._watch, port, essential=True)
        return port

    def _watch(self, port: int) -> None:
        """In a thread of its own: end the workspace when jobs get no answer here any more."""
        metadata, silent = (("authorization", f"Bearer {self._token}"),), 0
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            ask = channel.unary_unary(f"/{_SERVICE}/Alive")  # no such call: it needs no thread of the pool
            while not self._ended.wait(_WATCH_SECONDS):
                try:
                    ask(b"", timeout=_STOP_SECONDS, metadata=metadata)
                except grpc.RpcError as error:
                    silent = 0 if error.code() == grpc.StatusCode.UNIMPLEMENTED else silent + 1
                if silent >= _SILENT and not self._ended.is_set():
                    threads.fatal("its Spark Connect endpoint answers nobody any more")
                    return

    def stop(self) -> None:
        """Stop serving; streams that run are cut."""
        self._ended.set()
        self._server.stop(grace=0).wait(_STOP_SECONDS)

    def admit(self, job: str) -> str:
        """Return a token for one job, good until `end_job`."""
        token = secrets.token_hex(24)
        self._callers[f"Bearer {token}"] = job
        return token

    def end_job(self, job: str) -> None:
        """End the sessions of a job, what still runs in them, and its access."""
        for header in [header for header, known in self._callers.items() if known == job]:
            self._callers.pop(header, None)
        self._end(lambda entry: entry.job == job)

    def jobs_on(self, server: EngineServer) -> set[str]:
        """Return the jobs that have a session on a server."""
        with self._guard:
            on = [entry for entry in self._sessions.values() if entry.session.client.server is server]
        return {entry.job for entry in on if entry.job is not None}

    def _end(self, chosen: Callable[[_Entry], bool]) -> None:
        with self._guard:
            over = [key for key, entry in self._sessions.items() if chosen(entry)]
            entries = [self._sessions.pop(key) for key in over]
        for entry in entries:
            with suppress(EngineError):  # an engine that has gone has taken its sessions along
                entry.session.client.release()

    def _handlers(self) -> dict[str, Any]:
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
        request = pb.ExecutePlanRequest.FromString(body)
        request.operation_id = request.operation_id or str(uuid.uuid4())
        with _failing(context, error_of):
            session = self._session(request, context)
            client = session.client
            job = JobRequest(session, request)
            result = job.prepare()
            if result is not None:
                self._entry(request, context).answered.add(request.operation_id)
                yield from responses(request, result.table, client.server_session_id)
                return
            with client.counted(), job.writing():
                call = _call(client, "ExecutePlan", "unary_stream")(request.SerializeToString())
                # A job that is killed leaves its statement running, unless somebody stops it.
                context.add_callback(lambda: _stop(client.server, request, call))
                yield from call

    def _analyze(self, body: bytes, context: Any) -> Any:
        request = pb.AnalyzePlanRequest.FromString(body)
        with _failing(context, error_of):
            session = self._session(request, context)
            JobRequest(session, request).prepare()
            with session.client.counted():
                return _call(session.client, "AnalyzePlan")(request.SerializeToString())

    def _session(self, request: Any, context: Any) -> CatalogSession:
        return self._entry(request, context).session

    def _entry(self, request: Any, context: Any) -> _Entry:
        """The session of a request, new if need be. Raises `EngineError`."""
        key = _key(request)
        now = time.monotonic()
        with self._guard:
            entry = self._sessions.get(key)
        job = self._callers.get(_authorization(context.invocation_metadata()))
        if entry is None:
            # Not with the guard held: there may be no engine for some seconds, and others are not to wait.
            client = ConnectClient(self._servers, session_id=key[1], user_id=key[0])
            made = _Entry(self._backend.session(client), job)
            with self._guard:
                entry = self._sessions.setdefault(key, made)
            if entry is not made:
                client.leave()
            self._end(lambda each: each.job is None and 0 < each.used < now - _IDLE_S)
        entry.used = now
        if entry.session.client.lost or entry.job not in {job, None}:  # another job's session is none of its
            raise session_lost()
        return entry

    # --- the rest, as bytes

    def _unary(self, method: str) -> Any:
        def forward(body: bytes, context: Any) -> Any:
            with _failing(context):
                client = self._session(_UNARY[method].FromString(body), context).client
                return _call(client, method)(body)

        return forward

    def _clone_session(self, body: bytes, context: Any) -> Any:
        """Clone a session. Its catalog and schema are the clone's, too, and so is the job."""
        request = pb.CloneSessionRequest.FromString(body)
        answer = self._unary("CloneSession")(body, context)
        made = pb.CloneSessionResponse.FromString(answer)
        entry = self._entry(request, context)
        user_id = request.user_context.user_id
        client = ConnectClient(self._servers, session_id=made.new_session_id, user_id=user_id)
        clone = _Entry(self._backend.session(client), entry.job)
        clone.session.namespace, clone.used = entry.session.namespace, time.monotonic()
        with self._guard:
            self._sessions[user_id, made.new_session_id] = clone
        return answer

    def _reattach(self, body: bytes, context: Any) -> Iterator[bytes]:
        with _failing(context):
            client = self._session(pb.ReattachExecuteRequest.FromString(body), context).client
            call = _call(client, "ReattachExecute", "unary_stream")(body)
            context.add_callback(call.cancel)
            yield from call

    def _add_artifacts(self, bodies: Iterator[bytes], context: Any) -> Any:
        with _failing(context):
            first = next(bodies)  # each part names the session
            client = self._session(pb.AddArtifactsRequest.FromString(first), context).client
            return _call(client, "AddArtifacts", "stream_unary")(itertools.chain([first], bodies))

    def _release_execute(self, body: bytes, context: Any) -> Any:
        """Release an operation; one that was answered here, the engine has never heard of."""
        request = pb.ReleaseExecuteRequest.FromString(body)
        with _failing(context):
            entry = self._entry(request, context)
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
        request = pb.ReleaseSessionRequest.FromString(body)
        with self._guard:
            entry = self._sessions.pop(_key(request), None)
        if entry is None:  # it never did anything, or has been ended already
            return pb.ReleaseSessionResponse(session_id=request.session_id).SerializeToString()
        client = entry.session.client
        try:
            if client.lost:  # it has gone with its engine
                return pb.ReleaseSessionResponse(session_id=request.session_id).SerializeToString()
            with _failing(context):
                return _call(client, "ReleaseSession")(body)
        finally:
            client.leave()


@contextmanager
def _failing(
    context: Any, translated: Callable[[grpc.RpcError], EngineError] | None = None
) -> Iterator[None]:
    """End the call with the error that is raised within; an engine's own as it came, unless `translated`."""
    try:
        yield
    except EngineError as error:
        abort(context, error)
    except grpc.RpcError as error:
        if translated is not None:
            abort(context, translated(error))
        else:
            said = error.trailing_metadata() or ()
            context.set_trailing_metadata(
                tuple(pair for pair in said if pair[0] == "grpc-status-details-bin")
            )
            context.abort(error.code(), error.details())


def _authorization(metadata: Any) -> str:
    return str(dict(metadata or ()).get("authorization", ""))


def _guard(callers: Mapping[str, str | None]) -> Any:
    """Return the interceptor that lets in who has a token."""

    def refuse(_request: Any, context: Any) -> None:
        text = "Spark Connect here needs a token: use the whole URL, as in SPARK_REMOTE or `spark_connect`."
        context.abort(grpc.StatusCode.UNAUTHENTICATED, text)

    refusal = grpc.unary_unary_rpc_method_handler(refuse)

    class Guard(grpc.ServerInterceptor):  # type: ignore[misc] # grpc ships no types
        def intercept_service(self, continuation: Any, call: Any) -> Any:
            known = _authorization(call.invocation_metadata) in callers
            return continuation(call) if known else refusal

    return Guard()


class _Entry:
    """A session of the endpoint: its job, if any, when it was last used, what was answered here."""

    def __init__(self, session: CatalogSession, job: str | None) -> None:
        self.session, self.job, self.used = session, job, 0.0
        self.answered: set[str] = set()


def _key(request: Any) -> tuple[str, str]:
    return request.user_context.user_id, request.session_id


def _call(client: ConnectClient, method: str, kind: str = "unary_unary") -> Any:
    """Return a call of the engine, as bytes; `kind` says whether it takes or answers a stream."""
    if client.lost:
        raise session_lost()
    return getattr(client.server.channel, kind)(f"/{_SERVICE}/{method}")


def _stop(server: EngineServer, request: Any, call: Any) -> None:
    """Stop a statement whose client has gone."""
    if call.done() or not call.is_active():
        return
    server.cancelled = True
    interrupt = pb.InterruptRequest(
        session_id=request.session_id,
        user_context=request.user_context,
        interrupt_type=pb.InterruptRequest.INTERRUPT_TYPE_OPERATION_ID,
        operation_id=request.operation_id,
    )
    # In a thread: the callback runs on the one that serves every job.
    threads.begin("interrupt", _quietly, server.stub.Interrupt, interrupt)
    call.cancel()


def _quietly(method: Any, request: Any) -> None:
    # An engine that has stopped in the meantime runs nothing any more, and nobody waits for an answer.
    with suppress(grpc.RpcError, ValueError):
        method(request, timeout=_STOP_SECONDS)

"""HTTP: from requests to plain functions and back, and the server underneath."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email
import email.policy
import errno
import json
import signal
import socket
import sqlite3
import traceback
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio.to_thread
import uvicorn
from starlette.concurrency import run_in_threadpool
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from local_workspace import threads
from local_workspace.errors import ApiError, invalid
from local_workspace.options import WORKSPACE_ID
from local_workspace.tls import Certificate

# A client that pauses in its work must not find its connection closed under the next request.
_KEEP_ALIVE_S = 600
_SHUTDOWN_S = 1
# So many seconds after a client's connection was closed, what it waited for is given up.
GONE_S = 5.0
# Long statements occupy a thread each; short requests must still find one.
_THREADS = 200

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
_HEADERS = {"x-databricks-org-id": WORKSPACE_ID}

Json = dict[str, Any]


class Shape(Protocol):
    """A dataclass of databricks-sdk, which knows its JSON."""

    def as_dict(self) -> Json:
        """The JSON document."""


Reply = Shape | Json | Response | None


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request, parsed: query parameters, JSON body, parameters of the path; and how it came."""

    query: Mapping[str, str] = field(default_factory=dict)
    body: Json = field(default_factory=dict)
    path: Mapping[str, Any] = field(default_factory=dict)
    connection: Connection | None = None

    def value(self, name: str) -> Any:
        """A required value of the path, the body or the query. Raises ApiError (400)."""
        for source in (self.path, self.body, self.query):
            if source.get(name) not in (None, ""):
                return source[name]
        raise invalid(f"Missing required field: {name}")

    def text(self, name: str) -> str:
        """A required string. Raises ApiError (400)."""
        found = self.value(name)
        if not isinstance(found, str):
            raise invalid(f"{name} must be a string")
        return found

    def number(self, name: str, default: int | None = None) -> int:
        """An integer of any source; required unless a default is given. Raises ApiError (400)."""
        if default is not None and all(s.get(name) is None for s in (self.path, self.body, self.query)):
            return default
        found = self.value(name)
        try:
            return int(found)
        except (TypeError, ValueError):
            raise invalid(f"{name} must be an integer, not {found!r}") from None

    def content(self, name: str) -> bytes:
        """The bytes of a field of the body that is in base64; none without it. Raises ApiError (400)."""
        return decoded(self.body.get(name) or "", name)

    def flag(self, name: str) -> bool:
        """A boolean of the query or the body; false without it."""
        found = self.body.get(name, self.query.get(name))
        return str(found).lower() == "true"


def decoded(text: Any, name: str) -> bytes:
    """Return the bytes of a base64 text, which `name` calls. Raises ApiError (400)."""
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError):
        raise invalid(f"{name} must be base64") from None


class _ShortInteger(IntegerConvertor):
    """An `int` of a path. Python takes thousands of digits for no number, which would be a 500."""

    regex = "[0-9]{1,18}"


register_url_convertor("int", _ShortInteger())


def reply(document: Reply, status: int = 200) -> Response:
    """The JSON response of a document; None is an empty one. A response is returned as it is."""
    if isinstance(document, Response):
        return document
    if document is not None and not isinstance(document, dict):
        document = document.as_dict()
    text = json.dumps(document or {}, ensure_ascii=False, separators=(",", ":"))
    return Response(text.encode("utf-8", "replace"), status, _HEADERS, media_type="application/json")


def error_reply(error: ApiError) -> Response:
    """The response that reports an error."""
    response = reply(error.document(), error.status)
    if error.retry_after is not None:
        response.headers["retry-after"] = str(error.retry_after)
    return response


async def parse(request: Request) -> Call:
    """Read a request to its end. Raises ApiError (400) when the body is not a JSON object."""
    raw = await request.body()
    body: Any = {}
    if raw.strip():
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise ApiError(
                400, "MALFORMED_REQUEST", f"Could not parse the request as JSON: {error}"
            ) from None
        if not isinstance(body, dict):
            raise ApiError(400, "MALFORMED_REQUEST", "The request must be a JSON object")
    return Call(
        query=dict(request.query_params),
        body=body,
        path=request.path_params,
        connection=connection_of(request.scope),
    )


def is_form(request: Request) -> bool:
    """Return whether a request is multipart/form-data, as the SDK's uploads send it."""
    return request.headers.get("content-type", "").startswith("multipart/form-data")


async def upload(request: Request, name: str) -> tuple[Call, bytes]:
    """A request, and the bytes of its field `name`: in base64 in JSON, as they are in a form."""
    if not is_form(request):
        call = await parse(request)
        return call, call.content(name)
    header = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode("latin-1")
    message = email.message_from_bytes(header + await request.body(), policy=email.policy.HTTP)
    parts: dict[str, bytes] = {}
    for part in message.iter_parts() if message.is_multipart() else ():
        field_name = part.get_param("name", header="content-disposition")
        payload = part.get_payload(decode=True)
        if isinstance(field_name, str) and isinstance(payload, bytes):
            parts[field_name] = payload
    call = Call(body={key: value.decode("utf-8", "replace") for key, value in parts.items()})
    return call, parts.get(name, b"")


def route(method: str, path: str, function: Callable[[Call], Reply], refuses: str = "") -> Route:
    """Serve a plain function, in a worker thread, so that its waiting holds up nobody else.

    `refuses` names the fields of the API that would have no effect here: a request that sets one gets a 400.
    """

    def checked(call: Call) -> Reply:
        for name in refuses.split():
            if call.body.get(name) or call.query.get(name) not in {None, "", "0", "false"}:
                raise invalid(f"{name} is not supported by the local workspace: leave it out")
        return function(call)

    async def handle(request: Request) -> Reply:
        return await run_in_threadpool(checked, await parse(request))

    return async_route(method, path, handle)


def async_route(method: str, path: str, handler: Callable[[Request], Awaitable[Reply]]) -> Route:
    """Serve a coroutine function on the event loop. GET covers HEAD."""

    async def guarded(request: Request) -> Response:
        try:
            return reply(await handler(request))
        except ApiError as error:
            return error_reply(error)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody listens
        except Exception as error:  # noqa: BLE001 - the boundary: reported, and on standard error
            return error_reply(api_error(error))

    return Route(path, guarded, methods=[method])


def api_error(error: Exception) -> ApiError:
    """Return what a client is told of an exception: request, disk or workspace is at fault."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RecursionError | UnicodeError | OverflowError):
        return invalid(f"A value in the request is nested too deep, no text, or too large ({text[:200]})")
    if isinstance(error, OSError) and error.errno in {errno.ENAMETOOLONG, errno.EINVAL}:
        return invalid(f"A name in the request is too long, or none for a file ({error.strerror})")
    if isinstance(error, sqlite3.OperationalError) or getattr(error, "errno", 0) in _DISK:
        threads.say(f"A request failed: {text}")
        return ApiError(
            503, "TEMPORARILY_UNAVAILABLE", f"The workspace's disk does not take it: {text}", retry_after=1
        )
    if isinstance(error, sqlite3.DatabaseError):
        threads.say(f"A request failed: {error}")
        return ApiError(500, "INTERNAL_ERROR", str(error))
    threads.say("".join(traceback.format_exception(error)).rstrip())
    return ApiError(500, "INTERNAL_ERROR", text)


# Marks of a request's scope. Its effect must not depend on whether the client is still there:
DETACHED = "local_workspace.detached"
# The digest of a model call's prompt, for the request log:
PROMPT_DIGEST = "local_workspace.prompt_sha256"


class Work(Protocol):
    """Something that is done for one client."""

    def orphaned(self, connection: Connection) -> None:
        """Note, in a thread, that a connection by which it was asked for or about was closed a while ago."""


class Connection:
    """One client's connection, and what is being done for it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.work: weakref.WeakSet[Work] = weakref.WeakSet()

    def lost(self) -> None:
        """Tell the work, a while after the connection was closed: its client may have another one by then."""
        if self.work:
            loop = asyncio.get_running_loop()
            loop.call_later(GONE_S, threads.begin, "client-gone", self._tell)

    def _tell(self) -> None:
        for work in list(self.work):
            work.orphaned(self)


def connection_of(scope: Any) -> Connection | None:
    """Return the connection of a request; None where nothing shall depend on it."""
    client = scope.get("client")
    return _connections.get(tuple(client)) if client and DETACHED not in scope else None


_connections: dict[tuple[str, int], Connection] = {}


class WorkspaceProtocol(H11Protocol):
    """uvicorn's protocol; additionally remembers each open connection by its peer address."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Register the connection."""
        super().connection_made(transport)
        if self.client:
            _connections[self.client] = Connection(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self.client and (known := _connections.pop(self.client, None)):
            known.lost()
        super().connection_lost(exc)


def abort_connection(scope: Any) -> None:
    """Close the connection of a request at once; not one byte of a response is sent."""
    client = scope.get("client")
    known = _connections.get(tuple(client)) if client else None
    if known is not None:
        known.transport.abort()


class WorkspaceServer(uvicorn.Server):
    """uvicorn's server, ended by signals with exit code 0 (its own raises them again at the end).

    `on_ready` is called on the event loop once requests are answered, `on_end` when the end begins.
    """

    def __init__(
        self,
        app: ASGIApp,
        on_ready: Callable[[], None],
        on_end: Callable[[], None],
        trusted: Certificate | None = None,
    ) -> None:
        configuration = uvicorn.Config(
            app,
            http=WorkspaceProtocol,
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_SHUTDOWN_S,
            ssl_certfile=trusted.served if trusted else None,
            ssl_keyfile=trusted.key if trusted else None,
        )
        super().__init__(configuration)
        self._on_ready, self._on_end = on_ready, on_end

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and call `on_ready`."""
        anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
        await super().startup(sockets)
        self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT end the server in good order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        yield

    def _end(self) -> None:
        self._on_end()
        self.should_exit = True

"""The door of the server: every request is authenticated, and, under --allow-faults, logged and faulted."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from local_workspace import wire
from local_workspace.errors import ApiError, missing
from local_workspace.faults import FaultBoard, FaultRule, Logged
from local_workspace.sqltext import carries_sql, statement_of
from local_workspace.web import parse, refusal, reply

# Where the handler of a model call leaves the digest of its prompt, for the request log.
PROMPT_DIGEST = "rlm.prompt_sha256"

_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "RESOURCE_CONFLICT",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class AuthGate:
    """Lets in who carries the token. Discovery is open, as on Databricks."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self._expected = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        problem = self._check(scope) if scope["type"] == "http" else None
        if problem is None:
            await self.app(scope, receive, send)
        else:
            await refusal(problem)(scope, receive, send)

    def _check(self, scope: Scope) -> ApiError | None:
        if scope["path"].startswith("/.well-known/"):
            return None
        given = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, value = given.partition(b" ")
        if kind.lower() != b"bearer" or not value:
            return ApiError(
                401,
                "UNAUTHENTICATED",
                "Credential was not sent or was of an unsupported type for this API.",
            )
        if not secrets.compare_digest(value.strip(), self._expected):
            return ApiError(403, "PERMISSION_DENIED", "Invalid access token.")
        return None


@dataclass
class _Exchange:
    """One request on its way through the fault gate, and what became of it."""

    scope: Scope
    receive: Receive
    send: Send
    sql: str | None = None
    status: int = 0
    fault: str | None = None

    async def observe(self, message: Message) -> None:
        """Pass a response message on, noting the status."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self.send(message)


class FaultGate:
    """Logs every request and makes those go wrong that a rule says. `/_local/` itself is left alone."""

    def __init__(self, app: ASGIApp, board: FaultBoard) -> None:
        self.app = app
        self.board = board

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["path"].startswith("/_local/"):
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        started, clock = time.time(), time.perf_counter()
        try:
            await self._serve(exchange)
        finally:
            self.board.record(
                Logged(
                    method=scope["method"],
                    path=scope["path"],
                    sql=exchange.sql,
                    status=exchange.status,
                    time=int(started * 1000),
                    duration_ms=round((time.perf_counter() - clock) * 1000, 3),
                    client=dict(scope["headers"]).get(b"user-agent", b"").decode("latin-1"),
                    fault=exchange.fault,
                    prompt_sha256=scope.get(PROMPT_DIGEST),
                )
            )

    async def _serve(self, exchange: _Exchange) -> None:
        scope = exchange.scope
        if carries_sql(scope["method"], scope["path"]):
            body = await _drain(exchange)
            exchange.sql = statement_of(scope["path"], body)
        rule = self.board.strike(scope["method"], scope["path"], exchange.sql)
        if rule is None:
            await self.app(scope, exchange.receive, exchange.observe)
            return
        exchange.fault = rule.action
        await _drain(exchange)  # the effect must not depend on whether the client still lives
        if rule.after_effect:
            messages: list[Message] = []
            await self.app(scope, exchange.receive, _into(messages))
            await self._tamper(rule, exchange, _replay(messages))
        else:
            await self._tamper(rule, exchange, self.app)

    async def _tamper(self, rule: FaultRule, exchange: _Exchange, proceed: ASGIApp) -> None:
        """Do what the rule says; `proceed` is the handler, or the reply that it has already given."""
        scope = exchange.scope
        dropped = rule.action == "drop"
        if rule.action == "status":
            await _faulted(rule)(scope, exchange.receive, exchange.observe)
            return
        if rule.action == "delay":
            await asyncio.sleep(rule.delay_s)
        if rule.action == "hold":
            dropped = await self._hold(rule, exchange)
        if dropped:
            wire.cut(scope)
            while (await exchange.receive())["type"] != "http.disconnect":
                pass  # uvicorn would answer 500 if this returned while the connection looks open
        else:
            await proceed(scope, exchange.receive, exchange.observe)

    async def _hold(self, rule: FaultRule, exchange: _Exchange) -> bool:
        scope = exchange.scope
        now = int(time.time() * 1000)
        held = self.board.hold(rule, scope["method"], scope["path"], exchange.sql, now)
        try:
            await held.released.wait()
        finally:
            self.board.held.pop(held.id, None)
        return held.drop


async def _drain(exchange: _Exchange) -> bytes:
    """Read the whole body and put it back for whoever reads next."""
    chunks: list[bytes] = []
    original = exchange.receive
    while True:
        message = await original()
        if message["type"] != "http.request":
            break
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            break
    body = b"".join(chunks)
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await original()

    exchange.receive = again
    return body


def _into(messages: list[Message]) -> Callable[[Message], Awaitable[None]]:
    async def keep(message: Message) -> None:
        messages.append(message)

    return keep


def _replay(messages: list[Message]) -> ASGIApp:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


def _faulted(rule: FaultRule) -> Response:
    code = _CODES.get(rule.status, "INTERNAL_ERROR")
    response = reply({"error_code": code, "message": "Injected by the fault control"}, rule.status)
    if rule.retry_after is not None:
        response.headers["retry-after"] = str(rule.retry_after)
    return response


def control_routes(board: FaultBoard) -> list[Route]:
    """The fault control's own API, below `/_local/`. Its handlers run on the event loop."""

    async def faults(request: Request) -> dict[str, Any]:
        if request.method == "DELETE":
            board.clear()
        if request.method == "POST":
            body = (await parse(request)).body
            documents = body["rules"] if isinstance(body.get("rules"), list) else [body]
            board.add([FaultRule.parse(document) for document in documents])
        return {"rules": board.rules()}

    async def held(_request: Request) -> dict[str, Any]:
        return {"held": [item.document() for item in board.held.values()]}

    async def release(request: Request) -> dict[str, Any]:
        item = board.held.get(request.path_params["id"])
        if item is None:
            raise missing(f"No request is held under the id {request.path_params['id']}")
        item.drop = (await parse(request)).flag("drop")
        item.released.set()
        return {}

    async def requests(request: Request) -> dict[str, Any]:
        if request.method == "DELETE":
            board.forget()
        return {"requests": [vars(entry) for entry in list(board.log)]}

    return [
        _control("/_local/faults", faults, ["GET", "POST", "DELETE"]),
        _control("/_local/held", held, ["GET"]),
        _control("/_local/held/{id:int}/release", release, ["POST"]),
        _control("/_local/requests", requests, ["GET", "DELETE"]),
    ]


def _control(
    path: str, function: Callable[[Request], Awaitable[dict[str, Any]]], methods: list[str]
) -> Route:
    async def handle(request: Request) -> Response:
        try:
            return reply(await function(request))
        except ApiError as problem:
            return refusal(problem)

    return Route(path, handle, methods=methods)

"""ASGI middleware: authentication, and, under --allow-faults, the request log and injected faults."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from local_workspace.errors import ApiError, injected
from local_workspace.faults import PROMPT_DIGEST, FaultControl, FaultRule, LogEntry
from local_workspace.http import DETACHED, abort_connection, api_error, error_reply
from local_workspace.signed import Signer, is_signed

_THRIFT = "/sql/1.0/warehouses/"
_STATEMENTS = "/api/2.0/sql/statements"


class Authentication:
    """Admits requests that carry the token, or a signature. Discovery is open, as on Databricks."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self._expected = token.encode()
        self._signer = Signer("", token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        error = self._check(scope) if scope["type"] == "http" else None
        if error is not None:
            await error_reply(error)(scope, receive, send)
            return
        started = False

        async def observed(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, observed)
        except Exception as problem:  # noqa: BLE001 - the outermost boundary: reported, and on standard error
            reply = error_reply(api_error(problem))
            if not started:
                await reply(scope, receive, send)

    def _check(self, scope: Scope) -> ApiError | None:
        if scope["path"].startswith("/.well-known/"):
            return None
        given = dict(scope["headers"]).get(b"authorization", b"")
        query = scope["query_string"]
        if not given and is_signed(query):
            if self._signer.admits(scope["method"], scope["path"], query):
                return None
            return ApiError(403, "PERMISSION_DENIED", "The link has expired, or is for another request.")
        kind, _, value = given.partition(b" ")
        if kind.lower() != b"bearer" or not value:
            message = "Credential was not sent or was of an unsupported type for this API."
            return ApiError(401, "UNAUTHENTICATED", message)
        if not secrets.compare_digest(value.strip(), self._expected):
            return ApiError(403, "PERMISSION_DENIED", "Invalid access token.")
        return None


@dataclass
class _Exchange:
    """One request on its way through the fault injection, and its outcome."""

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


class FaultInjection:
    """Logs every request, and makes those fail that a rule applies to. `/_local/` itself is exempt."""

    def __init__(self, app: ASGIApp, control: FaultControl) -> None:
        self.app = app
        self._control = control

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
            self._control.record(
                LogEntry(
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
        rule = self._control.next_fault(scope["method"], scope["path"], exchange.sql)
        if rule is None:
            await self.app(scope, exchange.receive, exchange.observe)
            return
        exchange.fault = rule.action
        scope[DETACHED] = True
        await _drain(exchange)  # the effect must not depend on whether the client still lives
        if rule.after_effect:
            messages: list[Message] = []
            await self.app(scope, exchange.receive, _into(messages))
            await self._apply(rule, exchange, _replay(messages))
        else:
            await self._apply(rule, exchange, self.app)

    async def _apply(self, rule: FaultRule, exchange: _Exchange, proceed: ASGIApp) -> None:
        """Carry out a rule. `proceed` is the application, or the reply that it has already given."""
        scope = exchange.scope
        dropped = rule.action == "drop"
        if rule.action == "status":
            error = injected(rule.status, "Injected by the fault control", rule.retry_after)
            await error_reply(error)(scope, exchange.receive, exchange.observe)
            return
        if rule.action == "delay":
            await asyncio.sleep(rule.delay_s)
        if rule.action == "hold":
            dropped = await self._hold(rule, exchange)
        if dropped:
            abort_connection(scope)
            while (await exchange.receive())["type"] != "http.disconnect":
                pass  # uvicorn would answer 500 if this returned while the connection looks open
        else:
            await proceed(scope, exchange.receive, exchange.observe)

    async def _hold(self, rule: FaultRule, exchange: _Exchange) -> bool:
        scope = exchange.scope
        now = int(time.time() * 1000)
        held = self._control.hold(rule, scope["method"], scope["path"], exchange.sql, now)
        try:
            await held.released.wait()
        finally:
            self._control.held.pop(held.id, None)
        return held.drop


async def _drain(exchange: _Exchange) -> bytes:
    """Read the whole body, and make the next reader receive it again."""
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


def carries_sql(method: str, path: str) -> bool:
    """Return whether requests of this kind may have a SQL statement in their body."""
    return method == "POST" and (path.startswith(_THRIFT) or path.rstrip("/") == _STATEMENTS)


def statement_of(path: str, body: bytes) -> str | None:
    """The SQL text in a request's body, or None (another call of the protocol, or not readable)."""
    if path.startswith(_THRIFT):
        from local_workspace.warehouse.calls import sql_of

        return sql_of(body)
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    statement = document.get("statement") if isinstance(document, dict) else None
    return statement if isinstance(statement, str) else None

"""Fault control: rules for which requests fail and how, held requests, the request log; and its API."""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from local_workspace.errors import injected, invalid, missing
from local_workspace.http import (
    DETACHED,
    PROMPT_DIGEST,
    Call,
    Json,
    abort_connection,
    async_route,
    error_reply,
    parse,
)

Action = Literal["status", "drop", "delay", "hold"]
ACTIONS: tuple[Action, ...] = ("status", "drop", "delay", "hold")
LOG_SIZE = 10_000
LOG_CHARS = 64_000_000  # of SQL text, which may be large: a statement can carry thousands of rows


@dataclass(frozen=True, kw_only=True)
class FaultRule:
    """One fault. Of the requests that match, the first `skip` pass and the next `times` fail.

    `path` and `sql` are regular expressions, searched for anywhere; an absent one matches every request.
    `after_effect`: the real handler runs first, and only its reply is tampered with. Seconds for times.
    """

    action: Action
    method: str = ""
    path: str = ""
    sql: str = ""
    after_effect: bool = False
    status: int = 503
    retry_after: int | None = None
    delay_s: float = 1.0
    times: int = 1
    skip: int = 0

    def matches(self, method: str, path: str, sql: str | None) -> bool:
        """Return whether the rule applies to a request."""
        return (
            self.method.upper() in {"", method}
            and (not self.path or re.search(self.path, path) is not None)
            and (not self.sql or (sql is not None and re.search(self.sql, sql, re.S) is not None))
        )

    @staticmethod
    def parse(document: Any) -> FaultRule:
        """A rule from JSON. Raises ApiError (400) naming what is wrong with it."""
        if not isinstance(document, Mapping):
            raise invalid("A fault rule must be a JSON object")
        known = FaultRule.__dataclass_fields__
        if unknown := sorted(set(document) - set(known)):
            raise invalid(f"Unknown fields in a fault rule: {', '.join(unknown)}; known: {', '.join(known)}")
        if document.get("action") not in ACTIONS:
            raise invalid(f"A fault rule needs an action, one of {', '.join(ACTIONS)}")
        try:
            rule = FaultRule(**{key: value for key, value in document.items() if value is not None})
            re.compile(rule.path)
            re.compile(rule.sql)
            if not 200 <= int(rule.status) <= 599 or int(rule.times) < 0 or float(rule.delay_s) < 0:
                raise ValueError("status, times or delay_s out of range")
        except (re.error, TypeError, ValueError, AttributeError) as error:
            raise invalid(f"Malformed fault rule: {error}") from None
        return rule


@dataclass
class _Count:
    rule: FaultRule
    seen: int = 0
    fired: int = 0


@dataclass(kw_only=True)
class HeldRequest:
    """A request that waits for its release. `drop`: abort its connection instead of going on."""

    method: str
    path: str
    sql: str | None
    after_effect: bool
    since_ms: int
    released: asyncio.Event = field(default_factory=asyncio.Event)
    drop: bool = False

    def document(self) -> Json:
        """As listed by the API, but for its id."""
        names = ("method", "path", "sql", "after_effect", "since_ms")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class LogEntry:
    """One served request: no headers, no body, no query. `status` 0: no reply was sent. Times in ms.

    `prompt_sha256` is the digest of a model call's prompt: enough to count prompts, without their text.
    """

    method: str
    path: str
    sql: str | None
    status: int
    time: int
    duration_ms: float
    client: str
    fault: str | None
    prompt_sha256: str | None = None


class FaultControl:
    """Rules in force, requests held, requests served. Safe for threads, save for `held`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._counts: dict[int, _Count] = {}
        self.held: dict[int, HeldRequest] = {}
        self.log: deque[LogEntry] = deque()
        self._logged_chars = 0

    def record(self, entry: LogEntry) -> None:
        """Add a request to the log; the oldest go when it is full."""
        with self._lock:
            self._logged_chars += len(entry.sql or "")
            self.log.append(entry)
            while len(self.log) > LOG_SIZE or self._logged_chars > LOG_CHARS:
                self._logged_chars -= len(self.log.popleft().sql or "")

    def clear_log(self) -> list[Json]:
        """Empty the log; return what is left of it."""
        with self._lock:
            self.log.clear()
            self._logged_chars = 0
        return []

    def add(self, rules: list[FaultRule]) -> list[dict[str, Any]]:
        """Add rules after those already in force; return all with their ids."""
        with self._lock:
            for rule in rules:
                self._counts[next(self._ids)] = _Count(rule)
        return self.rules()

    def rules(self) -> list[dict[str, Any]]:
        """All rules, with how many requests each has matched and made to fail."""
        with self._lock:
            return [
                {"id": number, **asdict(count.rule), "seen": count.seen, "fired": count.fired}
                for number, count in self._counts.items()
            ]

    def clear(self) -> list[Json]:
        """Remove all rules; return what is left. Held requests stay held."""
        with self._lock:
            self._counts.clear()
        return []

    def next_fault(self, method: str, path: str, sql: str | None) -> FaultRule | None:
        """Return the first rule that applies to this request and has hits left, and count it; else None."""
        with self._lock:
            for count in self._counts.values():
                if not count.rule.matches(method, path, sql):
                    continue
                count.seen += 1
                if count.seen > count.rule.skip and count.fired < count.rule.times:
                    count.fired += 1
                    return count.rule
        return None

    async def hold(self, request: HeldRequest) -> bool:
        """Hold a request until it is released; return whether its connection is to be aborted."""
        number = next(self._ids)
        self.held[number] = request
        try:
            await request.released.wait()
        finally:
            self.held.pop(number, None)
        return request.drop


SqlReader = Callable[[str, str], Callable[[bytes], str | None] | None]


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
    """ASGI middleware: logs every request, and makes those fail that a rule applies to, but for `/_local/`.

    `sql_reader` returns, for a method and path, what finds the SQL text in such requests' bodies, if any.
    """

    def __init__(self, app: ASGIApp, control: FaultControl, sql_reader: SqlReader) -> None:
        self.app, self._control, self._sql_reader = app, control, sql_reader

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
        if read := self._sql_reader(scope["method"], scope["path"]):
            exchange.sql = read(await _drain(exchange))
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
            held = HeldRequest(
                method=scope["method"],
                path=scope["path"],
                sql=exchange.sql,
                after_effect=rule.after_effect,
                since_ms=int(time.time() * 1000),
            )
            dropped = await self._control.hold(held)
        if dropped:
            abort_connection(scope)
            while (await exchange.receive())["type"] != "http.disconnect":
                pass  # uvicorn would answer 500 if this returned while the connection looks open
        else:
            await proceed(scope, exchange.receive, exchange.observe)


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


def control_routes(control: FaultControl) -> list[Route]:
    """The fault control's own API, below `/_local/`. Its handlers run on the event loop."""

    def served(method: str, path: str, function: Callable[[Call], Json]) -> Route:
        async def handle(request: Request) -> Json:
            return function(await parse(request))

        return async_route(method, f"/_local/{path}", handle)

    def add_rules(call: Call) -> Json:
        documents = call.body["rules"] if isinstance(call.body.get("rules"), list) else [call.body]
        return {"rules": control.add([FaultRule.parse(document) for document in documents])}

    def release(call: Call) -> Json:
        held = control.held.get(call.number("id"))
        if held is None:
            raise missing(f"No request is held under the id {call.number('id')}")
        held.drop = call.flag("drop")
        held.released.set()
        return {}

    return [
        served("GET", "faults", lambda _call: {"rules": control.rules()}),
        served("POST", "faults", add_rules),
        served("DELETE", "faults", lambda _call: {"rules": control.clear()}),
        served(
            "GET",
            "held",
            lambda _call: {"held": [{"id": n, **held.document()} for n, held in control.held.items()]},
        ),
        served("POST", "held/{id:int}/release", release),
        served("GET", "requests", lambda _call: {"requests": [vars(entry) for entry in list(control.log)]}),
        served("DELETE", "requests", lambda _call: {"requests": control.clear_log()}),
    ]

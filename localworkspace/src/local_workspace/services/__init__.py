"""The REST application: the services, each loaded when it is first asked for, behind authentication."""

from __future__ import annotations

import hmac
import importlib
import importlib.util
import json
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from secrets import compare_digest  # the name `secrets` is the service's here
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from local_workspace.errors import ApiError
from local_workspace.faults import FaultControl, FaultInjection, control_routes
from local_workspace.http import api_error, error_reply
from local_workspace.signed import Signer, is_signed
from local_workspace.workspace import Workspace

# The services by the first part of their paths: modules with `routes(workspace)`.
SERVICES: Mapping[str, Sequence[str]] = {
    "sql": ["warehouse.service"],
    "api/jobs": ["services.jobs", "services.job_runs"],
    "api/fs": ["services.files"],
    "api/secrets": ["services.secrets"],
    "api/sql": ["services.statements"],
    "api/unity-catalog": ["services.unity_catalog", "services.volumes"],
    "api/workspace": ["services.workspace_objects"],
    "api/repos": ["services.workspace_objects"],
    "api/workspace-conf": ["services.identity"],
    "api/dbfs": ["services.dbfs"],
    "api/clusters": ["services.compute"],
    ".well-known": ["services.identity"],
    "oidc": ["services.identity"],
    "api/preview": ["services.identity"],
    "api/permissions": ["services.identity"],
    "serving-endpoints": ["services.serving"],
    "api/serving-endpoints": ["services.serving"],
}
_THRIFT = "/sql/1.0/warehouses/"
_STATEMENTS = "/api/2.0/sql/statements"
_OPEN = ("/.well-known/", "/oidc/")  # admitted without a credential, with so large a body
_OPEN_BYTES = 1 << 16


def build(workspace: Workspace) -> ASGIApp:
    """The ASGI application with all services, behind authentication and, if asked for, the fault control."""
    defer_sdk_package()
    loaders = {name: partial(load_routes, modules, workspace) for name, modules in SERVICES.items()}
    if not workspace.options.allow_faults:
        return Authentication(Services(loaders), workspace.info.token)
    control = FaultControl()
    app = FaultInjection(
        Services(loaders | {"_local": partial(control_routes, control)}), control, sql_reader
    )
    return Authentication(app, workspace.info.token)


def load_routes(modules: Iterable[str], workspace: Workspace) -> list[Route]:
    """The routes of the services in modules of this package."""
    loaded = [importlib.import_module(f"local_workspace.{module}") for module in modules]
    return [route for module in loaded for route in module.routes(workspace)]


def sql_reader(method: str, path: str) -> Callable[[bytes], str | None] | None:
    """Return what finds the SQL text in the bodies of such requests; None where they cannot have any."""
    if method == "POST" and path.startswith(_THRIFT):
        from local_workspace.warehouse.messages import sql_of

        return sql_of
    return _statement_of if method == "POST" and path.rstrip("/") == _STATEMENTS else None


def _statement_of(body: bytes) -> str | None:
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    statement = document.get("statement") if isinstance(document, dict) else None
    return statement if isinstance(statement, str) else None


class Services:
    """Dispatches requests to services by the first part of their path (see `service_of`).

    A service is loaded when it is first asked for: the SDK's dataclasses take 0.1 to 0.3 s each to import.
    """

    def __init__(self, loaders: Mapping[str, Callable[[], list[Route]]]) -> None:
        self._loaders = loaders
        self._loaded: dict[str, ASGIApp] = {"": _application([])}
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        name = service_of(scope["path"])
        name = name if name in self._loaders else ""
        app = self._loaded.get(name)
        if app is None:
            app = await run_in_threadpool(self._load, name)
        await app(scope, receive, send)

    def _load(self, name: str) -> ASGIApp:
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = _application(self._loaders[name]())
            return self._loaded[name]


def service_of(path: str) -> str:
    """`api/jobs` for `/api/2.2/jobs/runs/get`; the first part of any other path."""
    parts = path.split("/")
    return f"api/{parts[3]}" if parts[1] == "api" and len(parts) > 3 else parts[1]


def _application(routes: list[Route]) -> ASGIApp:
    async def unknown(request: Request, _error: Exception) -> Response:
        message = f"No API found for '{request.method} {request.url.path}'"
        return error_reply(ApiError(404, "ENDPOINT_NOT_FOUND", message))

    return Starlette(routes=routes, exception_handlers={404: unknown, 405: unknown})


def access_token(token: str, expires: int) -> str:
    """Return an OAuth access token, made from the workspace's own and good until `expires` (Unix seconds)."""
    return f"{expires}.{hmac.digest(token.encode(), str(expires).encode(), 'sha256').hex()}"


class Authentication:
    """Admits requests that carry the token, one for a while, or a signature. Discovery is open."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self._token = token
        self._signer = Signer("", token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        error = self._check(scope) if scope["type"] == "http" else None
        if error is not None:
            await error_reply(error)(scope, receive, send)
            return
        started = False
        receive = _bounded(receive) if scope.get("path", "").startswith(_OPEN) else receive

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
        if scope["path"].startswith(_OPEN):
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
        value, expected = value.strip(), self._token
        expires = value[:10]  # ten digits, until the year 2286
        if expires.isdigit() and value[10:11] == b"." and int(expires) > time.time():
            expected = access_token(self._token, int(expires))
        if not compare_digest(value, expected.encode()):
            return ApiError(403, "PERMISSION_DENIED", "Invalid access token.")
        return None


def _bounded(receive: Receive) -> Receive:
    """Return a receive that raises ApiError (413) for the large body of somebody unknown."""
    left = _OPEN_BYTES

    async def bounded() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise ApiError(413, "REQUEST_TOO_LARGE", f"This takes at most {_OPEN_BYTES} bytes.")
        return message

    return bounded


def defer_sdk_package() -> None:
    """Let `databricks.sdk.service.…` be imported without `databricks.sdk` itself, until that is needed.

    The package's `__init__` imports all of its 45 services (a second), of which the REST answers need seven.
    It is executed when a name of its own is asked for.
    """
    name = "databricks.sdk"
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is None or spec.loader is None:
        return
    loader = spec.loader

    class Deferred(types.ModuleType):
        def __getattr__(self, attribute: str) -> Any:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            object.__setattr__(self, "__class__", types.ModuleType)
            loader.exec_module(self)
            return getattr(self, attribute)

    module = importlib.util.module_from_spec(spec)
    module.__class__ = Deferred
    sys.modules[name] = module
    sys.modules["databricks"].sdk = module  # type: ignore[attr-defined] # as an import sets it

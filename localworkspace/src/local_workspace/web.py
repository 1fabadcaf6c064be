"""Between HTTP and plain functions: JSON in, JSON out, problems as Databricks words them."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local_workspace.errors import ApiError, invalid

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request, parsed: query parameters, JSON body, parameters of the path."""

    query: Mapping[str, str] = field(default_factory=dict)
    body: Json = field(default_factory=dict)
    path: Mapping[str, Any] = field(default_factory=dict)

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

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean of the query or the body."""
        found = self.body.get(name, self.query.get(name))
        return default if found is None else found is True or str(found).lower() == "true"


Function = Callable[[Call], Json]


def reply(document: Json, status: int = 200) -> Response:
    """A JSON response."""
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return Response(body, status, media_type="application/json")


def refusal(problem: ApiError) -> Response:
    """The response that reports a problem."""
    return reply(problem.document(), problem.status)


def unexpected(error: Exception) -> Response:
    """500 for a defect of ours; the traceback goes to the server's standard error."""
    traceback.print_exception(error, file=sys.stderr)
    return reply({"error_code": "INTERNAL_ERROR", "message": f"{type(error).__name__}: {error}"}, 500)


async def parse(request: Request) -> Call:
    """Read a request to its end. Raises ApiError (400) when the body is not a JSON object."""
    raw = await request.body()
    body: Any = {}
    if raw.strip():
        try:
            body = json.loads(raw)
        except ValueError as error:
            raise ApiError(
                400, "MALFORMED_REQUEST", f"Could not parse the request as JSON: {error}"
            ) from None
        if not isinstance(body, dict):
            raise ApiError(400, "MALFORMED_REQUEST", "The request must be a JSON object")
    return Call(query=dict(request.query_params), body=body, path=request.path_params)


def route(method: str, path: str, function: Function) -> Route:
    """Serve a plain function, in a worker thread, so that its waiting holds up nobody else."""

    async def handle(request: Request) -> Response:
        try:
            return reply(await run_in_threadpool(function, await parse(request)))
        except ApiError as problem:
            return refusal(problem)
        except Exception as error:  # noqa: BLE001 - the boundary: reported as 500 and on standard error
            return unexpected(error)

    return Route(path, handle, methods=[method])

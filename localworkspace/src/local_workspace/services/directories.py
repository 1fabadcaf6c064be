"""Files API, directories."""

from __future__ import annotations

import os
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local_workspace.errors import ApiError, invalid
from local_workspace.layout import Layout
from local_workspace.services.volumes import not_found, volume_path
from local_workspace.web import refusal, reply

_PAGE = 1000


def routes(layout: Layout) -> list[Route]:
    """The routes of `/api/2.0/fs/directories`."""
    functions: dict[str, Callable[[Layout, Request], Response]] = {
        "PUT": _create,
        "GET": _list,
        "HEAD": _head,
        "DELETE": _delete,
    }

    async def handle(request: Request) -> Response:
        try:
            return await run_in_threadpool(functions[request.method], layout, request)
        except ApiError as problem:
            return refusal(problem)

    return [Route("/api/2.0/fs/directories/{path:path}", handle, methods=list(functions))]


def _create(layout: Layout, request: Request) -> Response:
    path = request.path_params["path"]
    try:
        volume_path(layout, path).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ApiError(409, "ALREADY_EXISTS", f"A file exists at the path {path} or above it") from None
    return Response(status_code=204)


def _head(layout: Layout, request: Request) -> Response:
    path = request.path_params["path"]
    if not volume_path(layout, path).is_dir():
        raise not_found(path)
    return Response(status_code=200)


def _list(layout: Layout, request: Request) -> Response:
    path = "/" + request.path_params["path"].strip("/")
    size = request.query_params.get("page_size", str(_PAGE))
    if not size.isdigit():
        raise invalid("page_size must be an integer")
    limit = min(int(size) or _PAGE, _PAGE)
    after = request.query_params.get("page_token", "")
    try:
        with os.scandir(volume_path(layout, path)) as entries:
            found = sorted((entry for entry in entries if entry.name > after), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        raise not_found(path) from None
    contents = [item for entry in found[:limit] if (item := _entry(path, entry)) is not None]
    document = {"contents": contents} if contents else {}
    if len(found) > limit:
        document |= {"next_page_token": found[limit - 1].name}  # type: ignore[dict-item]
    return reply(document)


def _entry(path: str, entry: os.DirEntry[str]) -> dict[str, object] | None:
    try:
        stat = entry.stat()
        folder = entry.is_dir()
    except FileNotFoundError:
        return None  # removed in the meantime
    document: dict[str, object] = {"path": f"{path}/{entry.name}", "name": entry.name, "is_directory": folder}
    document["last_modified"] = int(stat.st_mtime * 1000)
    if not folder:
        document["file_size"] = stat.st_size
    return document


def _delete(layout: Layout, request: Request) -> Response:
    path = request.path_params["path"]
    local = volume_path(layout, path)
    if len(path.strip("/").split("/")) == 4:
        raise invalid(f"Invalid path {path!r}: it names a volume, not a directory in it")
    try:
        local.rmdir()
    except (FileNotFoundError, NotADirectoryError):
        raise not_found(path) from None
    except OSError:
        # The reason that the Databricks CLI looks for to tell this from other 400s.
        reason = {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "FILES_API_DIRECTORY_IS_NOT_EMPTY",
            "domain": "filesystem.databricks.com",
        }
        raise ApiError(400, "BAD_REQUEST", f"The directory is not empty: {path}", details=[reason]) from None
    return Response(status_code=204)

"""Files API, files: whole-object PUT, GET with ranges, HEAD, DELETE. Bodies never lie in memory whole."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate
from pathlib import Path
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from local_workspace.errors import ApiError, invalid
from local_workspace.layout import Layout
from local_workspace.services.volumes import not_found, volume_path
from local_workspace.web import Call, Json, refusal, reply, route, unexpected

_BUFFER = 1 << 20
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")

Handler = Callable[[Request], Awaitable[Response]]


def routes(layout: Layout) -> list[Route]:
    """The routes of `/api/2.0/fs/files`."""
    handlers: dict[str, Handler] = {
        "PUT": lambda request: _put(layout, request),
        "GET": lambda request: _get(layout, request),
        "HEAD": lambda request: _get(layout, request),
        "DELETE": lambda request: _delete(layout, request),
        "POST": lambda request: _initiate(layout, request),
    }

    async def handle(request: Request) -> Response:
        try:
            return await handlers[request.method](request)
        except ApiError as problem:
            return refusal(problem)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody listens
        except OSError as error:
            return unexpected(error)

    # The SDK asks for pre-signed URLs first and, where a workspace has none, falls back to the plain API.
    refuse = ("create-download-url", "create-upload-part-urls", "create-resumable-upload-url",
              "create-abort-upload-url")  # fmt: skip
    presigned = [route("POST", f"/api/2.0/fs/{name}", _no_presigned) for name in refuse]
    return [Route("/api/2.0/fs/files/{path:path}", handle, methods=list(handlers)), *presigned]


def _no_presigned(_call: Call) -> Json:
    raise ApiError(403, "PERMISSION_DENIED", "Presigned URLs are not enabled for this workspace")


async def _initiate(layout: Layout, request: Request) -> Response:
    """The first call of a multi-part upload; its second call then fails, and the client puts it whole."""
    if request.query_params.get("action") != "initiate-upload":
        raise invalid("Unknown action on a file")
    path = request.path_params["path"]
    local = await run_in_threadpool(volume_path, layout, path)
    if request.query_params.get("overwrite", "true") == "false" and local.exists():
        raise _exists(path)
    return reply({"multipart_upload": {"session_token": "none"}})


async def _put(layout: Layout, request: Request) -> Response:
    path = request.path_params["path"]
    overwrite = request.query_params.get("overwrite", "false").lower() == "true"
    target = await run_in_threadpool(_target, layout, path)
    descriptor, name = tempfile.mkstemp(dir=layout.uploads)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            rest = await _receive(request, file)
            await run_in_threadpool(_settle, file, rest, temporary, target, overwrite, path)
    finally:
        temporary.unlink(missing_ok=True)
    return Response(status_code=204)


def _target(layout: Layout, path: str) -> Path:
    target = volume_path(layout, path)
    if len(path.strip("/").split("/")) == 4:
        raise invalid(f"Invalid path {path!r}: it names a volume, not a file in it")
    return target


async def _receive(request: Request, file: BinaryIO) -> bytes:
    """Write the body out in large pieces; returns what remains to be written."""
    buffer = bytearray()
    async for chunk in request.stream():
        buffer += chunk
        if len(buffer) >= _BUFFER:
            await run_in_threadpool(file.write, bytes(buffer))
            buffer.clear()
    return bytes(buffer)


def _settle(file: BinaryIO, rest: bytes, temporary: Path, target: Path, overwrite: bool, path: str) -> None:
    """Make the received body the file, in one step: readers see the old one, the new one, or none."""
    file.write(rest)
    file.flush()
    temporary.chmod(0o644)
    if target.is_dir():
        raise ApiError(409, "ALREADY_EXISTS", f"A directory exists at the path {path}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if overwrite:
            temporary.replace(target)
        else:
            os.link(temporary, target)  # fails if the name is taken: one of two racing writers wins
    except NotADirectoryError:
        raise ApiError(409, "ALREADY_EXISTS", f"A parent of {path} is a file") from None
    except FileExistsError:
        raise _exists(path) from None


def _exists(path: str) -> ApiError:
    return ApiError(409, "ALREADY_EXISTS", f"The file being created already exists: {path}")


async def _get(layout: Layout, request: Request) -> Response:
    path = request.path_params["path"]
    file, stat = await run_in_threadpool(_open, layout, path)
    start, stop = _span(request.headers.get("range"), stat.st_size)
    status = 206 if (start, stop) != (0, stat.st_size) or "range" in request.headers else 200
    headers = {
        "content-type": "application/octet-stream",
        "content-length": str(stop - start),
        "last-modified": formatdate(stat.st_mtime, usegmt=True),
        "accept-ranges": "bytes",
    }
    if status == 206:
        headers["content-range"] = f"bytes {start}-{stop - 1}/{stat.st_size}"
    if request.method == "HEAD":
        file.close()
        return Response(status_code=status, headers=headers)
    if stop - start <= _BUFFER:
        with file:
            return Response(os.pread(file.fileno(), stop - start, start), status, headers=headers)
    return StreamingResponse(_pieces(file, start, stop), status, headers=headers)


def _open(layout: Layout, path: str) -> tuple[BinaryIO, os.stat_result]:
    local = volume_path(layout, path)
    if local.is_dir():
        raise invalid(f"The path is a directory, not a file: {path}")
    try:
        file = local.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise not_found(path) from None
    return file, os.fstat(file.fileno())


def _span(header: str | None, size: int) -> tuple[int, int]:
    """The bytes that a Range header asks for, as a half-open interval. Raises ApiError (416)."""
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return 0, size
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= size or start >= stop:
        raise ApiError(416, "INVALID_RANGE", f"Range {header} is not within the {size} bytes of the file")
    return start, stop


async def _pieces(file: BinaryIO, start: int, stop: int) -> AsyncIterator[bytes]:
    with contextlib.closing(file):
        while start < stop:
            piece = await run_in_threadpool(os.pread, file.fileno(), min(_BUFFER, stop - start), start)
            if not piece:
                return
            start += len(piece)
            yield piece


async def _delete(layout: Layout, request: Request) -> Response:
    path = request.path_params["path"]

    def remove() -> None:
        local = volume_path(layout, path)
        if local.is_dir():
            raise invalid(f"The path is a directory, not a file: {path}")
        try:
            local.unlink()
        except (FileNotFoundError, NotADirectoryError):
            raise not_found(path) from None

    await run_in_threadpool(remove)
    return Response(status_code=204)

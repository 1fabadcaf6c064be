"""Files API: files (PUT, GET with ranges, HEAD, DELETE; bodies are streamed) and directories of Volumes."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import BinaryIO

from databricks.sdk.service import files as shapes
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from local_workspace.errors import ApiError, invalid
from local_workspace.http import Call, Json, async_route, route
from local_workspace.layout import Layout, inside, make_folders, open_regular
from local_workspace.workspace import Workspace

_BUFFER = 1 << 20
_PAGE = 1000
# The SDK asks for pre-signed URLs first and, where a workspace has none, falls back to the plain API.
_PRESIGNED = ("download-url", "upload-part-urls", "resumable-upload-url", "abort-upload-url")
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


class Files:
    """The service's functions. A path is that of the URL, `Volumes/<catalog>/<schema>/<volume>/…`."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    # --- files

    def initiate_upload(self, call: Call) -> Json:
        """The first call of a multi-part upload; its second call then fails, and the client puts it whole."""
        if call.query.get("action") != "initiate-upload":
            raise invalid("Unknown action on a file")
        path = call.text("path")
        if call.query.get("overwrite", "true") == "false" and self._local(path).exists():
            raise _exists(path)
        return {"multipart_upload": {"session_token": "none"}}

    async def put(self, request: Request) -> Response:
        """Write a file: readers see the old one, the new one, or none."""
        path = request.path_params["path"]
        overwrite = request.query_params.get("overwrite", "false").lower() == "true"
        target = await run_in_threadpool(self._local, path)
        if _is_volume(path):
            raise invalid(f"Invalid path {path!r}: it names a volume, not a file in it")
        descriptor, name = tempfile.mkstemp(dir=self._layout.uploads)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                rest = await _receive(request, file)
                await run_in_threadpool(_publish, file, rest, temporary, target, overwrite, path)
        finally:
            temporary.unlink(missing_ok=True)
        return Response(status_code=204)

    async def get(self, request: Request) -> Response:
        """A file or a range of it; for HEAD its headers."""
        file, found = await run_in_threadpool(self._open, request.path_params["path"])
        start, stop = _span(request.headers.get("range"), found.st_size)
        status = 206 if (start, stop) != (0, found.st_size) or "range" in request.headers else 200
        headers = {
            "content-type": "application/octet-stream",
            "content-length": str(stop - start),
            "last-modified": formatdate(found.st_mtime, usegmt=True),
            "accept-ranges": "bytes",
        }
        if status == 206:
            headers["content-range"] = f"bytes {start}-{stop - 1}/{found.st_size}"
        if request.method == "HEAD":
            file.close()
            return Response(status_code=status, headers=headers)
        if stop - start <= _BUFFER:
            with file:
                return Response(os.pread(file.fileno(), stop - start, start), status, headers=headers)
        return StreamingResponse(_pieces(file, start, stop), status, headers=headers)

    def delete(self, call: Call) -> Response:
        """Delete a file."""
        path = call.text("path")
        local = self._local(path)
        if local.is_dir():
            raise invalid(f"The path is a directory, not a file: {path}")
        with _not_found(path):
            local.unlink()
        return Response(status_code=204)

    # --- directories

    def create_directory(self, call: Call) -> Response:
        """Make a directory and its parents."""
        path = call.text("path")
        taken = ApiError(409, "ALREADY_EXISTS", f"A file exists at the path {path} or above it")
        make_folders(self._local(path), taken)
        return Response(status_code=204)

    def head_directory(self, call: Call) -> Response:
        """200 when the directory exists."""
        path = call.text("path")
        with _not_found(path):
            if not self._local(path).is_dir():
                raise NotADirectoryError
        return Response(status_code=200)

    def list_directory(self, call: Call) -> shapes.ListDirectoryResponse:
        """The entries of a directory by name; `page_token` is the last name of the page before."""
        path = "/" + call.text("path").strip("/")
        limit = min(call.number("page_size", 0) or _PAGE, _PAGE)
        after = call.query.get("page_token", "")
        with _not_found(path), os.scandir(self._local(path)) as entries:
            found = sorted((entry for entry in entries if entry.name > after), key=lambda entry: entry.name)
        contents = []
        for entry in found[:limit]:
            with contextlib.suppress(FileNotFoundError):  # removed in the meantime
                contents.append(_entry(path, entry))
        token = found[limit - 1].name if len(found) > limit else None
        return shapes.ListDirectoryResponse(contents=contents, next_page_token=token)

    def delete_directory(self, call: Call) -> Response:
        """Delete an empty directory."""
        path = call.text("path")
        local = self._local(path)
        if _is_volume(path):
            raise invalid(f"Invalid path {path!r}: it names a volume, not a directory in it")
        try:
            with _not_found(path):
                local.rmdir()
        except OSError:
            # The reason that the Databricks CLI looks for to tell this from other 400s.
            reason = {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "FILES_API_DIRECTORY_IS_NOT_EMPTY",
                "domain": "filesystem.databricks.com",
            }
            message = f"The directory is not empty: {path}"
            raise ApiError(400, "BAD_REQUEST", message, details=[reason]) from None
        return Response(status_code=204)

    # --- paths

    def _local(self, path: str) -> Path:
        """The local path of a path in a Volume.

        Raises ApiError: 400 for a path of another form, 404 when the volume does not exist.
        """
        parts = path.strip("/").split("/")
        if parts[0] == "stage" and len(parts) > 2:  # where the warehouse's PUT and GET lead
            return inside(self._layout.stage, "/".join(parts[1:]))
        if parts[0] != "Volumes" or len(parts) < 4:
            raise invalid(f"Invalid path {path!r}: use /Volumes/<catalog>/<schema>/<volume>/…")
        local = self._layout.in_volumes("/".join(parts[1:]))
        if not self._layout.in_volumes("/".join(parts[1:4])).is_dir():
            raise ApiError(404, "NOT_FOUND", f"Volume '{'.'.join(parts[1:4])}' does not exist.")
        return local

    def _open(self, path: str) -> tuple[BinaryIO, os.stat_result]:
        local = self._local(path)
        if local.is_dir():
            raise invalid(f"The path is a directory, not a file: {path}")
        with _not_found(path):
            file = open_regular(local)
        return file, os.fstat(file.fileno())


async def _receive(request: Request, file: BinaryIO) -> bytes:
    """Write the body out in large pieces; return what remains to be written."""
    buffer = bytearray()
    async for chunk in request.stream():
        buffer += chunk
        if len(buffer) >= _BUFFER:
            await run_in_threadpool(file.write, bytes(buffer))
            buffer.clear()
    return bytes(buffer)


def _publish(file: BinaryIO, rest: bytes, temporary: Path, target: Path, overwrite: bool, path: str) -> None:
    """Make the received body the file, in one step."""
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


def _entry(path: str, entry: os.DirEntry[str]) -> shapes.DirectoryEntry:
    found, folder = entry.stat(), entry.is_dir()
    return shapes.DirectoryEntry(
        path=f"{path}/{entry.name}",
        name=entry.name,
        is_directory=folder,
        last_modified=int(found.st_mtime * 1000),
        file_size=None if folder else found.st_size,
    )


def _is_volume(path: str) -> bool:
    parts = path.strip("/").split("/")
    return parts[0] == "Volumes" and len(parts) == 4


def _exists(path: str) -> ApiError:
    return ApiError(409, "ALREADY_EXISTS", f"The file being created already exists: {path}")


@contextlib.contextmanager
def _not_found(path: str) -> Iterator[None]:
    """Raise ApiError (404) where a file or directory is not there."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        message = f"The path you provided does not exist or is not accessible: {path}"
        raise ApiError(404, "NOT_FOUND", message) from None


def _no_presigned(_call: Call) -> None:
    raise ApiError(403, "PERMISSION_DENIED", "Presigned URLs are not enabled for this workspace")


def routes(workspace: Workspace) -> list[Route]:
    """The routes of `/api/2.0/fs`."""
    files = Files(workspace.layout)
    file, directory = "/api/2.0/fs/files/{path:path}", "/api/2.0/fs/directories/{path:path}"
    return [
        async_route("PUT", file, files.put),
        async_route("GET", file, files.get),
        route("DELETE", file, files.delete),
        route("POST", file, files.initiate_upload),
        route("PUT", directory, files.create_directory),
        route("HEAD", directory, files.head_directory),
        route("GET", directory, files.list_directory),
        route("DELETE", directory, files.delete_directory),
        *(route("POST", f"/api/2.0/fs/create-{name}", _no_presigned) for name in _PRESIGNED),
    ]

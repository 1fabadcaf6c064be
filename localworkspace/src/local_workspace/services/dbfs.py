"""DBFS API: files below `<root>/dbfs`, whole or block by block."""

from __future__ import annotations

import base64
import itertools
from dataclasses import dataclass
from pathlib import Path

from databricks.sdk.service import files as shapes
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.routing import Route

from local_workspace.errors import ApiError, invalid, missing
from local_workspace.http import Call, async_route, is_form, route, upload
from local_workspace.layout import Layout, inside, make_folders, open_regular, remove
from local_workspace.workspace import Workspace

_BLOCK = 1 << 20  # the most that one call carries
_READ = 500_000


@dataclass(frozen=True, kw_only=True)
class _Stream:
    """A file that is being written; it takes its place when it is closed."""

    target: Path
    temporary: Path


class Dbfs:
    """The service's functions."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._streams: dict[int, _Stream] = {}
        self._handles = itertools.count(1)

    async def put(self, request: Request) -> None:
        """Write a small file, from JSON or from a form."""
        call, content = await upload(request, "contents")
        await run_in_threadpool(self._put, call, content if is_form(request) else _bounded(content))

    def _put(self, call: Call, content: bytes) -> None:
        stream = self._stream(call)
        stream.temporary.write_bytes(content)
        stream.temporary.replace(stream.target)

    def create(self, call: Call) -> shapes.CreateResponse:
        """Begin a file; return the handle for its blocks."""
        stream = self._stream(call)
        stream.temporary.touch()
        handle = next(self._handles)
        self._streams[handle] = stream
        return shapes.CreateResponse(handle=handle)

    def add_block(self, call: Call) -> None:
        """Append a block."""
        call.text("data")
        with self._open(call).temporary.open("ab") as file:
            file.write(_bounded(call.content("data")))

    def close(self, call: Call) -> None:
        """Make the blocks the file."""
        stream = self._open(call)
        stream.temporary.replace(stream.target)
        self._streams.pop(call.number("handle"), None)

    def _stream(self, call: Call) -> _Stream:
        path = call.text("path")
        target = self._local(path)
        if target.is_dir() or (target.exists() and not call.flag("overwrite")):
            raise _taken(path)
        make_folders(target.parent, _taken(path.rpartition("/")[0]))
        return _Stream(target=target, temporary=self._layout.uploads / f"dbfs-{next(self._handles)}")

    def _open(self, call: Call) -> _Stream:
        found = self._streams.get(call.number("handle"))
        if found is None:
            raise missing(f"No open file has the handle {call.number('handle')}")
        return found

    def read(self, call: Call) -> shapes.ReadResponse:
        """A part of a file, at most 1 MiB."""
        length = call.number("length", 0) or _READ
        if not 0 < length <= _BLOCK:
            raise ApiError(400, "MAX_READ_SIZE_EXCEEDED", f"length must be from 1 to {_BLOCK}")
        path = call.text("path")
        local = self._existing(path)
        if local.is_dir():
            raise invalid(f"{path} is a directory")
        with open_regular(local) as file:
            file.seek(max(0, call.number("offset", 0)))
            data = file.read(length)
        return shapes.ReadResponse(bytes_read=len(data), data=base64.b64encode(data).decode())

    def status(self, call: Call) -> shapes.FileInfo:
        """A file or directory."""
        path = call.text("path")
        return _info(_plain(path), self._existing(path))

    def list(self, call: Call) -> shapes.ListStatusResponse:
        """The entries of a directory; of a file: itself."""
        path = call.text("path")
        local, plain = self._existing(path), _plain(path)
        if not local.is_dir():
            return shapes.ListStatusResponse([_info(plain, local)])
        found = [_info(f"{plain.rstrip('/')}/{item.name}", item) for item in sorted(local.iterdir())]
        return shapes.ListStatusResponse(found)

    def mkdirs(self, call: Call) -> None:
        """Make a directory and its parents."""
        make_folders(self._local(call.text("path")), _taken(call.text("path")))

    def delete(self, call: Call) -> None:
        """Remove a file or directory; one that is not there is no error, as on Databricks."""
        local = self._local(call.text("path"))
        if local == self._layout.dbfs:
            raise invalid("The root of DBFS cannot be deleted")
        message = f"The directory {call.text('path')} is not empty: delete it with recursive"
        remove(local, recursive=call.flag("recursive"), full=ApiError(400, "IO_ERROR", message))

    def move(self, call: Call) -> None:
        """Move a file or directory."""
        source, target = self._existing(call.text("source_path")), self._local(call.text("destination_path"))
        if target.is_dir():
            target = target / source.name
        if target.exists():
            raise _taken(call.text("destination_path"))
        if not target.parent.is_dir():
            raise missing(f"The parent of {call.text('destination_path')} does not exist")
        source.replace(target)

    def _local(self, path: str) -> Path:
        return inside(self._layout.dbfs, _plain(path))

    def _existing(self, path: str) -> Path:
        local = self._local(path)
        if not local.exists():
            raise missing(f"No file or directory exists on path {path}.")
        return local


def _plain(path: str) -> str:
    """The path without its scheme. Raises ApiError (400)."""
    plain = path.removeprefix("dbfs:")
    if not plain.startswith("/"):
        raise invalid(f"The path {path!r} must be absolute")
    if plain.startswith("/Volumes/"):
        raise invalid("The DBFS API does not reach /Volumes: use the Files API")
    return plain


def _bounded(content: bytes) -> bytes:
    if len(content) > _BLOCK:
        message = f"A call carries at most {_BLOCK} bytes, not {len(content)}"
        raise ApiError(400, "MAX_BLOCK_SIZE_EXCEEDED", message)
    return content


def _info(path: str, local: Path) -> shapes.FileInfo:
    stat, folder = local.stat(), local.is_dir()
    modified = int(stat.st_mtime * 1000)
    return shapes.FileInfo(
        path=path, is_dir=folder, file_size=0 if folder else stat.st_size, modification_time=modified
    )


def _taken(path: str) -> ApiError:
    return ApiError(400, "RESOURCE_ALREADY_EXISTS", f"A file or directory already exists on path {path}.")


def routes(workspace: Workspace) -> list[Route]:
    """The routes of `/api/2.0/dbfs`."""
    dbfs = Dbfs(workspace.layout)
    base = "/api/2.0/dbfs"
    return [
        async_route("POST", f"{base}/put", dbfs.put),
        route("POST", f"{base}/create", dbfs.create),
        route("POST", f"{base}/add-block", dbfs.add_block),
        route("POST", f"{base}/close", dbfs.close),
        route("GET", f"{base}/read", dbfs.read),
        route("GET", f"{base}/get-status", dbfs.status),
        route("GET", f"{base}/list", dbfs.list),
        route("POST", f"{base}/mkdirs", dbfs.mkdirs),
        route("POST", f"{base}/delete", dbfs.delete),
        route("POST", f"{base}/move", dbfs.move),
    ]

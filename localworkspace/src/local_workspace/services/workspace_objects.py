"""Workspace API: notebooks, files and folders. A notebook is a file with its marker line."""

from __future__ import annotations

import base64
import binascii
import email
import email.policy
import hashlib
import shutil
from pathlib import Path

from databricks.sdk.service import workspace as shapes
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local_workspace.errors import ApiError, invalid, missing
from local_workspace.http import Call, async_route, parse, route
from local_workspace.layout import Layout, inside
from local_workspace.workspace import Workspace

_MARKERS = {
    "PYTHON": "# Databricks notebook source",
    "SQL": "-- Databricks notebook source",
    "SCALA": "// Databricks notebook source",
    "R": "# Databricks notebook source",
}
_LANGUAGES = {".py": "PYTHON", ".sql": "SQL", ".scala": "SCALA", ".r": "R", ".R": "R"}
_LARGEST = 10 * 1024 * 1024  # the limit of import and export on Databricks


class WorkspaceObjects:
    """The service's functions."""

    def __init__(self, layout: Layout) -> None:
        self._root = layout.workspace

    def mkdirs(self, call: Call) -> None:
        """Make a folder and its parents."""
        try:
            self._local(call.text("path")).mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise self._taken(call.text("path")) from None

    async def import_(self, request: Request) -> None:
        """Write a notebook or file: from JSON with base64 content, or from a form."""
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            call, content = _form(request, await request.body())
        else:
            call = await parse(request)
            try:
                content = base64.b64decode(call.body.get("content") or "", validate=True)
            except (binascii.Error, ValueError):
                raise invalid("content must be base64") from None
        await run_in_threadpool(self._write, call, content)

    def _write(self, call: Call, content: bytes) -> None:
        path, kind = call.text("path"), call.body.get("format") or "SOURCE"
        if kind not in {"SOURCE", "AUTO", "RAW"}:
            raise invalid(f"The local workspace imports the formats SOURCE, AUTO and RAW, not {kind}")
        if len(content) > _LARGEST:
            raise ApiError(400, "MAX_NOTEBOOK_SIZE_EXCEEDED", f"The content exceeds {_LARGEST} bytes")
        if kind == "SOURCE":
            language = call.body.get("language") or _LANGUAGES.get(Path(path).suffix)
            if language not in _MARKERS:
                raise invalid("The format SOURCE needs a language, one of " + ", ".join(_MARKERS))
            marker = _MARKERS[language].encode()
            content = content if content.startswith(marker) else marker + b"\n" + content
        local = self._local(path)
        if not local.parent.is_dir():
            raise missing(f"The parent folder ({path.rpartition('/')[0]}) does not exist.")
        if local.is_dir() or (local.exists() and not call.flag("overwrite")):
            raise self._taken(path)
        temporary = local.with_name(f".{local.name}.importing")
        temporary.write_bytes(content)
        temporary.replace(local)

    def export(self, call: Call) -> shapes.ExportResponse | Response:
        """The content of a notebook or file: as it is when `direct_download`, else in base64."""
        path = call.text("path")
        local = self._existing(path)
        if local.is_dir():
            raise invalid(f"{path} is a folder: only notebooks and files can be exported here")
        content = local.read_bytes()
        if call.flag("direct_download"):
            return Response(content, media_type="application/octet-stream")
        coded = base64.b64encode(content).decode()
        return shapes.ExportResponse(content=coded, file_type=local.suffix.lstrip(".") or "py")

    def status(self, call: Call) -> shapes.ObjectInfo:
        """The object at a path."""
        path = call.text("path")
        return _info(self._name(path), self._existing(path))

    def list(self, call: Call) -> shapes.ListResponse:
        """The entries of a folder (of a file: itself)."""
        path = call.text("path")
        local = self._existing(path)
        if not local.is_dir():
            return shapes.ListResponse([_info(self._name(path), local)])
        base = self._name(path).rstrip("/")
        return shapes.ListResponse(
            [_info(f"{base}/{child.name}", child) for child in sorted(local.iterdir())]
        )

    def delete(self, call: Call) -> None:
        """Remove a file or folder; a folder with entries only when `recursive`."""
        path = call.text("path")
        local = self._existing(path)
        if local == self._root:
            raise invalid("The root folder cannot be deleted")
        if not local.is_dir():
            local.unlink()
        elif any(local.iterdir()) and not call.flag("recursive"):
            raise ApiError(400, "DIRECTORY_NOT_EMPTY", f"Folder ({path}) is not empty")
        else:
            shutil.rmtree(local)

    def _name(self, path: str) -> str:
        if not path.startswith("/"):
            raise invalid(f"Path ({path}) doesn't start with '/'")
        return path.removeprefix("/Workspace") or "/"

    def _local(self, path: str) -> Path:
        return inside(self._root, self._name(path))

    def _existing(self, path: str) -> Path:
        local = self._local(path)
        if not local.exists():
            raise missing(f"Path ({path}) doesn't exist.")
        return local

    def _taken(self, path: str) -> ApiError:
        return ApiError(400, "RESOURCE_ALREADY_EXISTS", f"Path ({path}) already exists.")


def _info(path: str, local: Path) -> shapes.ObjectInfo:
    stat = local.stat()
    info = shapes.ObjectInfo(
        path=path,
        object_id=int.from_bytes(hashlib.sha256(path.encode()).digest()[:6], "big"),
        modified_at=int(stat.st_mtime * 1000),
        created_at=int(stat.st_mtime * 1000),
        object_type=shapes.ObjectType.DIRECTORY,
    )
    if local.is_dir():
        return info
    with local.open("rb") as file:
        head = file.read(64).decode("utf-8", "replace")
    language = next((name for name, marker in _MARKERS.items() if head.startswith(marker)), None)
    if language == "PYTHON" and local.suffix in {".r", ".R"}:
        language = "R"
    if language is None:
        info.object_type, info.size = shapes.ObjectType.FILE, stat.st_size
    else:
        info.object_type, info.language = shapes.ObjectType.NOTEBOOK, shapes.Language(language)
    return info


def _form(request: Request, raw: bytes) -> tuple[Call, bytes]:
    """A multipart/form-data import, as the SDK's `workspace.upload` sends it."""
    header = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode("latin-1")
    message = email.message_from_bytes(header + raw, policy=email.policy.HTTP)
    fields: dict[str, bytes] = {}
    for part in message.iter_parts() if message.is_multipart() else ():
        name = part.get_param("name", header="content-disposition")
        payload = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(payload, bytes):
            fields[name] = payload
    content = fields.pop("content", b"")
    return Call(body={name: value.decode("utf-8", "replace") for name, value in fields.items()}), content


def routes(workspace: Workspace) -> list[Route]:
    """The routes of `/api/2.0/workspace`."""
    objects = WorkspaceObjects(workspace.layout)
    base = "/api/2.0/workspace"
    return [
        async_route("POST", f"{base}/import", objects.import_),
        route("GET", f"{base}/export", objects.export),
        route("POST", f"{base}/mkdirs", objects.mkdirs),
        route("GET", f"{base}/get-status", objects.status),
        route("GET", f"{base}/list", objects.list),
        route("POST", f"{base}/delete", objects.delete),
    ]

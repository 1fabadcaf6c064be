"""Workspace API: notebooks, files and folders. A notebook is a file with its marker line."""

from __future__ import annotations

import base64
import binascii
import email
import email.policy
import hashlib
import shutil
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local_workspace.errors import ApiError, invalid, missing
from local_workspace.layout import Layout, inside
from local_workspace.web import Call, Json, parse, refusal, reply, route

_MARKERS = {
    "PYTHON": "# Databricks notebook source",
    "SQL": "-- Databricks notebook source",
    "SCALA": "// Databricks notebook source",
    "R": "# Databricks notebook source",
}
_LANGUAGES = {".py": "PYTHON", ".sql": "SQL", ".scala": "SCALA", ".r": "R", ".R": "R"}
_LARGEST = 10 * 1024 * 1024  # the limit of import and export on Databricks


class WorkspaceFiles:
    """The service's functions."""

    def __init__(self, layout: Layout) -> None:
        self._root = layout.workspace

    def mkdirs(self, call: Call) -> Json:
        """Make a folder and its parents."""
        try:
            self._local(call.text("path")).mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise self._taken(call.text("path")) from None
        return {}

    def import_(self, call: Call) -> Json:
        """Write a notebook or file; `content` is base64."""
        try:
            content = base64.b64decode(call.body.get("content") or "", validate=True)
        except (binascii.Error, ValueError):
            raise invalid("content must be base64") from None
        return self.write(call, content)

    def write(self, call: Call, content: bytes) -> Json:
        """Write a notebook or file."""
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
        return {}

    def export(self, path: str) -> tuple[bytes, str]:
        """The content of a notebook or file, and its file type."""
        local = self._existing(path)
        if local.is_dir():
            raise invalid(f"{path} is a folder: only notebooks and files can be exported here")
        return local.read_bytes(), local.suffix.lstrip(".") or "py"

    def status(self, call: Call) -> Json:
        """What lies at a path."""
        path = call.text("path")
        return _info(self._name(path), self._existing(path))

    def list(self, call: Call) -> Json:
        """The entries of a folder (of a file: itself)."""
        path = call.text("path")
        local = self._existing(path)
        if not local.is_dir():
            return {"objects": [_info(self._name(path), local)]}
        base = self._name(path).rstrip("/")
        entries = [_info(f"{base}/{child.name}", child) for child in sorted(local.iterdir())]
        return {"objects": entries} if entries else {}

    def delete(self, call: Call) -> Json:
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
        return {}

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


def _info(path: str, local: Path) -> Json:
    stat = local.stat()
    info: Json = {
        "path": path,
        "object_id": int.from_bytes(hashlib.sha256(path.encode()).digest()[:6], "big"),
        "modified_at": int(stat.st_mtime * 1000),
        "created_at": int(stat.st_mtime * 1000),
    }
    if local.is_dir():
        return {**info, "object_type": "DIRECTORY"}
    with local.open("rb") as file:
        head = file.read(64).decode("utf-8", "replace")
    language = next((name for name, marker in _MARKERS.items() if head.startswith(marker)), None)
    if language == "PYTHON" and local.suffix in {".r", ".R"}:
        language = "R"
    if language is None:
        return {**info, "object_type": "FILE", "size": stat.st_size}
    return {**info, "object_type": "NOTEBOOK", "language": language}


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


def routes(layout: Layout) -> list[Route]:
    """The routes of `/api/2.0/workspace`."""
    files = WorkspaceFiles(layout)

    async def import_(request: Request) -> Response:
        try:
            if request.headers.get("content-type", "").startswith("multipart/form-data"):
                call, content = _form(request, await request.body())
                return reply(await run_in_threadpool(files.write, call, content))
            return reply(await run_in_threadpool(files.import_, await parse(request)))
        except ApiError as problem:
            return refusal(problem)

    async def export(request: Request) -> Response:
        try:
            call = await parse(request)
            content, kind = await run_in_threadpool(files.export, call.text("path"))
            if call.flag("direct_download"):
                return Response(content, media_type="application/octet-stream")
            return reply({"content": base64.b64encode(content).decode(), "file_type": kind})
        except ApiError as problem:
            return refusal(problem)

    base = "/api/2.0/workspace"
    return [
        Route(f"{base}/import", import_, methods=["POST"]),
        Route(f"{base}/export", export, methods=["GET"]),
        route("POST", f"{base}/mkdirs", files.mkdirs),
        route("GET", f"{base}/get-status", files.status),
        route("GET", f"{base}/list", files.list),
        route("POST", f"{base}/delete", files.delete),
    ]

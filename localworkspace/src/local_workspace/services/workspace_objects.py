"""Workspace API: notebooks, files and folders. A notebook is a file with its marker line."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from databricks.sdk.service import workspace as shapes
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local_workspace.errors import ApiError, invalid, missing
from local_workspace.http import Call, async_route, route, upload
from local_workspace.layout import Layout, inside, make_folders, open_regular, remove
from local_workspace.workspace import Workspace

_LANGUAGES = {".py": "PYTHON", ".sql": "SQL", ".scala": "SCALA", ".r": "R", ".R": "R"}
_LARGEST = 10 * 1024 * 1024  # the limit of import and export on Databricks
_COMMENTS: Mapping[str, str] = {"PYTHON": "#", "SQL": "--", "SCALA": "//", "R": "#"}
_MARKERS = {language: f"{mark} Databricks notebook source" for language, mark in _COMMENTS.items()}
_NBFORMAT = 4


class WorkspaceObjects:
    """The service's functions."""

    def __init__(self, layout: Layout) -> None:
        self._root = layout.workspace

    def mkdirs(self, call: Call) -> None:
        """Make a folder and its parents."""
        make_folders(self._local(call.text("path")), _taken(call.text("path")))

    async def import_(self, request: Request) -> None:
        """Write a notebook or file: from JSON with base64 content, or from a form."""
        await run_in_threadpool(self._write, *await upload(request, "content"))

    def _write(self, call: Call, content: bytes) -> None:
        path, kind = call.text("path"), call.body.get("format") or "SOURCE"
        if kind == "AUTO" and path.endswith(".ipynb"):
            kind, path = "JUPYTER", path.removesuffix(".ipynb")
        if kind not in {"SOURCE", "AUTO", "RAW", "JUPYTER"}:
            raise invalid(f"The local workspace imports SOURCE, AUTO, RAW and JUPYTER, not {kind}")
        if len(content) > _LARGEST:
            raise ApiError(400, "MAX_NOTEBOOK_SIZE_EXCEEDED", f"The content exceeds {_LARGEST} bytes")
        if kind == "SOURCE":
            language = call.body.get("language") or _LANGUAGES.get(Path(path).suffix)
            if language not in _MARKERS:
                raise invalid("The format SOURCE needs a language, one of " + ", ".join(_MARKERS))
            marker = _MARKERS[language].encode()
            content = content if content.startswith(marker) else marker + b"\n" + content
        if kind == "JUPYTER":
            _, content = _from_jupyter(content)
        local = self._local(path)
        if not local.parent.is_dir():
            raise missing(f"The parent folder ({path.rpartition('/')[0]}) does not exist.")
        if local.is_dir() or (local.exists() and not call.flag("overwrite")):
            raise _taken(path)
        temporary = local.with_name(f".{local.name}.{threading.get_ident()}")
        temporary.write_bytes(content)
        temporary.replace(local)

    def export(self, call: Call) -> shapes.ExportResponse | Response:
        """The content of a notebook or file, in base64 or `direct_download`; a notebook also as JUPYTER."""
        path, wanted = call.text("path"), call.query.get("format") or "SOURCE"
        local = self._existing(path)
        if local.is_dir():
            raise invalid(f"{path} is a folder: only notebooks and files can be exported here")
        with open_regular(local) as file:
            content, kind = file.read(), local.suffix.lstrip(".") or "py"
        language = _info(path, local).language
        if wanted == "JUPYTER" and language is not None:
            content, kind = _to_jupyter(content.decode("utf-8", "replace"), language.value), "ipynb"
        elif wanted not in {"SOURCE", "AUTO", "RAW"}:
            raise invalid(f"{path} cannot be exported as {wanted}: use SOURCE, or JUPYTER for a notebook")
        if call.flag("direct_download"):
            return Response(content, media_type="application/octet-stream")
        return shapes.ExportResponse(content=base64.b64encode(content).decode(), file_type=kind)

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
        found = [_info(f"{base}/{child.name}", child) for child in sorted(local.iterdir())]
        if since := call.number("notebooks_modified_after", 0):
            found = [info for info in found if info.language is None or (info.modified_at or 0) > since]
        return shapes.ListResponse(found)

    def delete(self, call: Call) -> None:
        """Remove a file or folder; a folder with entries only when `recursive`."""
        path = call.text("path")
        local = self._existing(path)
        if local == self._root:
            raise invalid("The root folder cannot be deleted")
        full = ApiError(400, "DIRECTORY_NOT_EMPTY", f"Folder ({path}) is not empty")
        remove(local, recursive=call.flag("recursive"), full=full)

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


def _taken(path: str) -> ApiError:
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
    head = ""
    with contextlib.suppress(ApiError), open_regular(local) as file:  # a link or a pipe has none
        head = file.read(64).decode("utf-8", "replace")
    language = next((name for name, marker in _MARKERS.items() if head.startswith(marker)), None)
    if language == "PYTHON" and local.suffix in {".r", ".R"}:
        language = "R"
    if language is None:
        info.object_type, info.size = shapes.ObjectType.FILE, stat.st_size
    else:
        info.object_type, info.language = shapes.ObjectType.NOTEBOOK, shapes.Language(language)
    return info


# --- notebooks between their two forms: source files with marker lines, and Jupyter documents


def _to_jupyter(source: str, language: str) -> bytes:
    """A notebook's source as a Jupyter document. A `%md` cell becomes Markdown."""
    mark = _COMMENTS[language]
    body = source.removeprefix(_MARKERS[language]).lstrip("\n")
    cells = [
        _cell(text.strip("\n"), f"{mark} MAGIC ") for text in body.split(f"\n{mark} COMMAND ----------\n")
    ]
    document = {
        "cells": cells if body.strip() else [],
        "metadata": {"language_info": {"name": language.lower()}},
        "nbformat": _NBFORMAT,
        "nbformat_minor": 0,
    }
    return json.dumps(document, ensure_ascii=False, indent=1).encode()


def _cell(text: str, magic: str) -> dict[str, Any]:
    if text.startswith(magic.rstrip()):
        lines = text.splitlines()
        text = "\n".join(line.removeprefix(magic.rstrip()).removeprefix(" ") for line in lines)
    if text.startswith("%md"):
        return {
            "cell_type": "markdown",
            "metadata": {},
            "source": _lines(text.removeprefix("%md").lstrip(" \n")),
        }
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": _lines(text),
    }


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _from_jupyter(content: bytes) -> tuple[str, bytes]:
    """The language and the source of a Jupyter document. Raises ApiError (400)."""
    try:
        document = json.loads(content)
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in document["cells"]]
        metadata = document.get("metadata") or {}
        name = (metadata.get("language_info") or metadata.get("kernelspec") or {}).get("name") or "python"
    except (ValueError, KeyError, TypeError, AttributeError):
        raise invalid("The content is not a Jupyter notebook of version 4") from None
    language = next((item for item in _COMMENTS if str(name).upper().startswith(item)), "PYTHON")
    mark = _COMMENTS[language]
    texts = []
    for kind, text in cells:
        if kind == "markdown" or text.startswith("%"):
            text = f"%md\n{text}" if kind == "markdown" else text
            text = "\n".join(f"{mark} MAGIC {line}".rstrip() for line in text.splitlines())
        texts.append(text.rstrip("\n"))
    return language, f"\n\n{mark} COMMAND ----------\n\n".join(
        [f"{_MARKERS[language]}\n{'' if not texts else texts[0]}", *texts[1:]]
    ).encode()


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
        # Git folders: nothing makes one.
        route("GET", "/api/2.0/repos", lambda _call: shapes.ListReposResponse()),
    ]

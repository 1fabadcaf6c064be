"""What a text, a file or a folder looks like, in few words and by few, bounded reads."""

from __future__ import annotations

import json
from collections import Counter, deque
from pathlib import PurePosixPath

from databricks_rlm_agent.domain.text import storable
from databricks_rlm_agent.errors import NotFound
from databricks_rlm_agent.ports import FileEntry, Volume

END_CHARS = 200
_END_BYTES = 4 * END_CHARS  # a character has at most four
_PATH_CHARS = 120
_LISTINGS, _ENTRIES = 20, 2_000
_KINDS, _NAMES = 4, 4
# How files begin whose content says nothing to a reader.
_MAGIC = {b"PAR1": "Parquet", b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"%PDF": "PDF", b"Obj\x01": "Avro"}
_BINARY_SHARE = 0.05
_UNITS = ("bytes", "KB", "MB", "GB", "TB")


def short(text: str, limit: int) -> str:
    """``text``, or its beginning and an ellipsis; at most ``limit`` characters."""
    return storable(text if len(text) <= limit else f"{text[: limit - 1]}…")


def counted(number: int, what: str) -> str:
    """``1 row``, ``2,000 rows``."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def excerpt(head: str, tail: str) -> str:
    """The beginning and the end of a text; ``head`` and ``tail`` are the same where they hold all of it."""
    if head == tail and len(head) <= END_CHARS:
        return f"all of it: {_cited(head)}" if head else "empty"
    half = END_CHARS if head != tail or len(head) >= 2 * END_CHARS else len(head) // 2
    return f"begins {_cited(head[:half])}, ends {_cited(tail[-half:], end=True)}"


def file_note(volume: Volume, path: str) -> str:
    """A file: its size, and its head and tail if it is a text."""
    entry = volume.look(path)
    if entry is None:
        raise NotFound(f"There is nothing at {short(path, _PATH_CHARS)}.")
    if entry.is_directory:
        return f"{short(path, _PATH_CHARS)}; it is a folder"
    size = entry.size or 0
    head = volume.get(path, length=_END_BYTES) if size else b""
    tail = head if size <= _END_BYTES else volume.get(path, offset=size - _END_BYTES, length=_END_BYTES)
    binary = _binary(head, tail)
    says = f"{binary}, not text" if binary else excerpt(_decoded(head), _decoded(tail))
    return f"{short(path, _PATH_CHARS)}; {sized(size)}; {says}"


def folder_note(volume: Volume, path: str) -> str:
    """A folder: how many files, how large and of which kinds; counting stops after 2,000 entries."""
    files, complete = _files(volume, path)
    least = "" if complete else "at least "
    kinds = Counter(PurePosixPath(file.path).suffix or "no suffix" for file in files).most_common(_KINDS)
    names = [short(file.path.removeprefix(path).strip("/"), 60) for file in files[:_NAMES]]
    parts = [
        short(path, _PATH_CHARS),
        f"{least}{counted(len(files), 'file')}, {least}{sized(sum(file.size or 0 for file in files))}",
        ", ".join(f"{count:,} of {short(kind, 20)}" for kind, count in kinds),
        f"such as {json.dumps(names, ensure_ascii=False)}" if names else "",
    ]
    return "; ".join(part for part in parts if part)


def sized(size: int) -> str:
    """A number of bytes, as people say it; the exact number as well."""
    amount, unit = float(size), 0
    while amount >= 1_000 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1_000, unit + 1
    return counted(size, "byte") + (f" ({amount:.1f} {_UNITS[unit]})" if unit else "")


def _files(volume: Volume, path: str) -> tuple[list[FileEntry], bool]:
    """The files below a folder, nearest first, and whether these are all."""
    folders, seen = deque([path]), 0
    files: list[FileEntry] = []
    for _ in range(_LISTINGS):
        entries = volume.list(folders.popleft(), limit=_ENTRIES - seen + 1)
        seen += len(entries)
        if seen > _ENTRIES:
            return [*files, *(entry for entry in entries if not entry.is_directory)][:_ENTRIES], False
        folders += [entry.path for entry in entries if entry.is_directory]
        files += [entry for entry in entries if not entry.is_directory]
        if not folders:
            return files, True
    return files, False


def _binary(head: bytes, tail: bytes) -> str | None:
    """What kind of file it is if it is no text."""
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    both = _decoded(head) + _decoded(tail)
    odd = sum(not (char.isprintable() or char.isspace()) or char == "\ufffd" for char in both)
    return "binary" if b"\0" in head + tail or odd > _BINARY_SHARE * len(both) else None


def _decoded(content: bytes) -> str:
    """UTF-8, without the characters that a cut has split at either end."""
    start = 0
    while start < min(3, len(content)) and content[start] & 0xC0 == 0x80:
        start += 1
    text = content[start:].decode("utf-8", "replace")
    return text.rstrip("\ufffd") if len(content) == _END_BYTES else text


def _cited(text: str, *, end: bool = False) -> str:
    """A text in quotes, on one line, with at most 200 characters in between."""
    said = json.dumps(text, ensure_ascii=False)[1:-1]
    if len(said) > END_CHARS:
        said = f"…{said[1 - END_CHARS :]}" if end else f"{said[: END_CHARS - 1]}…"
    return f'"{storable(said)}"'

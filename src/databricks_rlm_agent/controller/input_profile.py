"""The input profile: short notes on the tables, files and folders that a run is given."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from databricks_rlm_agent.errors import NotFound, RlmError
from databricks_rlm_agent.ports import Catalog, FileEntry, Volume
from databricks_rlm_agent.retry import is_transient
from databricks_rlm_agent.values import SqlSession, clip, quoted_table, storable

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
    """Return the kind of a file that is no text."""
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
    quoted = json.dumps(text, ensure_ascii=False)[1:-1]
    if len(quoted) > END_CHARS:
        quoted = f"…{quoted[1 - END_CHARS :]}" if end else f"{quoted[: END_CHARS - 1]}…"
    return f'"{storable(quoted)}"'


NOTE_CHARS = 600
MAX_INPUTS = 16
_NAME_CHARS = 120
_SCHEMA_CHARS = 220
_TYPE_CHARS = 30
_ROWS, _COLUMNS, _CELL_CHARS, _ROW_CHARS = 3, 8, 20, 65


@dataclass(frozen=True, kw_only=True)
class InputProfiler:
    """Describes inputs. ``sql`` should be a session of its own: counting the rows of a view may take long."""

    volume: Volume
    catalog: Catalog
    sql: SqlSession

    def notes(self, inputs: Mapping[str, Any]) -> dict[str, str]:
        """Return a note of at most 600 characters on each of the first 16 inputs, by name.

        The note on an input that cannot be read says why. Transient errors of the workspace (Unreachable,
        Throttled, Conflict, Unauthorized) are raised.
        """
        return {name: self._note(given) for name, given in list(inputs.items())[:MAX_INPUTS]}

    def _note(self, given: Any) -> str:
        readers: dict[str, Callable[[], str]] = {
            "table": lambda: self._table(given["name"]),
            "file": lambda: f"file {file_note(self.volume, given['path'])}",
            "answer": lambda: f"answer of a child run, in {file_note(self.volume, given['path'])}",
            "folder": lambda: f"folder {folder_note(self.volume, given['path'])}",
            "text": lambda: _text(given["text"]),
        }
        kind = given.get("kind") if isinstance(given, dict) else None
        if kind not in readers:
            return "not a handle of a known kind"
        return clip(_or_why(readers[kind], f"{kind}; it cannot be looked at"), NOTE_CHARS)

    def _table(self, name: str) -> str:
        quoted = quoted_table(name)
        columns = self.catalog.describe(name)
        rows = _or_why(lambda: self._count(quoted), "rows cannot be counted")
        head = _or_why(lambda: self._head(quoted, columns), "rows cannot be shown")
        parts = [
            f"table {short(name, _NAME_CHARS)}",
            rows,
            f"{counted(len(columns), 'column')}: {_schema(columns)}",
            head,
        ]
        return "; ".join(part for part in parts if part)

    def _count(self, quoted: str) -> str:
        found = self.sql.fetch(f"SELECT count(*) AS n FROM {quoted}")  # noqa: S608 - checked name
        return counted(int(found[0]["n"]), "row")

    def _head(self, quoted: str, columns: Sequence[tuple[str, str]]) -> str:
        """The first rows; cells are cut off in the warehouse, so that none comes whole."""
        shown = [(name, kind) for name, kind in columns if kind.lower() != "binary"][:_COLUMNS]
        if not shown:
            return ""
        cells = ", ".join(f"substr(CAST({_quoted(name)} AS STRING), 1, {_CELL_CHARS + 1}) AS c{n}"
                          for n, (name, _) in enumerate(shown))  # fmt: skip
        found = self.sql.fetch(f"SELECT {cells} FROM {quoted} LIMIT {_ROWS}")  # noqa: S608 - checked, quoted
        rows = [short(_row([row[f"c{n}"] for n in range(len(shown))]), _ROW_CHARS) for row in found]
        of = "" if len(shown) == len(columns) else f" of {', '.join(short(name, 20) for name, _ in shown)}"
        return f"first rows{short(of, 60)}: {' '.join(rows)}" if rows else ""


def _or_why(read: Callable[[], str], otherwise: str) -> str:
    """Return what ``read`` returns, or why it fails; raise transient errors."""
    try:
        return read()
    except RlmError as error:
        if is_transient(error):
            raise
        reason = error.what
    except Exception as error:  # noqa: BLE001 -- a strange input must not end the run: the note says so
        reason = f"{type(error).__name__}: {error}"
    return f"{otherwise}: {short(reason, 200)}"


def _schema(columns: Sequence[tuple[str, str]]) -> str:
    """As many columns with their types as there is room for."""
    shown: list[str] = []
    room = _SCHEMA_CHARS
    for name, kind in columns:
        text = f"{short(name, 60)} {short(kind, _TYPE_CHARS)}"
        room -= len(text) + 2
        if room < 0:
            return f"{', '.join(shown)} and {len(columns) - len(shown)} more"
        shown.append(text)
    return ", ".join(shown)


def _row(cells: Sequence[str | None]) -> str:
    return json.dumps(
        [None if cell is None else short(cell, _CELL_CHARS) for cell in cells], ensure_ascii=False
    )


def _quoted(column: str) -> str:
    return f"`{column.replace('`', '``')}`"


def _text(text: str) -> str:
    lines = counted(text.count("\n") + (text[-1:] not in {"", "\n"}), "line")
    return f"text; {counted(len(text), 'character')}; {lines}; {excerpt(text, text)}"

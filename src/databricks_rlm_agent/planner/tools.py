"""The planner's read-only tools. The docstrings are what the model reads; every answer is bounded."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.ports import Catalog, Ledger, SqlSession, Volume
from databricks_rlm_agent.values import check_table_name, check_volume_path, clip, quoted_table

MAX_CHARS = 4_000
"""Largest answer of one tool call, in characters of JSON."""
_VALUE_CHARS = 200
_CONTENT_CHARS = 3_600  # what is left for the content beside names, counts and marks
_MAX_ROWS = 20
_MAX_TABLES = 100
_MAX_LENGTH = 4_000


@dataclass(frozen=True, kw_only=True)
class Toolbox:
    """Reads of the catalog, of tables and of Volumes, for one namespace. Errors are RlmErrors.

    ``tools`` are the same for all runs; a run's own earlier results are read by planner/results.py.
    """

    volume: Volume
    catalog: Catalog
    sql: SqlSession
    namespace: Namespace
    ledger: Ledger | None = None

    @property
    def tools(self) -> tuple[Callable[..., Any], ...]:
        """The functions that the model may call."""
        return (
            self.search_catalog,
            self.describe_table,
            self.sample_table,
            self.list_files,
            self.read_file,
        )

    def search_catalog(self, text: str = "") -> dict[str, Any]:
        """Find tables whose name contains a text; an empty text finds all tables.

        Args:
            text: A part of a table's name.
        """
        names, left_out = fit_items(self.catalog.search(text, limit=_MAX_TABLES))
        return {"tables": names, "left_out": left_out}

    def describe_table(self, table: str) -> dict[str, Any]:
        """List the columns of a table with their types.

        Args:
            table: The full name, catalog.schema.table.
        """
        columns = self.catalog.describe(check_table_name(table))
        shown, left_out = fit_items(f"{short_value(name)} {short_value(kind)}" for name, kind in columns)
        return {"table": table, "columns": shown, "left_out": left_out}

    def sample_table(self, table: str, rows: int = 5) -> dict[str, Any]:
        """Show a few rows of a table.

        Args:
            table: The full name, catalog.schema.table.
            rows: How many rows, at most 20.
        """
        quoted = quoted_table(table)
        count = max(1, min(rows, _MAX_ROWS))
        # The name is checked and quoted, and the count is a number: nothing can be injected.
        found = self.sql.fetch(f"SELECT * FROM {quoted} LIMIT {count:d}")  # noqa: S608 - checked name
        shown, left_out = fit_items(
            {short_value(name): short_value(value) for name, value in row.items()} for row in found
        )
        return {"table": table, "rows": shown, "left_out": left_out}

    def list_files(self, path: str = "") -> dict[str, Any]:
        """List the files in a Volume folder.

        Args:
            path: A folder under /Volumes; if it is empty, the run's own Volume.
        """
        folder = check_volume_path(path or self.namespace.volume_root)
        entries = (
            {"path": entry.path, "folder": True}
            if entry.is_directory
            else {"path": entry.path, "size": entry.size}
            for entry in self.volume.list(folder)
        )
        shown, left_out = fit_items(entries)
        return {"folder": folder, "entries": shown, "left_out": left_out}

    def read_file(self, path: str, offset: int = 0, length: int = _MAX_LENGTH) -> dict[str, Any]:
        """Read a slice of a text file in a Volume.

        Args:
            path: A file under /Volumes.
            offset: The byte to start at.
            length: How many bytes, at most 4000.
        """
        file = check_volume_path(path)
        start, wanted = slice_of(offset, length)
        content = self.volume.get(file, offset=start, length=wanted)
        return {"path": file, **text_answer(content, start, wanted)}


def slice_of(offset: int, length: int) -> tuple[int, int]:
    """Start and length in bytes of what is read of a file, within bounds."""
    return max(0, offset), max(1, min(length, _MAX_LENGTH))


def text_answer(content: bytes, start: int, wanted: int) -> dict[str, Any]:
    """The text of ``content``, which was read at ``start``, and where to go on."""
    text, used = fit_text(content)
    # A short answer to the question for `wanted` bytes means the end of the file.
    more = used < len(content) or len(content) == wanted
    return {"text": text, "next_offset": start + used if more else None}


def json_chars(value: Any) -> int:
    """Characters of a value's JSON."""
    return len(json.dumps(value, ensure_ascii=False, default=str))


def short_value(value: Any) -> Any:
    """A value short enough to show; numbers, booleans and None stay what they are."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return clip(str(value), _VALUE_CHARS)


def fit_items(items: Iterable[Any]) -> tuple[list[Any], int]:
    """Return the first items that fit into an answer, and how many were left out."""
    everything = list(items)
    fitting: list[Any] = []
    left = _CONTENT_CHARS
    for item in everything:
        left -= json_chars(item) + 2
        if left < 0:
            break
        fitting.append(item)
    return fitting, len(everything) - len(fitting)


def fit_text(content: bytes) -> tuple[str, int]:
    """Return the beginning of a UTF-8 text that fits into an answer, and its length in bytes."""
    piece = content[:_CONTENT_CHARS]
    while True:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(piece)
        pending = len(decoder.getstate()[0])  # of a character that the cut has split: left for the next call
        if len(piece) == len(content) and pending:
            text, pending = piece.decode("utf-8", "replace"), 0
        if json_chars(text) <= _CONTENT_CHARS:
            return text, len(piece) - pending
        piece = piece[: len(piece) * 3 // 4]

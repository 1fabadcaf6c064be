"""The planner's read-only tools: catalog, tables, Volumes, and a run's own earlier results.

The docstrings are what the model reads; every answer is bounded. What the capsule had to drop stays reachable
here. The model never names the run: results of other runs cannot be read here.
"""

from __future__ import annotations

import codecs
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from databricks_rlm_agent.attempts.excerpts import Match, TextPattern, find_lines
from databricks_rlm_agent.attempts.manifest import Closing, parse_intent
from databricks_rlm_agent.attempts.result import Result
from databricks_rlm_agent.errors import InvalidData, NotFound, UsageError
from databricks_rlm_agent.layout import MANIFEST, RESULT, STDERR, STDOUT, Namespace
from databricks_rlm_agent.ports import Catalog, Ledger, PlanningContext, Volume
from databricks_rlm_agent.values import (
    Row,
    SqlSession,
    check_table_name,
    check_volume_path,
    clip,
    quoted_table,
)

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

    ``tools`` are the same for all runs; a run's own earlier results are read by ``Results``.
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

    def results(self, context: PlanningContext) -> Results:
        """The earlier results of a run."""
        return Results(
            run_id=context.run_id,
            iter_n=context.iter_n,
            volume=self.volume,
            namespace=self.namespace,
            ledger=self.ledger,
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


Part = Literal["value", "stdout", "stderr", "error", "metrics", "produced", "log", "code"]
_FILES = {"stdout": STDOUT, "stderr": STDERR}
_ATTEMPT = "attempt_"
_MAX_DOCUMENT = 4 * 1024 * 1024  # bytes of a result or manifest; no executor of ours writes more
_SEARCHED_BYTES = 2 * 1024 * 1024  # of a file: half of them at its head, half at its tail
_SEARCH_S = 10.0
_MAX_MATCHES = 20


@dataclass(frozen=True, kw_only=True)
class Results:
    """Reads of the earlier results of one run, which is at iteration ``iter_n``. Errors are RlmErrors.

    ``ledger`` has results of which there is no file. ``clock`` counts seconds: a search ends after ten of
    them, and its answer says how far it came.
    """

    run_id: str
    iter_n: int
    volume: Volume
    namespace: Namespace
    ledger: Ledger | None = None
    clock: Callable[[], float] = time.monotonic

    @property
    def tools(self) -> tuple[Callable[..., Any], ...]:
        """The tools of this run; none in its first iteration."""
        return (self.read_result, self.search_results) if self.iter_n > 1 else ()

    def read_result(
        self, iteration: int, part: Part = "value", offset: int = 0, length: int = 4_000
    ) -> dict[str, Any]:
        """Read part of an earlier iteration's result, such as its whole stdout or its program.

        Args:
            iteration: The number of the iteration.
            part: "value" is what the program passed to rlm.finish, "error" its error with the traceback,
                "produced" its tables and files, "code" the program itself; or "stdout", "stderr", "metrics",
                "log".
            offset: The byte to start at.
            length: How many bytes, at most 4000.
        """
        folder = self._folder(self._checked(iteration))
        start, wanted = slice_of(offset, length)
        content = self._content(folder, iteration, part, start, wanted)
        return {"iteration": iteration, "part": part, **text_answer(content, start, wanted)}

    def search_results(self, text: str, iteration: int | None = None) -> dict[str, Any]:
        """Find a text in the values, errors, outputs and programs of this run's earlier iterations.

        Args:
            text: What to find within a line, in any case. `|` separates alternatives and `.*` stands for
                anything in between; everything else is taken literally.
            iteration: Search only this iteration; without it all of them, newest first.
        """
        pattern = TextPattern.parse(text)
        wanted = range(self.iter_n - 1, 0, -1) if iteration is None else [self._checked(iteration)]
        until = self.clock() + _SEARCH_S
        found: list[dict[str, Any]] = []
        searched = 0
        for n in wanted:
            for match in self._matches(n, pattern):
                found.append(match)
                if len(found) >= _MAX_MATCHES:
                    break
            searched = n
            if len(found) >= _MAX_MATCHES or self.clock() > until:
                break
        shown, left_out = fit_items(found)
        answer: dict[str, Any] = {"matches": shown, "left_out": left_out}
        if iteration is None and searched > 1:
            answer["not_searched"] = f"iterations 1 to {searched - 1}"
        return answer

    def _matches(self, iteration: int, pattern: TextPattern) -> Iterator[dict[str, Any]]:
        """The places in one iteration's result, with the offsets by which read_result finds them."""
        folder = self._folder(iteration)
        for part, text in self._documents(folder, iteration).items():
            for match in find_lines(text.encode("utf-8", "replace"), pattern):
                yield _found(iteration, part, match)
        program = self._program(folder)
        files = {part: f"{folder}/{name}" for part, name in _FILES.items()}
        for name, path in (files | ({"code": program} if program else {})).items():
            size = self._sizes(path.rpartition("/")[0]).get(path.rpartition("/")[2]) or 0
            half = _SEARCHED_BYTES // 2
            for start, end in [(0, size)] if size <= _SEARCHED_BYTES else [(0, half), (size - half, size)]:
                content = self.volume.get(path, offset=start, length=end - start) if end else b""
                for match in find_lines(content, pattern, offset=start):
                    yield _found(iteration, name, match)

    def _content(self, folder: str, iteration: int, part: Part, start: int, wanted: int) -> bytes:
        if part in _FILES:
            return self.volume.get(f"{folder}/{_FILES[part]}", offset=start, length=wanted)
        if part == "code":
            program = self._program(folder)
            if program is None:
                raise NotFound(f"Iteration {iteration} ran no program.")
            return self.volume.get(program, offset=start, length=wanted)
        documents = self._documents(folder, iteration)
        if not documents:
            raise NotFound(f"Iteration {iteration} left no result.")
        return documents.get(part, "").encode("utf-8", "replace")[start : start + wanted]

    def _documents(self, folder: str, iteration: int) -> dict[Part, str]:
        """The parts of a result that hold anything, by name; from the ledger if the file is not there."""
        try:
            content = self.volume.get(f"{folder}/{RESULT}", length=_MAX_DOCUMENT)
            parts = _parts(Result.parse(content, where=folder))
        except (NotFound, InvalidData):
            rows = [row for row in self._rows if row["iter_n"] == iteration]
            parts = _row_parts(rows[-1]) if rows else {}
        return {part: text for part, text in parts.items() if text}

    def _program(self, folder: str) -> str | None:
        """The path of an attempt's program, which its manifest names; None where there was none."""
        try:
            content = self.volume.get(f"{folder}/{MANIFEST}", length=_MAX_DOCUMENT)
            intent = parse_intent(content, where=folder)
        except (NotFound, InvalidData):
            return None
        return None if isinstance(intent, Closing) else intent.request.artifact.path

    def _checked(self, iteration: int) -> int:
        if not 1 <= iteration < self.iter_n:
            known = f"There are 1 to {self.iter_n - 1}." if self.iter_n > 1 else "There is none yet."
            raise UsageError(f"There is no earlier iteration {iteration}.", fix=known)
        return iteration

    def _folder(self, iteration: int) -> str:
        """The folder of an iteration's last attempt."""
        first = self.namespace.attempt_dir(self.run_id, iteration, 1)
        later = [name.removeprefix(_ATTEMPT) for name in self._sizes(first) if name.startswith(_ATTEMPT)]
        numbers = [int(name) for name in later if name.isdecimal()]
        return self.namespace.attempt_dir(self.run_id, iteration, max(numbers, default=1))

    def _sizes(self, folder: str) -> dict[str, int | None]:
        """The names in a folder with their sizes; nothing where there is no such folder."""
        try:
            entries = self.volume.list(folder)
        except NotFound:
            return {}
        return {entry.path.rstrip("/").rpartition("/")[2]: entry.size for entry in entries}

    @cached_property
    def _rows(self) -> list[Row]:
        return list(self.ledger.results(self.run_id)) if self.ledger else []


def _found(iteration: int, part: str, match: Match) -> dict[str, Any]:
    return {"iteration": iteration, "part": part, "offset": match.offset, "line": short_value(match.line)}


def _parts(result: Result) -> dict[Part, str]:
    error = f"{result.error_type}: {result.error_summary or ''}" if result.error_type else ""
    return {
        "value": "" if result.value is None else _json(result.value),
        "error": "\n".join(text for text in (error, result.traceback) if text),
        "metrics": _json(result.metrics) if result.metrics else "",
        "produced": "\n".join(
            [
                *(f"table {table.name} {', '.join(table.columns or ())}" for table in result.produced_tables),
                *(f"file {artifact.path}" for artifact in result.produced_artifacts),
            ]
        ),
        "log": "\n".join(result.log),
    }


def _row_parts(row: Mapping[str, Any]) -> dict[Part, str]:
    error = f"{row['error_type']}: {row['error_summary'] or ''}" if row["error_type"] else ""
    produced = f"{row['produced_tables'] or ''}\n{row['produced_artifacts'] or ''}".strip()
    return {"error": error, "metrics": row["metrics"] or "", "produced": produced}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str, indent=1)

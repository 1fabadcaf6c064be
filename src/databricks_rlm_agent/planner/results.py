"""The planner's read-only tools over a run's earlier results: what the capsule had to drop stays reachable.

The docstrings are what the model reads; every answer is bounded. The run is the turn's own and never named by
the model: results of other runs cannot be read here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

from databricks_rlm_agent.attempts.manifest import Closing, parse_intent
from databricks_rlm_agent.attempts.result import Result
from databricks_rlm_agent.errors import InvalidData, NotFound, UsageError
from databricks_rlm_agent.layout import MANIFEST, RESULT, STDERR, STDOUT, Namespace
from databricks_rlm_agent.planner.tool_answers import cell, take, take_text
from databricks_rlm_agent.ports import Ledger, Row, Volume

_WORDS_CHARS = 300
_WINDOW_BYTES = 8_000  # a longer line is looked at in windows that overlap
_OVERLAP_BYTES = 1_000
_SHOWN_CHARS = 160


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A line, or a piece of a long one, that holds the words; ``offset`` is where it begins, in bytes."""

    offset: int
    line: str


@dataclass(frozen=True, kw_only=True)
class Words:
    """Alternatives, each a row of texts that must follow one another in a line; in small letters."""

    alternatives: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``a|b.*c``; raise UsageError for what would find everything or is too long."""
        alternatives = tuple(
            tuple(word for word in part.lower().split(".*") if word) for part in text.split("|")
        )
        if not all(alternatives) or len(text) > _WORDS_CHARS:
            raise UsageError(
                f"There is nothing to search for, or it has more than {_WORDS_CHARS} characters.",
                fix="Give words; `|` stands between alternatives, `.*` for anything in between.",
            )
        return cls(alternatives=alternatives)

    def place(self, line: str) -> int | None:
        """Where in ``line`` the words begin, or None."""
        small = line.lower()
        places = [place for words in self.alternatives if (place := _place(small, words)) is not None]
        return min(places, default=None)


def hits(blocks: Iterable[bytes], words: Words, *, offset: int = 0) -> Iterator[Hit]:
    """The lines with the words, of blocks that begin at ``offset`` of their file."""
    held = b""
    for block in blocks:
        *lines, held = (held + block).split(b"\n")
        for line in lines:
            yield from _in_line(line, words, offset)
            offset += len(line) + 1
        while len(held) > 2 * _WINDOW_BYTES:
            yield from _in_line(held[:_WINDOW_BYTES], words, offset)
            held = held[_WINDOW_BYTES - _OVERLAP_BYTES :]
            offset += _WINDOW_BYTES - _OVERLAP_BYTES
    yield from _in_line(held, words, offset)


def _in_line(line: bytes, words: Words, offset: int) -> Iterator[Hit]:
    for start in range(0, max(1, len(line) - _OVERLAP_BYTES), _WINDOW_BYTES - _OVERLAP_BYTES):
        text = line[start : start + _WINDOW_BYTES].decode("utf-8", "replace")
        place = words.place(text)
        if place is not None:
            begin = max(0, place - _SHOWN_CHARS // 4)
            before = len(text[:begin].encode("utf-8", "replace"))
            yield Hit(offset=offset + start + before, line=text[begin : begin + _SHOWN_CHARS])


def _place(line: str, words: tuple[str, ...]) -> int | None:
    first = end = line.find(words[0])
    for word in words:
        found = line.find(word, end) if end >= 0 else -1
        if found < 0:
            return None
        end = found + len(word)
    return first


Part = Literal["value", "stdout", "stderr", "error", "metrics", "produced", "log", "code"]
_FILES = {"stdout": STDOUT, "stderr": STDERR}
_ATTEMPT = "attempt_"
_MAX_LENGTH = 4_000
_MAX_DOCUMENT = 4 * 1024 * 1024  # bytes of a result or manifest; no executor of ours writes more
_BLOCK_BYTES = 256 * 1024
_SEARCHED_BYTES = 2 * 1024 * 1024  # of a file: half of them at its head, half at its tail
_SEARCH_S = 10.0
_MAX_HITS = 20


@dataclass(frozen=True, kw_only=True)
class Results:
    """Reads of the earlier results of one run, which is at iteration ``iter_n``. Errors are RlmErrors.

    ``clock`` counts seconds: a search ends after ten of them, and says how far it came.
    """

    run_id: str
    iter_n: int
    volume: Volume
    namespace: Namespace
    ledger: Ledger | None = None
    clock: Callable[[], float] = time.monotonic

    @property
    def tools(self) -> tuple[Callable[..., Any], ...]:
        """The tools of this run."""
        return (self.read_result, self.search_results)

    def read_result(
        self, iteration: int, part: Part = "value", offset: int = 0, length: int = _MAX_LENGTH
    ) -> dict[str, Any]:
        """Read a part of what an earlier iteration of this run left, such as its whole stdout or its program.

        Args:
            iteration: The number of the iteration.
            part: "value" is what the program gave to rlm.finish, "error" its error with the traceback,
                "produced" its tables and files, "code" the program itself; or "stdout", "stderr", "metrics",
                "log".
            offset: The byte to start at.
            length: How many bytes, at most 4000.
        """
        folder = self._folder(self._checked(iteration))
        start, wanted = max(0, offset), max(1, min(length, _MAX_LENGTH))
        content = self._content(folder, iteration, part, start, wanted)
        text, used = take_text(content)
        # A short answer to the question for `wanted` bytes means the end.
        more = used < len(content) or len(content) == wanted
        return {
            "iteration": iteration,
            "part": part,
            "text": text,
            "next_offset": start + used if more else None,
        }

    def search_results(self, text: str, iteration: int | None = None) -> dict[str, Any]:
        """Find words in the values, errors, outputs and programs of this run's earlier iterations.

        Args:
            text: What to find within a line; case does not matter. `|` stands between alternatives and `.*`
                for anything in between; all else is taken as it is.
            iteration: Search this iteration only; without it all of them, newest first.
        """
        words = Words.parse(text)
        wanted = range(self.iter_n - 1, 0, -1) if iteration is None else [self._checked(iteration)]
        until = self.clock() + _SEARCH_S
        found: list[dict[str, Any]] = []
        searched = 0
        for n in wanted:
            for match in self._matches(n, words):
                found.append(match)
                if len(found) >= _MAX_HITS:
                    break
            searched = n
            if len(found) >= _MAX_HITS or self.clock() > until:
                break
        shown, left_out = take(found)
        answer: dict[str, Any] = {"matches": shown, "left_out": left_out}
        if iteration is None and searched > 1:
            answer["not_searched"] = f"iterations 1 to {searched - 1}"
        return answer

    def _matches(self, iteration: int, words: Words) -> Iterator[dict[str, Any]]:
        """The places in one iteration's result, with the offsets by which read_result finds them."""
        folder = self._folder(iteration)
        for part, text in self._documents(folder, iteration).items():
            for hit in hits([text.encode("utf-8", "replace")], words):
                yield {"iteration": iteration, "part": part, "offset": hit.offset, "line": cell(hit.line)}
        program = self._program(folder)
        files = {part: f"{folder}/{name}" for part, name in _FILES.items()}
        for name, path in (files | ({"code": program} if program else {})).items():
            for start, blocks in self._stretches(path):
                for hit in hits(blocks, words, offset=start):
                    yield {"iteration": iteration, "part": name, "offset": hit.offset, "line": cell(hit.line)}

    def _stretches(self, path: str) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Where to search in a file: all of it, or the ends of a large one."""
        folder, _, name = path.rpartition("/")
        size = self._sizes(folder).get(name) or 0
        if size <= _SEARCHED_BYTES:
            yield 0, self._blocks(path, 0, size)
            return
        half = _SEARCHED_BYTES // 2
        yield 0, self._blocks(path, 0, half)
        yield size - half, self._blocks(path, size - half, size)

    def _blocks(self, path: str, start: int, end: int) -> Iterator[bytes]:
        for offset in range(start, end, _BLOCK_BYTES):
            yield self.volume.get(path, offset=offset, length=min(_BLOCK_BYTES, end - offset))

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

"""The planner's read-only tools for a run's earlier results: what the capsule had to drop stays reachable.

The docstrings are what the model reads; every answer is bounded. The model never names the run: results of
other runs cannot be read here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

from databricks_rlm_agent.attempts.manifest import Closing, parse_intent
from databricks_rlm_agent.attempts.result import Result
from databricks_rlm_agent.errors import InvalidData, NotFound, UsageError
from databricks_rlm_agent.layout import MANIFEST, RESULT, STDERR, STDOUT, Namespace
from databricks_rlm_agent.planner.tools import Toolbox, fit_items, short_value, slice_of, text_answer
from databricks_rlm_agent.ports import Ledger, PlanningContext, Row, Volume

_PATTERN_CHARS = 300
_WINDOW_BYTES = 8_000  # a longer line is looked at in windows that overlap
_OVERLAP_BYTES = 1_000
_SHOWN_CHARS = 160


@dataclass(frozen=True, kw_only=True)
class Match:
    """A line, or a part of a long one, that matches; ``offset`` is where it begins, in bytes."""

    offset: int
    line: str


@dataclass(frozen=True, kw_only=True)
class TextPattern:
    """Alternatives, each a row of texts that must follow one another in a line; in lower case."""

    alternatives: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``a|b.*c``; raise UsageError for one that matches everything or is too long."""
        alternatives = tuple(
            tuple(word for word in part.lower().split(".*") if word) for part in text.split("|")
        )
        if not all(alternatives) or len(text) > _PATTERN_CHARS:
            raise UsageError(
                f"There is nothing to search for, or it has more than {_PATTERN_CHARS} characters.",
                fix="Give words, with `|` between alternatives and `.*` for anything in between.",
            )
        return cls(alternatives=alternatives)

    def find(self, line: str) -> int | None:
        """The place in ``line`` where a match begins, or None."""
        lower = line.lower()
        places = [place for texts in self.alternatives if (place := _place(lower, texts)) is not None]
        return min(places, default=None)


def find_lines(content: bytes, pattern: TextPattern, *, offset: int = 0) -> Iterator[Match]:
    """Yield the lines that match, of content that begins at ``offset`` of its file."""
    for line in content.split(b"\n"):
        yield from _in_line(line, pattern, offset)
        offset += len(line) + 1


def _in_line(line: bytes, pattern: TextPattern, offset: int) -> Iterator[Match]:
    for start in range(0, max(1, len(line) - _OVERLAP_BYTES), _WINDOW_BYTES - _OVERLAP_BYTES):
        text = line[start : start + _WINDOW_BYTES].decode("utf-8", "replace")
        place = pattern.find(text)
        if place is not None:
            begin = max(0, place - _SHOWN_CHARS // 4)
            before = len(text[:begin].encode("utf-8", "replace"))
            yield Match(offset=offset + start + before, line=text[begin : begin + _SHOWN_CHARS])


def _place(line: str, texts: tuple[str, ...]) -> int | None:
    first = end = line.find(texts[0])
    for text in texts:
        found = line.find(text, end) if end >= 0 else -1
        if found < 0:
            return None
        end = found + len(text)
    return first


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

    @classmethod
    def of(cls, context: PlanningContext, toolbox: Toolbox) -> Self:
        """The earlier results of a run."""
        return cls(
            run_id=context.run_id,
            iter_n=context.iter_n,
            volume=toolbox.volume,
            namespace=toolbox.namespace,
            ledger=toolbox.ledger,
        )

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

"""Handles on a program's inputs: nothing is read before it is asked for, and only as much as is asked for."""

from __future__ import annotations

import fnmatch
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, Any, SupportsIndex

from executor_harness import protocol
from executor_harness.rlm.text import CharIndex, Match, Readable, compiled, pieces, search, tail
from executor_harness.spark import opened
from executor_harness.volumes import Volumes

_SNIFFED_BYTES = 64 * 1024
_READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("csv", {"header": True, "inferSchema": True}),
    ".tsv": ("csv", {"header": True, "inferSchema": True, "sep": "\t"}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".ndjson": ("json", {}),
    ".parquet": ("parquet", {}),
    ".orc": ("orc", {}),
    ".avro": ("avro", {}),
    ".txt": ("text", {}),
    ".text": ("text", {}),
    ".log": ("text", {}),
    ".md": ("text", {}),
}
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4", ".snappy")


@dataclass(frozen=True, kw_only=True)
class Table:
    """An input that is a table."""

    name: str
    _session: Callable[[], Any] = field(repr=False)
    _label: str = field(default="the table", repr=False)

    def df(self) -> Any:
        """The table as a Spark DataFrame; LookupError, naming the input, where it cannot be read."""
        return opened(self._session(), self.name, self._label)

    @property
    def columns(self) -> list[str]:
        """The names of its columns."""
        return [str(name) for name in self.df().columns]

    def count(self) -> int:
        """Its rows."""
        return int(self.df().count())


class Text(str, Readable):
    """An input that is a text; a `str` in every respect."""

    __slots__ = ()

    def text(self) -> str:
        """The text as a plain `str`."""
        return str(self)

    def head(self, count: int) -> str:
        """The first characters."""
        return self[: max(0, count)]

    def tail(self, count: int) -> str:
        """The last characters."""
        return self[max(0, len(self) - max(0, count)) :]

    def _pieces(self) -> Iterator[str]:
        yield str(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class File(Readable):
    """An input that is a file. `path` is where any Python library can open it, and Spark.

    As a text it is UTF-8, line ends as they are; bytes that are not UTF-8 count as U+FFFD. `len`, slices and
    all offsets are in characters of that text.
    """

    path: str
    _label: str = field(default="", repr=False)
    _session: Callable[[], Any] | None = field(default=None, repr=False)
    _index: CharIndex = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", CharIndex(Path(self.path)))

    @property
    def size(self) -> int:
        """Bytes. Raises FileNotFoundError naming the input."""
        return self._there().stat().st_size

    def text(self, encoding: str = "utf-8") -> str:
        """The whole content; undecodable bytes as U+FFFD."""
        return self._there().read_bytes().decode(encoding, "replace")

    def json(self) -> Any:
        """The content as one JSON document. Raises ValueError naming the input."""
        try:
            return json.loads(self._there().read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self._label or self.path} is not a JSON document: {error}") from None

    def open(self, mode: str = "r", **options: Any) -> IO[Any]:
        """The file, open for reading; UTF-8 unless another encoding is given."""
        if set(mode) - set("rbt"):
            raise ValueError(f"{self._label or self.path} is an input, to be read only; mode {mode!r} writes")
        if "b" not in mode:
            options.setdefault("encoding", "utf-8")
        return self._there().open(mode, **options)

    def df(self) -> Any:
        """A Spark DataFrame, read by the file's suffix: csv, tsv, json, jsonl, parquet, orc, avro, txt.

        A JSON document of several lines needs an engine with `multiLine`, which the local one lacks.
        """
        path = self._there()
        names = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in _COMPRESSED]
        if not names or names[-1] not in _READERS or self._session is None:
            known = ", ".join(sorted(_READERS))
            raise ValueError(
                f"{self._label or self.path}: no reader for {path.name} (known: {known}); "
                "use spark.read, or .text()"
            )
        kind, options = _READERS[names[-1]]
        reader = self._session().read.options(**options)
        if names[-1] == ".json" and not _is_json_lines(path):
            reader = reader.option("multiLine", True)
        return getattr(reader, kind)(self.path)

    def head(self, count: int) -> str:
        """The first characters."""
        return self[: _not_negative(count)]

    def tail(self, count: int) -> str:
        """The last characters; only the end of the file is read."""
        return tail(self._there(), _not_negative(count))

    def __len__(self) -> int:
        """Characters; reads the file once."""
        self._there()
        return self._index.length()

    def __bool__(self) -> bool:
        return self.size > 0

    def __getitem__(self, where: SupportsIndex | slice) -> str:
        """Characters by position, as of a `str`. A step is refused with ValueError."""
        self._there()
        if not isinstance(where, slice):
            at = where.__index__()
            at += len(self) if at < 0 else 0
            found = self._index.slice(at, at + 1) if at >= 0 else ""
            if not found:
                raise IndexError(f"{self._label or self.path} has no character {where.__index__()}")
            return found
        if where.step not in (None, 1):
            raise ValueError("a slice of a file has no step; take the slice first, then every n-th of it")
        start, stop = self._bound(where.start, 0), self._bound(where.stop, None)
        return self._index.slice(start, len(self) if stop is None else stop)

    def __iter__(self) -> Iterator[str]:
        """The lines, without their ends."""
        return self.lines()

    def __contains__(self, text: object) -> bool:
        """Return whether a text occurs; lines do not matter."""
        if not isinstance(text, str):
            raise TypeError(f"only a text can be in a file, not {type(text).__name__}")
        held = ""
        for piece in self._pieces():
            held += piece
            if text in held:
                return True
            held = held[max(0, len(held) - len(text) + 1) :] if text else ""
        return not text

    def _bound(self, at: SupportsIndex | None, default: int | None) -> Any:
        """A bound of a slice, from the start of the text."""
        if at is None:
            return default
        number = at.__index__()
        return number if number >= 0 else max(0, number + len(self))

    def _pieces(self) -> Iterator[str]:
        return pieces(self._there())

    def _where(self) -> str:
        return self.path

    def _there(self) -> Path:
        path = Path(self.path)
        if not path.is_file():
            what = "a folder, not a file" if path.is_dir() else "not there"
            raise FileNotFoundError(f"{self._label or 'the file'}: {self.path} is {what}")
        return path


@dataclass(frozen=True, kw_only=True, eq=False)
class Folder:
    """An input that is a folder, with all that is below it. Its files are listed anew each time."""

    path: str
    _label: str = field(default="", repr=False)
    _session: Callable[[], Any] | None = field(default=None, repr=False)

    def files(self, pattern: str = "*") -> Iterator[File]:
        """Files at any depth whose name, or with a `/` whose path below the folder, is like the pattern.

        In the order of their names, folder by folder. Raises FileNotFoundError naming the input.
        """
        root = Path(self.path)
        if not root.is_dir():
            what = "a file, not a folder" if root.exists() else "not there"
            raise FileNotFoundError(f"{self._label or 'the folder'}: {self.path} is {what}")
        return self._files(pattern)

    def _files(self, pattern: str) -> Iterator[File]:
        for folder, folders, names in os.walk(self.path):
            folders.sort()
            for name in sorted(names):
                path = f"{folder}/{name}"
                tested = path[len(self.path) + 1 :] if "/" in pattern else name
                if fnmatch.fnmatchcase(tested, pattern):
                    label = f"{self._label}, {path[len(self.path) + 1 :]}" if self._label else ""
                    yield File(path=path, _label=label, _session=self._session)

    def grep(
        self,
        pattern: str | re.Pattern[str],
        *,
        files: str = "*",
        ignore_case: bool = False,
        limit: int | None = None,
    ) -> Iterator[Match]:
        """Where a regular expression is found in the files; each match says in which by its `path`."""
        wanted = compiled(pattern, ignore_case=ignore_case)
        every = self.files(files)
        return islice(
            (found for file in every for found in search(file._pieces(), wanted, path=file.path)), limit
        )

    def __iter__(self) -> Iterator[File]:
        return self.files()

    def __len__(self) -> int:
        """Files at any depth."""
        return sum(1 for _ in self.files())

    def __bool__(self) -> bool:
        return next(self.files(), None) is not None


def _not_negative(count: int) -> int:
    if count < 0:
        raise ValueError(f"a number of characters is not negative, as {count} is")
    return count


def _is_json_lines(path: Path) -> bool:
    """Return whether the first line is a JSON value of its own: then each line is a record."""
    with path.open("rb") as file:
        first, end, rest = file.read(_SNIFFED_BYTES).lstrip().partition(b"\n")
    try:
        value = json.loads(first)
    except ValueError:
        return bool(not end and first.startswith(b"{"))  # a line that is longer than what was read
    return isinstance(value, dict) or (isinstance(value, list) and rest.lstrip()[:1] == b"[")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An input that is what a child run has answered. The document is read when it is first asked for."""

    path: str
    _label: str = field(default="the answer", repr=False)

    def text(self) -> str:
        """The answer in words; empty if the child ended without one (see `state` and `reason`)."""
        return self._document.answer or ""

    @property
    def value(self) -> Any:
        """Return the value that the child's last program gave to `rlm.finish`."""
        return self._document.value

    @property
    def state(self) -> str:
        """How the child run ended: SUCCEEDED, FAILED or CANCELLED."""
        return self._document.state

    @property
    def evidence(self) -> str | None:
        """Return the evidence that the child gave."""
        return self._document.evidence

    @property
    def reason(self) -> str | None:
        """Why the child failed, if it did."""
        return self._document.reason

    @property
    def run_id(self) -> str:
        """The child run."""
        return self._document.run_id

    @cached_property
    def _document(self) -> protocol.ChildAnswer:
        try:
            return protocol.read(protocol.ChildAnswer, json.loads(Path(self.path).read_bytes()))
        except FileNotFoundError:
            raise FileNotFoundError(f"{self._label}: {self.path} is not there") from None
        except ValueError as error:
            raise ValueError(f"{self._label}: {self.path} is not a JSON document: {error}") from None
        except TypeError as error:
            raise ValueError(f"{self._label}: {self.path} is no child's answer: {error}") from None


Handle = Table | File | Folder | Text | Answer


class Inputs(Mapping[str, Any]):
    """All inputs by name. A value is a `Handle`; which one is the task's to know, not the type checker's."""

    def __init__(
        self, given: Mapping[str, protocol.Input], volumes: Volumes, session: Callable[[], Any]
    ) -> None:
        self._handles = {name: _handle(name, item, volumes, session) for name, item in given.items()}

    def __getitem__(self, name: str) -> Any:
        try:
            return self._handles[name]
        except KeyError:
            known = ", ".join(sorted(self._handles)) or "none"
            raise KeyError(f"no input {name!r}; the inputs of this run: {known}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._handles)

    def __len__(self) -> int:
        return len(self._handles)

    def __repr__(self) -> str:
        kinds = ", ".join(f"{name}: {type(handle).__name__}" for name, handle in self._handles.items())
        return f"Inputs({kinds})"


def _handle(name: str, item: protocol.Input, volumes: Volumes, session: Callable[[], Any]) -> Handle:
    label = f"input {name!r}"
    if item["kind"] == "table":
        return Table(name=item["name"], _session=session, _label=label)
    if item["kind"] == "text":
        return Text(item["text"])
    local = str(volumes.local(item["path"].rstrip("/")))
    if item["kind"] == "folder":
        return Folder(path=local, _label=label, _session=session)
    if item["kind"] == "answer":
        return Answer(path=local, _label=label)
    return File(path=local, _label=label, _session=session)

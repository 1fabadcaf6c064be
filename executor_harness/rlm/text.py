"""Long texts, read a piece at a time: lines, chunks, searches, and any stretch of a UTF-8 file by characters.

Bytes that are not UTF-8 count as the replacement characters that `bytes.decode("utf-8", "replace")` makes of
them, so that every offset is one into the decoded text.
"""

from __future__ import annotations

import codecs
import re
import threading
from abc import abstractmethod
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

SHOWN_CHARS = 300
_SHOWN_BEFORE = 100
BLOCK_BYTES = 64 * 1024  # one entry of the index per block
_READ_BYTES = 1024 * 1024
_READ_BLOCKS = 16  # read at once where little is asked for: the next slice is mostly the next stretch
_LONGEST = 4  # bytes of one character


@dataclass(frozen=True, kw_only=True)
class Match:
    """A place where a pattern was found.

    `line` counts from 1; `start` and `end` are characters of the whole text; `match` is what was found there,
    `groups` its groups; `text` is its line, clipped around the match. `path` is empty in a text that is no
    file.
    """

    line: int
    start: int
    end: int
    match: str
    groups: tuple[str | None, ...]
    text: str
    path: str = ""


@dataclass(frozen=True, kw_only=True)
class Window:
    """How lines are searched, in characters.

    A line up to `size` is searched as a whole, a longer one in windows: a match is found whole if it is no
    longer than `overlap` and needs no more than `context` before it; a longer match may come in parts.
    """

    size: int = 64 * 1024
    overlap: int = 8 * 1024
    context: int = 1024

    def __post_init__(self) -> None:
        if not 0 < self.context < self.size - self.overlap:
            raise ValueError("a window must be longer than its overlap and context together")


def compiled(pattern: str | re.Pattern[str], *, ignore_case: bool) -> re.Pattern[str]:
    """The pattern, ready. Raises ValueError naming what is wrong with it, TypeError for anything else."""
    if not isinstance(pattern, (str, re.Pattern)):
        raise TypeError(f"grep: the pattern must be a text, not {type(pattern).__name__}")
    source, flags = (pattern, 0) if isinstance(pattern, str) else (pattern.pattern, pattern.flags)
    try:
        return re.compile(source, flags | (re.IGNORECASE if ignore_case else 0))
    except re.error as error:
        raise ValueError(
            f"grep: {source!r} is not a regular expression: {error}; re.escape(...) makes one of a plain text"
        ) from None


def search(
    pieces: Iterable[str], pattern: re.Pattern[str], *, path: str = "", window: Window | None = None
) -> Iterator[Match]:
    """Every match of a pattern within the lines of a text, in order.

    A line ends with LF or CRLF, which are not part of it. Memory is bounded by the pieces and the window.
    """
    scan = _Scan(pattern, path, window or Window())
    for piece in pieces:
        yield from scan.feed(piece)
    yield from scan.finish()


class _Scan:
    """Where the search is: in line `line`, of which `held` is left, from character `at` of the text on, and
    is searched from its character `done` on.
    """

    def __init__(self, pattern: re.Pattern[str], path: str, window: Window) -> None:
        self._pattern = pattern
        self._path = path
        self._window = window
        self._held = ""
        self._at = 0
        self._done = 0
        self._line = 1

    def feed(self, piece: str) -> Iterator[Match]:
        """Search what is decided by this piece."""
        first, *more = piece.split("\n")
        self._held += first
        short, search = self._window.size, self._pattern.search
        for line in more:
            held = self._held
            # Nearly every line is short and without a match: those are done with here.
            if self._done or len(held) > short or search(held[:-1] if held[-1:] == "\r" else held):
                yield from self.finish("\r")
                held = self._held
            self._at += len(held) + 1
            self._line += 1
            self._held, self._done = line, 0
        # One more, for it may be the CR of a line end. Whether a line is long must not depend on the pieces.
        yield from self._windows(self._window.size + 1)

    def finish(self, ending: str = "") -> Iterator[Match]:
        """Search the line to its end; `ending` is no part of it."""
        line = self._held.removesuffix(ending)
        if len(line) > self._window.size:
            yield from self._windows(self._window.size + len(self._held) - len(line))
            line = self._held.removesuffix(ending)
        for found in self._pattern.finditer(line, self._done):
            yield self._match(found, line)

    def _windows(self, longest: int) -> Iterator[Match]:
        """Search and let go of windows, until no more than `longest` is left."""
        while len(self._held) > longest:
            view = self._held[: self._window.size]
            cut = len(view) - self._window.overlap
            done = self._done
            for found in self._pattern.finditer(view, done):
                if found.start() >= cut:
                    break
                yield self._match(found, view)
                done = found.end()
            self._done = self._window.context
            step = max(done, cut) - self._done
            self._held = self._held[step:]
            self._at += step

    def _match(self, found: re.Match[str], line: str) -> Match:
        start, end = found.span()
        shown = max(0, start - _SHOWN_BEFORE) if len(line) > SHOWN_CHARS else 0
        return Match(
            line=self._line,
            start=self._at + start,
            end=self._at + end,
            match=found[0],
            groups=found.groups(),
            text=line[shown : shown + SHOWN_CHARS],
            path=self._path,
        )


class Readable:
    """Operations on a text without holding all of it. Subclasses give its pieces in order."""

    __slots__ = ()

    @abstractmethod
    def _pieces(self) -> Iterator[str]: ...

    def lines(self, keepends: bool = False) -> Iterator[str]:
        """The lines. One ends with LF or CRLF, which is left out unless `keepends`; a line is held whole."""
        return _lines(self._pieces(), keepends)

    def chunks(self, size: int, overlap: int = 0) -> Iterator[str]:
        """Stretches of `size` characters, each beginning with the last `overlap` of the one before.

        Chunk n starts at character n * (size - overlap); the last may be shorter.
        """
        if size < 1 or not 0 <= overlap < size:
            raise ValueError(f"chunks: size {size} must be above overlap {overlap}, and that not negative")
        return _chunks(self._pieces(), size, overlap)

    def grep(
        self, pattern: str | re.Pattern[str], *, ignore_case: bool = False, limit: int | None = None
    ) -> Iterator[Match]:
        """Where a regular expression is found within a line, at most `limit` times; read as it is iterated.

        Lines beyond 65,536 characters are searched in windows (`Window`): matches of up to 8,192 characters
        are found there as anywhere, longer ones may come in parts.
        """
        wanted = compiled(pattern, ignore_case=ignore_case)
        return islice(search(self._pieces(), wanted, path=self._where()), limit)

    def _where(self) -> str:
        """The path that matches carry."""
        return ""


def _lines(pieces: Iterable[str], keepends: bool) -> Iterator[str]:
    held: list[str] = []  # pieces of a line that has not ended yet
    for piece in pieces:
        first, *more = piece.split("\n")
        held.append(first)
        for line in more:
            ended = "".join(held)
            yield f"{ended}\n" if keepends else ended.removesuffix("\r")
            held = [line]
    if last := "".join(held):
        yield last


def _chunks(pieces: Iterable[str], size: int, overlap: int) -> Iterator[str]:
    step, held = size - overlap, ""
    for piece in pieces:
        held += piece
        start = 0
        # The rest is held until it is known to be more than the overlap with the last chunk.
        while len(held) - start > size:
            yield held[start : start + size]
            start += step
        held = held[start:]
    if held:
        yield held


def pieces(path: Path, block: int = _READ_BYTES) -> Iterator[str]:
    """The text in pieces of about `block` characters at most. Raises what opening and reading raise."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    with path.open("rb", buffering=0) as file:
        while data := file.read(block):
            yield decoder.decode(data)
    if rest := decoder.decode(b"", final=True):
        yield rest


def tail(path: Path, count: int) -> str:
    """The last `count` characters; only the end of the file is read."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        start = max(0, size - _LONGEST * (count + 1))
        file.seek(start)
        data = file.read()
    text = data[_boundary(data) if start else 0 :].decode("utf-8", "replace")
    return text[max(0, len(text) - count) :]


def _boundary(data: bytes) -> int:
    """The first place at which decoding can begin as if it had come from before.

    A byte that does not continue a character starts one; after as many that do as fit in one, each is an
    error of its own, wherever decoding began.
    """
    for at in range(min(_LONGEST, len(data))):
        if data[at] & 0xC0 != 0x80:
            return at
    return min(_LONGEST, len(data))


class CharIndex:
    """Where the characters of one file start. It grows as far as it is asked for; threads may share it.

    A file that is replaced meanwhile is indexed anew at the next question.
    """

    def __init__(self, path: Path, block: int = BLOCK_BYTES) -> None:
        self._path = path
        self._block = block
        self._lock = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._reset()

    def _reset(self) -> None:
        # Characters and bytes before each place at which decoding can begin; the last is as far as we are.
        self._chars = array("Q", [0])
        self._bytes = array("Q", [0])
        self._complete = False
        self._last: tuple[int, int, str] | None = None

    def length(self) -> int:
        """Characters in all; reads the file once."""
        with self._opened() as file:
            self._extend(file, lambda: False)
            return self._chars[-1]

    def slice(self, start: int, stop: int) -> str:
        """The characters from `start` to before `stop` (neither negative), as far as there are any."""
        if stop <= start:
            return ""
        with self._opened() as file:
            self._extend(file, lambda: self._chars[-1] >= stop)
            first = bisect_right(self._chars, start) - 1
            last = min(bisect_left(self._chars, stop), len(self._chars) - 1)
            base, text = self._stretch(file, first, last)
            return text[start - base : max(0, stop - base)]

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        with self._lock, self._path.open("rb", buffering=_READ_BYTES) as file:
            found = self._path.stat()
            seen = (found.st_size, found.st_mtime_ns)
            if seen != self._seen:
                self._reset()
                self._seen = seen
            yield file

    def _extend(self, file: IO[bytes], enough: Callable[[], bool]) -> None:
        """Index further, until it is enough or the file ends."""
        file.seek(self._bytes[-1])
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while not self._complete and not enough():
            data = file.read(self._block)
            self._complete = not data
            text = decoder.decode(data, final=self._complete)
            pending = len(decoder.getstate()[0])
            if text:
                self._chars.append(self._chars[-1] + len(text))
                self._bytes.append(file.tell() - pending)

    def _stretch(self, file: IO[bytes], first: int, last: int) -> tuple[int, str]:
        """At least the text between two entries: the character at which it begins, and it."""
        begin, end = self._bytes[first], self._bytes[last]
        if self._last and self._last[0] <= begin and end <= self._last[1]:
            return self._chars[bisect_left(self._bytes, self._last[0])], self._last[2]
        end = self._bytes[min(max(last, first + _READ_BLOCKS), len(self._bytes) - 1)]
        file.seek(begin)
        text = file.read(end - begin).decode("utf-8", "replace")
        # What is long was asked for as such, and is the caller's alone to keep.
        self._last = (begin, end, text) if last - first <= _READ_BLOCKS else None
        return self._chars[first], text

"""Any stretch of a UTF-8 file by characters, without the rest of it: a sparse index of where they start.

Bytes that are not UTF-8 count as the replacement characters that `bytes.decode("utf-8", "replace")` makes of
them, so that every offset here is one into the decoded text.
"""

from __future__ import annotations

import codecs
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

BLOCK_BYTES = 64 * 1024  # one entry of the index per block
_READ_BYTES = 1024 * 1024
_AHEAD_BLOCKS = 16  # read at once where a little is asked for: the next slice is mostly the next stretch
_LONGEST = 4  # bytes of one character


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


class Index:
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
        end = self._bytes[min(max(last, first + _AHEAD_BLOCKS), len(self._bytes) - 1)]
        file.seek(begin)
        text = file.read(end - begin).decode("utf-8", "replace")
        # What is long was asked for as such, and is the caller's alone to keep.
        self._last = (begin, end, text) if last - first <= _AHEAD_BLOCKS else None
        return self._chars[first], text

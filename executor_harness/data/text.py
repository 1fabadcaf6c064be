"""A long text, read from its start to its end a piece at a time."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from itertools import islice

from executor_harness.data.search import Match, compiled, search


class Readable:
    """What can be done with a text without holding all of it. Subclasses give its pieces in order."""

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

        Lines beyond 65,536 characters are looked at in windows (`data.search.Window`): matches of up to
        8,192 characters are found there as anywhere, longer ones may come in parts.
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
            yield _ended("".join(held), keepends)
            held = [line]
    if last := "".join(held):
        yield last


def _ended(line: str, keepends: bool) -> str:
    return f"{line}\n" if keepends else line.removesuffix("\r")


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

"""Search line by line through a text that comes in pieces, holding one window of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

SHOWN_CHARS = 300
_SHOWN_BEFORE = 100


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
    """How lines are looked at, in characters.

    A line up to `size` is looked at as a whole. A longer one in windows: a match is found whole if it is no
    longer than `overlap` and needs to see no more than `context` before it; a longer match may come in parts.
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

"""Find places in long outputs: those with errors, and those that match a text. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from databricks_rlm_agent.errors import UsageError

MAX_REGIONS = 6
REGION_BYTES = 600
_BEFORE = 150  # bytes of a region that lie before its word
_SIGNS = (b"Traceback", b"xception", b"EXCEPTION", b"Error", b"ERROR", b"WARN", b"FATAL")


@dataclass(frozen=True, kw_only=True)
class Region:
    """A piece of a file: where it begins, in bytes, and its text."""

    offset: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Excerpts:
    """Excerpts of the file of a ``stream``: all of it (``whole``), or regions with errors and readers' notes
    on parts of it. ``size`` in bytes.
    """

    stream: str
    size: int
    whole: str = ""
    regions: tuple[Region, ...] = ()
    notes: tuple[str, ...] = ()


def regions(blocks: Iterable[bytes]) -> list[Region]:
    """Return the places with errors in a file that comes in blocks: the first of them, and the last.

    At most ``MAX_REGIONS``, none overlapping; nothing is held but a block and what is found.
    """
    first: list[Region] = []
    last: list[Region] = []
    free = 0  # where the last region ends
    for offset, piece, begin, end in _pieces(blocks):
        known: dict[bytes, int] = {}
        while (place := _next(piece, known, max(begin, free - offset), end)) is not None:
            start = max(0, place - _BEFORE)
            text = piece[start : start + REGION_BYTES].decode("utf-8", "replace")
            region = Region(offset=offset + start, text=text)
            free = region.offset + REGION_BYTES
            if len(first) < MAX_REGIONS // 2:
                first.append(region)
            else:
                last = [*last, region][-(MAX_REGIONS - MAX_REGIONS // 2) :]
    return first + last


def chosen(size: int, known: Sequence[Region], *, count: int, length: int) -> list[int]:
    """Where to read at most ``count`` chunks of ``length`` bytes in a file of ``size``: its head and tail,
    then around its errors, then evenly spread. In order, and none twice. With less than three chunks the ends
    come last: something of them is known anyway.
    """
    if count <= 0 or size <= 0:
        return []
    if size <= count * length:
        return list(range(0, size, length))
    last = size - length
    ends = [0, last]
    wanted = [min(last, max(0, region.offset - length // 2)) for region in reversed(known)]
    wanted += [last * n // (count + 1) for n in range(1, count + 1)]
    wanted = ends + wanted if count > len(ends) else wanted + ends
    places: list[int] = []
    for place in wanted:
        if len(places) < count and all(abs(place - other) >= length for other in places):
            places.append(place)
    return sorted(places)


def _next(piece: bytes, known: dict[bytes, int], start: int, end: int) -> int | None:
    """Where the next sign begins. ``known`` keeps each one's next place (-1: none): a piece is read once."""
    for sign in _SIGNS:
        if known.get(sign, 0) != -1 and known.get(sign, -2) < start:
            known[sign] = piece.find(sign, start)
    return min((place for place in known.values() if start <= place < end), default=None)


def _pieces(blocks: Iterable[bytes]) -> Iterator[tuple[int, bytes, int, int]]:
    """Pieces that overlap, so that no sign and no region is cut: offset, bytes, and where to look in them."""
    offset, held, begin = 0, b"", 0
    for block in blocks:
        piece = held + block
        end = max(begin, len(piece) - REGION_BYTES)
        yield offset, piece, begin, end
        cut = max(0, end - _BEFORE)
        offset, held, begin = offset + cut, piece[cut:], end - cut
    yield offset, held, begin, len(held)


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

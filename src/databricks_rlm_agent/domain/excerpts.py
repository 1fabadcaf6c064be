"""Which parts of a long output are worth reading: where it speaks of errors, its ends, and samples. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

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
class Reading:
    """What was read of the file of a ``stream``: all of it (``whole``) or regions of errors, and the notes of
    those who read parts of it. ``size`` in bytes.
    """

    stream: str
    size: int
    whole: str = ""
    regions: tuple[Region, ...] = ()
    notes: tuple[str, ...] = ()


def regions(blocks: Iterable[bytes]) -> list[Region]:
    """The places that speak of errors, in a file that comes in blocks: the first of them, and the last.

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

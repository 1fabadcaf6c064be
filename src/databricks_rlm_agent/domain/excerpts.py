"""Which parts of a long output are worth reading: where it speaks of errors, its ends, and samples. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

MAX_REGIONS = 6
REGION_BYTES = 600
_BEFORE = 150  # bytes of a region that lie before its word
_SIGNS = re.compile(rb"Traceback|[Ee]xception|EXCEPTION|\b\w*Error\b|\bERROR\b|\bWARN(?:ING)?\b|\bFATAL\b")


@dataclass(frozen=True, kw_only=True)
class Region:
    """A piece of a file: where it begins, in bytes, and its text."""

    offset: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was read of an output file of ``size`` bytes: all of it (``whole``) or regions of errors, and the
    notes of those who read parts of it.
    """

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
        for found in _SIGNS.finditer(piece):
            if not begin <= found.start() < end or offset + found.start() < free:
                continue
            start = max(0, found.start() - _BEFORE)
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
    then around its errors, then evenly spread. In order, and none twice.
    """
    if count <= 0 or size <= 0:
        return []
    if size <= count * length:
        return list(range(0, size, length))
    last = size - length
    wanted = [0, last]
    wanted += [min(last, max(0, region.offset - length // 2)) for region in reversed(known)]
    wanted += [last * n // count for n in range(1, count)]
    places: list[int] = []
    for place in wanted:
        if len(places) < count and all(abs(place - other) >= length for other in places):
            places.append(place)
    return sorted(places)


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

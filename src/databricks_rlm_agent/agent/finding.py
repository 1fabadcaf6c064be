"""Words to be found in the lines of a file that comes in blocks. Pure, and in linear time.

A model's regular expression could keep a controller busy for ever; plain words with gaps cannot.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from databricks_rlm_agent.errors import UsageError

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

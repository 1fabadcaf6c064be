"""Answers of the read-only tools, held within a size that a prompt can bear."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from typing import Any

from databricks_rlm_agent.values import clip

MAX_CHARS = 4_000
"""Largest answer of one tool call, in characters of JSON."""
_CELL_CHARS = 200
_ROOM = 3_600  # what is left for the content once names, counts and marks are written


def size(value: Any) -> int:
    """Characters of a value's JSON."""
    return len(json.dumps(value, ensure_ascii=False, default=str))


def cell(value: Any) -> Any:
    """A table's value, short enough to show; numbers, booleans and None stay what they are."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return clip(str(value), _CELL_CHARS)


def take(items: Iterable[Any]) -> tuple[list[Any], int]:
    """As many of the first items as there is room for, and how many were left out."""
    everything = list(items)
    taken: list[Any] = []
    room = _ROOM
    for item in everything:
        room -= size(item) + 2
        if room < 0:
            break
        taken.append(item)
    return taken, len(everything) - len(taken)


def take_text(content: bytes) -> tuple[str, int]:
    """As much of a UTF-8 text as there is room for, and how many bytes of it that is."""
    piece = content[:_ROOM]
    while True:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(piece)
        pending = len(decoder.getstate()[0])  # a character that the cut has split: left for the next reading
        if len(piece) == len(content) and pending:
            text, pending = piece.decode("utf-8", "replace"), 0
        if size(text) <= _ROOM:
            return text, len(piece) - pending
        piece = piece[: len(piece) * 3 // 4]

"""How much room each part of a capsule has, and how it is made to fit. Pure.

Every part has a share in characters of JSON. If all of them together are too large, the shares are scaled
down alike until they fit; a part below its share is left alone. What people said gives way last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic_core import to_json

from databricks_rlm_agent.domain.children import AnswerNote
from databricks_rlm_agent.domain.memory import Gist, Item, least, settled
from databricks_rlm_agent.domain.text import clip
from databricks_rlm_agent.domain.variables import Variables

SCALES = (1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)
MAX_ITEMS = 12
MAX_TABLES = 16
MAX_ANSWERS = 16
_FIRST_CONSTRAINTS = 4
_HEADS = 12  # of constraints that were condensed: their beginnings stay
_CLIPS = (600, 400, 250, 150, 80, 40)

Trimmed = tuple[Any, int, Gist]
"""A part that fits, how many of its items went, and the gist of those that were condensed before and now."""


def chars(value: Any) -> int:
    """Characters of a value's JSON."""
    return len(to_json(value).decode("utf-8"))


def constraints(said: Sequence[str], gist: Gist, room: int) -> Trimmed:
    """The first and the newest of what people said; the beginnings of the rest."""
    items = [Item(text=text) for text in said]

    def fits(kept: list[Item]) -> bool:
        return len(kept) <= MAX_ITEMS and chars([item.text for item in kept]) <= room * 3 // 4

    kept, gone = settled(items, fits=fits, rank=_alike, first=_FIRST_CONSTRAINTS)
    for item in gone:
        gist = gist.absorb(item, heads=_HEADS)
    while gist.heads and chars(gist) > room // 4:
        gist = gist.shortened()
    return [item.text for item in kept], len(gone), gist


def items(known: Sequence[Item], gist: Gist, room: int) -> Trimmed:
    """The newest items, then those that were said more than once, then a model's words before the facts',
    which the ledger has too.
    """
    kept, gone = settled(
        known, fits=lambda kept: len(kept) <= MAX_ITEMS and chars(kept) <= room, rank=_weight
    )
    for item in gone:
        gist = gist.absorb(item)
    return kept, len(gone), gist


def tables(known: Sequence[Any], gist: Gist, room: int) -> Trimmed:
    """Those that the run made before those that it read, and the newest before older ones."""
    kept = list(known)
    while kept and (len(kept) > MAX_TABLES or chars(kept) > room):
        kept.pop(least(kept, lambda table: int(table.made), 0))
    return kept, len(known) - len(kept), gist


def text(value: str, gist: Gist, room: int) -> Trimmed:
    """Head and tail."""
    limit = len(value)
    while limit > 40 and chars(clip(value, limit)) > room:
        limit = max(40, limit * 4 // 5)
    return clip(value, max(40, limit)), 0, gist


def notes(known: dict[str, str], gist: Gist, room: int) -> Trimmed:
    """All inputs in fewer words; then the first of them."""
    kept = known
    for limit in _CLIPS:
        kept = {name: clip(note, limit) for name, note in known.items()}
        if chars(kept) <= room:
            return kept, 0, gist
    while kept and chars(kept) > room:
        kept.popitem()
    return kept, len(known) - len(kept), gist


def variables(known: Variables | None, gist: Gist, room: int) -> Trimmed:
    """The first of them; ``count`` and the index are of all."""
    while known is not None and known.shown and chars(known) > room:
        known = known.model_copy(update={"shown": known.shown[:-1]})
    return known, 0, gist


def answers(known: Sequence[AnswerNote], gist: Gist, room: int) -> Trimmed:
    """The newest, in fewer words. Those that are still waited for (no path yet) are never dropped."""
    kept = list(known)
    for limit in _CLIPS:
        kept = [note.model_copy(update={"says": clip(note.says, limit)}) for note in known]
        if chars(kept) <= room:
            break
    while len(kept) > MAX_ANSWERS or chars(kept) > room:
        place = next((n for n, note in enumerate(kept) if note.path), None)
        if place is None:
            break
        kept.pop(place)
    return kept, len(known) - len(kept), gist


ROOMS: dict[str, tuple[Callable[[Any, Gist, int], Trimmed], int]] = {
    "constraints": (constraints, 6_400),
    "decisions": (items, 3_200),
    "failed_approaches": (items, 4_200),
    "tables": (tables, 4_200),
    "artifacts": (items, 1_600),
    "last_result": (text, 4_000),
    "input_notes": (notes, 6_000),
    "variables": (variables, 4_000),
    "answers": (answers, 7_000),
}


def room(name: str, scale: float) -> int:
    """A part's share in characters when all are scaled down; what people said keeps a quarter of its own."""
    share = ROOMS[name][1]
    return int(share * (max(scale, 0.25) if name == "constraints" else scale))


def _alike(_item: Item) -> int:
    return 0


def _weight(item: Item) -> int:
    return 2 if item.count > 1 else int(item.by == "summarizer")

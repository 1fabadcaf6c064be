"""How a capsule is kept within its fixed size: which items merge, and what is dropped first. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import to_json

from databricks_rlm_agent.runs.children import AnswerNote
from databricks_rlm_agent.runs.variables import Variables
from databricks_rlm_agent.values import clip

ITEM_CHARS = 300
NEWEST = 4
"""So many of the newest items stay whatever they say: the next step most often hangs on them."""
_KIND_CHARS = 80
_HEAD_CHARS = 100
_OLD_FORM = re.compile(r"Iteration (\d{1,9})(?:: | (?=\())")
_FILLERS = frozenset(("a", "an", "the", "now", "then"))
_VARYING = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8,}|\d+")

Speaker = Literal["facts", "summarizer"]
T = TypeVar("T")


class CapsuleItem(BaseModel):
    """One thing that is remembered. ``iter_n`` is the newest iteration that it comes from, ``since`` the
    first; ``count`` how often it was said. ``kind`` is a failure's error type. Items with the same ``key``
    merge; without one their words are compared.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    text: str
    iter_n: int | None = None
    since: int | None = None
    by: Speaker = "facts"
    count: int = Field(default=1, ge=1)
    kind: str = ""
    key: str = ""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        """Accept a plain text, as capsules held them before items had a source."""
        if not isinstance(value, str):
            return value
        found = _OLD_FORM.match(value)
        if found is None:
            return {"text": value}
        return {"text": value[found.end() :], "iter_n": int(found[1]), "since": int(found[1])}

    @classmethod
    def of(cls, text: str, *, iter_n: int, by: Speaker = "facts", kind: str = "", key: str = "") -> Self:
        """What one iteration says."""
        return cls(text=text, iter_n=iter_n, since=iter_n, by=by, kind=kind, key=key)

    @property
    def same(self) -> str:
        """Items that are alike in this say the same: same words in the same order, names and numbers too."""
        words = (word for word in re.findall(r"[\w.$%/-]+", self.text.lower()) if word not in _FILLERS)
        return self.key or " ".join(word.strip(".") for word in words) or self.text

    def bounded(self, chars: int = ITEM_CHARS) -> CapsuleItem:
        """This item on one line of at most ``chars`` characters (at least 40), which JSON need not escape."""
        if len(self.text) <= chars and self.text.isprintable() and len(self.kind) <= _KIND_CHARS:
            return self
        # Cut before it is cleaned: nobody reads a whole book to keep a line of it.
        line = one_line(clip(self.text, 4 * chars))
        return self.model_copy(
            update={"text": clip(line, chars), "kind": clip(one_line(self.kind), _KIND_CHARS)}
        )

    def joined(self, newer: CapsuleItem, *, count: int | None = None) -> CapsuleItem:
        """``newer`` with this one's repeats in it."""
        first = [n for n in (self.since, newer.since) if n is not None]
        return newer.model_copy(
            update={"count": count or self.count + newer.count, "since": min(first) if first else None}
        )


class Gist(BaseModel):
    """What older items come to: how many, of which iterations, and the beginnings of a few."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    count: int = Field(default=0, ge=0)
    since: int | None = None
    until: int | None = None
    heads: list[str] = Field(default_factory=list)

    def absorb(self, item: CapsuleItem, *, heads: int = 0) -> Gist:
        """This gist with one more item in it; at most so many beginnings, the newest of them."""
        known = [n for n in (self.since, self.until, item.since, item.iter_n) if n is not None]
        kept = [*self.heads, clip(one_line(clip(item.text, 400)), _HEAD_CHARS)] if heads else []
        return Gist(
            count=self.count + item.count,
            since=min(known, default=None),
            until=max(known, default=None),
            heads=kept[-heads:] if heads else [],
        )

    def shortened(self) -> Gist:
        """This gist without its oldest beginning."""
        return self.model_copy(update={"heads": self.heads[1:]})


def failure_key(error_type: str, summary: str) -> str:
    """The same for failures that differ in numbers and addresses only, such as line numbers or times."""
    said = _VARYING.sub("#", one_line(clip(summary, 2_000)).lower())
    return hashlib.sha256(f"{error_type}: {said}".encode("utf-8", "replace")).hexdigest()[:12]


def merged(items: Sequence[CapsuleItem], new: Sequence[CapsuleItem]) -> list[CapsuleItem]:
    """The items with new ones at the end; what was said before moves there and is counted."""
    known = {item.same: item for item in items}
    for item in new:
        short = item.bounded()
        before = known.pop(short.same, None)  # re-inserted, so that what is still said is among the newest
        known[short.same] = before.joined(short) if before else short
    return list(known.values())


def settled(
    items: Sequence[CapsuleItem],
    *,
    fits: Callable[[list[CapsuleItem]], bool],
    rank: Callable[[CapsuleItem], int],
    first: int = 0,
) -> tuple[list[CapsuleItem], list[CapsuleItem]]:
    """Those items that may stay, in order, and those that must go until the rest ``fits``.

    The ``first`` items and the newest stay longest; of the others the lowest ``rank`` goes first, then the
    oldest. A failure merges into a newer one of its kind rather than be forgotten.
    """
    kept, gone = list(items), list[CapsuleItem]()
    while kept and not fits(kept):
        place = least(kept, rank, first)
        item = kept.pop(place)
        kin = next(
            (n for n, other in enumerate(kept[place:], place) if item.kind and other.kind == item.kind), None
        )
        if kin is None:
            gone.append(item)
        else:
            kept[kin] = item.joined(kept[kin])
    return kept, gone


def one_line(text: str) -> str:
    """``text`` on one line, without characters that cannot be seen."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def visible(text: str) -> str:
    """``text`` without characters that cannot be seen, its lines kept."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else " " for char in text)


def least(items: Sequence[T], rank: Callable[[T], int], first: int) -> int:
    """The place of the item that can best be spared: not one of the ``first``, nor of the newest."""
    free = range(first, len(items) - NEWEST)
    if free:
        return min(free, key=lambda n: (rank(items[n]), n))
    # No room even for those: the very first and the newest are the last to go.
    return max(0, min(first, len(items) - 2))


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
    items = [CapsuleItem(text=text) for text in said]

    def fits(kept: list[CapsuleItem]) -> bool:
        return len(kept) <= MAX_ITEMS and chars([item.text for item in kept]) <= room * 3 // 4

    kept, gone = settled(items, fits=fits, rank=_alike, first=_FIRST_CONSTRAINTS)
    for item in gone:
        gist = gist.absorb(item, heads=_HEADS)
    while gist.heads and chars(gist) > room // 4:
        gist = gist.shortened()
    return [item.text for item in kept], len(gone), gist


def items(known: Sequence[CapsuleItem], gist: Gist, room: int) -> Trimmed:
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


def _alike(_item: CapsuleItem) -> int:
    return 0


def _weight(item: CapsuleItem) -> int:
    return 2 if item.count > 1 else int(item.by == "summarizer")

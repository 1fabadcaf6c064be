"""Fit parts into a fixed number of characters, and the items that a capsule's lists hold. Pure.

``pack`` is the one packer: the stored capsule and the prompt are packed by it. Each part has a share; if all
shares together are too large, they shrink in the same steps. Within its share a part drops the items that
matter least (``keep``), or shortens its texts (``shorten``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Self, TypeVar

from pydantic import Field, model_validator

from databricks_rlm_agent.runs.parsing import Document
from databricks_rlm_agent.values import clip

T = TypeVar("T")
W = TypeVar("W")
NEWEST = 4
"""So many of the newest items stay whatever they say: the next step most often depends on them."""
_SCALES = (1.0, 0.85, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)


@dataclass(frozen=True, kw_only=True)
class Part(Generic[T]):
    """A part that has to fit. ``fit`` returns it in about so many characters; ``chars`` is its full share,
    ``least`` what it keeps of that however little there is for all.
    """

    chars: int
    fit: Callable[[int], T]
    least: int = 0


def pack(parts: Mapping[str, Part[T]], *, join: Callable[[dict[str, T]], W], fits: Callable[[W], bool]) -> W:
    """Return the parts, joined, at the largest scale of their shares at which the whole fits.

    If it fits at none, it is as small as it gets.
    """
    for scale in _SCALES:
        whole = join(
            {name: part.fit(max(part.least, int(part.chars * scale))) for name, part in parts.items()}
        )
        if fits(whole):
            break
    return whole


def keep(
    items: Iterable[T],
    *,
    fits: Callable[[list[T]], bool],
    rank: Callable[[T], int] = lambda _item: 0,
    first: int = 0,
    newest: int = NEWEST,
    merge: Callable[[T, T], T | None] = lambda _old, _new: None,
) -> tuple[list[T], list[T]]:
    """Drop items until the rest fits; return those that stay, in order, and those that were dropped.

    The ``first`` and the ``newest`` items stay longest; of the others the lowest ``rank`` goes first, then
    the oldest. ``merge`` may put an item into a newer one, which then takes its place, before it is dropped.
    """
    kept, dropped = list(items), list[T]()
    while kept and not fits(kept):
        place = _least(kept, rank, first, newest)
        item = kept.pop(place)
        for later in range(place, len(kept)):
            if (merged := merge(item, kept[later])) is not None:
                kept[later] = merged
                break
        else:
            dropped.append(item)
    return kept, dropped


def _least(items: Sequence[T], rank: Callable[[T], int], first: int, newest: int) -> int:
    free = range(first, len(items) - newest)
    if free:
        return min(free, key=lambda n: (rank(items[n]), n))
    # There is not even room for those: the very first and the newest are the last to go.
    return max(0, min(first, len(items) - 2))


def shorten(make: Callable[[int], T], *, fits: Callable[[T], bool], limit: int = 600, least: int = 40) -> T:
    """Return ``make(limit)`` with the largest limit of its texts, from ``limit`` to ``least``, that fits."""
    made = make(limit)
    while limit > least and not fits(made):
        limit = max(least, limit * 3 // 4)
        made = make(limit)
    return made


ITEM_CHARS = 300
_KIND_CHARS = 80
_HEAD_CHARS = 100
_OLD_FORM = re.compile(r"Iteration (\d{1,9})(?:: | (?=\())")
_FILLERS = frozenset(("a", "an", "the", "now", "then"))
_VARYING = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8,}|\d+")


class CapsuleItem(Document):
    """One thing that a capsule holds. ``iter_n`` is the newest iteration that it comes from, ``since`` the
    first, ``count`` how often it occurred. ``kind`` is a failure's error type. Items with the same ``key``
    are one; without a key their words are compared.
    """

    text: str
    iter_n: int | None = None
    since: int | None = None
    by: Literal["facts", "summarizer"] = "facts"
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
    def of(
        cls,
        text: str,
        *,
        iter_n: int,
        by: Literal["facts", "summarizer"] = "facts",
        kind: str = "",
        key: str = "",
    ) -> Self:
        """An item of one iteration."""
        return cls(text=text, iter_n=iter_n, since=iter_n, by=by, kind=kind, key=key)

    @property
    def identity(self) -> str:
        """Equal for items that say the same: the same words, names and numbers in the same order."""
        words = (word for word in re.findall(r"[\w.$%/-]+", self.text.lower()) if word not in _FILLERS)
        return self.key or " ".join(word.strip(".") for word in words) or self.text

    def shortened(self, chars: int = ITEM_CHARS) -> CapsuleItem:
        """This item on one line of at most ``chars`` characters (at least 40), which JSON need not escape."""
        if len(self.text) <= chars and self.text.isprintable() and len(self.kind) <= _KIND_CHARS:
            return self
        # Cut before it is cleaned: a book need not be read to keep a line of it.
        line = one_line(clip(self.text, 4 * chars))
        return self.model_copy(
            update={"text": clip(line, chars), "kind": clip(one_line(self.kind), _KIND_CHARS)}
        )

    def with_older(self, older: CapsuleItem) -> CapsuleItem:
        """This item with an older one counted in."""
        first = [n for n in (older.since, self.since) if n is not None]
        return self.model_copy(update={"count": older.count + self.count, "since": min(first, default=None)})


class EarlierItems(Document):
    """The older items of a list, condensed: how many, from which iterations, and the beginnings of a few."""

    count: int = Field(default=0, ge=0)
    since: int | None = None
    until: int | None = None
    heads: list[str] = Field(default_factory=list)

    def with_item(self, item: CapsuleItem, *, heads: int = 0) -> EarlierItems:
        """These and one more item; at most so many beginnings, the newest of them."""
        known = [n for n in (self.since, self.until, item.since, item.iter_n) if n is not None]
        kept = [*self.heads, clip(one_line(clip(item.text, 400)), _HEAD_CHARS)] if heads else []
        return EarlierItems(
            count=self.count + item.count,
            since=min(known, default=None),
            until=max(known, default=None),
            heads=kept[-heads:] if heads else [],
        )


def failure_key(error_type: str, summary: str) -> str:
    """The same for failures that differ in numbers and addresses only, such as line numbers or times."""
    text = _VARYING.sub("#", one_line(clip(summary, 2_000)).lower())
    return hashlib.sha256(f"{error_type}: {text}".encode("utf-8", "replace")).hexdigest()[:12]


def merge_items(items: Sequence[CapsuleItem], new: Sequence[CapsuleItem]) -> list[CapsuleItem]:
    """The items with new ones at the end; one that was there before moves there and is counted."""
    known = {item.identity: item for item in items}
    for item in new:
        short = item.shortened()
        before = known.pop(short.identity, None)  # re-inserted, so that it is among the newest again
        known[short.identity] = short.with_older(before) if before else short
    return list(known.values())


def one_line(text: str) -> str:
    """``text`` on one line, without characters that cannot be seen."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def printable(text: str) -> str:
    """``text`` without characters that cannot be seen, its lines kept."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else " " for char in text)

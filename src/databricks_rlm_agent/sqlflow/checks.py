"""What must hold of tables in the end, and what was found of them. Pure values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from databricks_rlm_agent.sqltext.names import Name, shown


@dataclass(frozen=True, kw_only=True)
class Cover:
    """Keys of ``table`` that must be found: ``on`` are columns here and there; ``share`` of them at least."""

    table: Name
    on: tuple[tuple[str, str], ...]
    share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What must hold of one table. ``steps`` are those that make it: none, if it is there before."""

    table: Name
    key: tuple[str, ...] = ()
    min_rows: int | None = None
    covers: tuple[Cover, ...] = ()
    steps: tuple[str, ...] = ()

    def told(self) -> Iterator[str]:
        """Each check, in words."""
        if self.key:
            yield f"key {', '.join(self.key)} is unique"
        if self.min_rows is not None:
            yield f"{self.min_rows:,} rows or more"
        for cover in self.covers:
            on = ", ".join(here if here == there else f"{here} = {there}" for here, there in cover.on)
            yield f"covers {percent(cover.share)} of {shown(cover.table)} on {on}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "table": shown(self.table),
            "key": list(self.key),
            "min_rows": self.min_rows,
            "covers": [
                {"table": shown(cover.table), "on": dict(cover.on), "share": cover.share}
                for cover in self.covers
            ],
        }


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How many of the keys of ``table`` were found. ``on``: columns here and there that make a key.

    Distinct keys are counted, without those that have a NULL: there is nothing to look for. ``wanted`` is the
    least share, 0 to 1.
    """

    table: str
    on: tuple[tuple[str, str], ...]
    keys: int
    found: int
    wanted: float = 1.0

    @property
    def share(self) -> float | None:
        """Of 0 to 1; None where there is no key to find."""
        return self.found / self.keys if self.keys else None

    @property
    def good(self) -> bool:
        """Whether enough were found."""
        return self.share is None or self.share >= self.wanted

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "on": dict(self.on), "share": self.share, "good": self.good}


@dataclass(frozen=True, kw_only=True)
class TableCheck:
    """What was found of a table or view that the workflow makes, or that ``workflow.yml`` names.

    ``rows`` None: not counted, as views are not unless something is declared for them. ``key`` empty: none
    was declared; ``duplicates`` are the rows beyond the first of each key. ``errors`` are checks that could
    not be made: they are faults, never passed over.
    """

    table: str
    exists: bool
    view: bool = False
    step: str | None = None
    rows: int | None = None
    min_rows: int | None = None
    key: tuple[str, ...] = ()
    duplicates: int | None = None
    coverage: tuple[Coverage, ...] = ()
    errors: tuple[str, ...] = ()

    @property
    def unique(self) -> bool | None:
        """Whether no two rows have the same key; None where that is not declared or not known."""
        return None if self.duplicates is None else self.duplicates == 0

    @property
    def faults(self) -> tuple[str, ...]:
        """What is not as it should be, in words."""
        return tuple(self._faults())

    @property
    def good(self) -> bool:
        """Whether it is as it should be."""
        return not self.faults

    def _faults(self) -> Iterator[str]:
        if not self.exists:
            yield "it is not there"
        if self.rows is not None and self.min_rows is not None and self.rows < self.min_rows:
            yield f"it has {self.rows:,} rows, and {self.min_rows:,} are the least"
        if self.duplicates:
            yield f"{self.duplicates:,} rows have the {', '.join(self.key)} of another row"
        for each in self.coverage:
            if each.share is not None and not each.good:
                yield (
                    f"{each.keys - each.found:,} of {each.keys:,} keys of {each.table} are missing "
                    f"({percent(each.share)} are there, {percent(each.wanted)} are the least)"
                )
        yield from self.errors

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            **asdict(self),
            "coverage": [each.to_dict() for each in self.coverage],
            "unique": self.unique,
            "faults": list(self.faults),
            "good": self.good,
        }


def percent(share: float) -> str:
    """A share as a percentage, never rounded up to all: 99.99 % is not 100 %."""
    text = f"{share:.2%}"
    return "99.99%" if share < 1.0 and text == "100.00%" else text.replace(".00%", "%")

"""Values of checks: what must hold of tables at the end of a run, and what was found. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from databricks_rlm_agent.sqltext.names import Name, shown


@dataclass(frozen=True, kw_only=True)
class CoverageRule:
    """A ``share`` of the keys of ``table`` must be found; ``on``: columns of both tables, in pairs."""

    table: Name
    on: tuple[tuple[str, str], ...]
    share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """Checks that must hold of one table. ``steps``: those that make it; none if it exists before the run."""

    table: Name
    key: tuple[str, ...] = ()
    min_rows: int | None = None
    covers: tuple[CoverageRule, ...] = ()
    steps: tuple[str, ...] = ()

    def describe(self) -> Iterator[str]:
        """Yield each check in words."""
        if self.key:
            yield f"key {', '.join(self.key)} is unique"
        if self.min_rows is not None:
            yield f"{self.min_rows:,} rows or more"
        for cover in self.covers:
            on = ", ".join(here if here == there else f"{here} = {there}" for here, there in cover.on)
            yield f"covers {percent(cover.share)} of {shown(cover.table)} on {on}"

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
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
    """The keys of ``table`` that were found. ``on``: columns of both tables, in pairs, that make a key.

    Distinct keys without a NULL are counted. ``wanted`` is the least share, 0 to 1.
    """

    table: str
    on: tuple[tuple[str, str], ...]
    keys: int
    found: int
    wanted: float = 1.0

    @property
    def share(self) -> float | None:
        """The share of keys that were found, 0 to 1; None where there are none."""
        return self.found / self.keys if self.keys else None

    @property
    def good(self) -> bool:
        """Return whether enough were found."""
        return self.share is None or self.share >= self.wanted

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**asdict(self), "on": dict(self.on), "share": self.share, "good": self.good}


@dataclass(frozen=True, kw_only=True)
class TableCheck:
    """The result for a table or view that the workflow makes, or that ``workflow.yml`` names.

    ``rows`` None: not counted, as views are not unless something is declared of them. ``key`` empty: none was
    declared; ``duplicates`` are the rows beyond the first of each key. ``errors`` are checks that could not
    be made: they count as faults.
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
        """Return whether no two rows have the same key; None if that was not declared or is not known."""
        return None if self.duplicates is None else self.duplicates == 0

    @property
    def faults(self) -> tuple[str, ...]:
        """The checks that do not hold, in words."""
        return tuple(self._faults())

    @property
    def good(self) -> bool:
        """Return whether all checks hold."""
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
        """Return it for JSON."""
        return {
            **asdict(self),
            "coverage": [each.to_dict() for each in self.coverage],
            "unique": self.unique,
            "faults": list(self.faults),
            "good": self.good,
        }


def percent(share: float) -> str:
    """Return a share as a percentage, never rounded up to 100 %."""
    text = f"{share:.2%}"
    return "99.99%" if share < 1.0 and text == "100.00%" else text.replace(".00%", "%")

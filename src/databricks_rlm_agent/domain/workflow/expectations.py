"""What must hold of the tables of a workflow in the end, as ``workflow.yml`` declares it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from databricks_rlm_agent.domain.workflow.declared import FILE, TableRule
from databricks_rlm_agent.domain.workflow.names import Name, may_be_same, resolved, shown
from databricks_rlm_agent.domain.workflow.tablechecks import percent
from databricks_rlm_agent.domain.workflow.words import parts_of
from databricks_rlm_agent.errors import UsageError

if TYPE_CHECKING:
    from databricks_rlm_agent.domain.workflow.model import Step

_NAME = re.compile(r"(`[^`]+`|\w+)(\.(`[^`]+`|\w+)){0,2}")


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


def expectations_of(
    rules: Iterable[TableRule], steps: Sequence[Step], catalog: str | None, schema: str | None
) -> tuple[tuple[Expectation, ...], list[str]]:
    """What is declared, with names in full and the steps that make the tables; and notices.

    Raises UsageError for a table that is declared under two names.
    """
    found: dict[Name, Expectation] = {}
    notices = []
    for rule in rules:
        name = _name(rule.table, rule.line, catalog, schema)
        if name in found:
            raise UsageError(
                f"{shown(name)} is declared twice.", where=f"{FILE}:{rule.line}", fix="Write it once."
            )
        makers = tuple(step.id for step in steps if any(may_be_same(name, made) for made in step.makes))
        if not makers:
            notices.append(f"{FILE}:{rule.line}: no file makes {shown(name)}; it is checked all the same.")
        covers = tuple(
            Cover(table=_name(each.table, each.line, catalog, schema), on=each.on, share=each.share)
            for each in rule.covers
        )
        found[name] = Expectation(
            table=name, key=rule.key, min_rows=rule.min_rows, covers=covers, steps=makers
        )
    return tuple(found.values()), notices


def _name(text: str, line: int, catalog: str | None, schema: str | None) -> Name:
    if not _NAME.fullmatch(text):
        raise UsageError(
            f"{text!r} is not the name of a table.",
            where=f"{FILE}:{line}",
            fix="Write table, schema.table or catalog.schema.table; backquotes around odd parts.",
        )
    return resolved(parts_of(text), catalog, schema)

"""What the policy allows: tools and actions by mode, and write targets. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum, auto
from fnmatch import fnmatchcase

from databricks_rlm_agent.layout import Namespace

DEV = "DEV"
GATED: Mapping[str, frozenset[str]] = {DEV: frozenset(), "PROD": frozenset()}
"""By mode: what is neither offered to the model nor answered. A mode that is not named has what PROD has."""


@dataclass(frozen=True, kw_only=True)
class PolicyFinding:
    """What a rule says of a tool or of an action: that it is refused, or let pass (``refused`` False) and
    noted. ``reason`` goes back to the model: what is wrong, and what to do instead.
    """

    rule: str
    reason: str
    refused: bool = True


def lenient(mode: str) -> bool:
    """Whether a mode lets pass what cannot be decided: DEV only, so that a misspelt mode is a strict one."""
    return mode.strip().upper() == DEV


def gated_in(mode: str, gated: Mapping[str, frozenset[str]] = GATED) -> Collection[str]:
    """The names of tools and actions that a mode goes without."""
    return gated.get(DEV if lenient(mode) else "PROD", frozenset())


def gate(tool: str, mode: str, gated: Mapping[str, frozenset[str]] = GATED) -> PolicyFinding | None:
    """The refusal of a tool that the mode goes without; None for any other."""
    if tool not in gated_in(mode, gated):
        return None
    return PolicyFinding(
        rule="tool", reason=f"{tool} is not to be used in mode {mode[:40]}. Use another tool or action."
    )


LEDGER = frozenset(
    {
        *("run_state", "execution_requests", "execution_results", "run_events", "model_calls"),
        *("intake_watermarks", "schema_migrations", "sql_workflow_runs", "sql_workflow_steps"),
    }
)
"""Our own tables, which generated code may read and never write. ``work_items`` belongs to the givers."""
_SYSTEM_CATALOGS = {"system", "samples"}
_SYSTEM_SCHEMA = "information_schema"
Name = tuple[str, str, str]
"""Catalog, schema and table in lower case; ``*`` stands for what is not known, and nothing for what a program
leaves to its session.
"""


class Reach(StrEnum):
    """Whether a name may be written to."""

    INSIDE = auto()
    OUTSIDE = auto()
    UNCLEAR = auto()  # it depends on what is not known
    LEDGER = auto()


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Where a mode lets generated code write; ``patterns`` are of ``catalog.schema``."""

    namespace: Namespace
    patterns: tuple[str, ...]

    @classmethod
    def of(cls, mode: str, namespace: Namespace, chosen: tuple[str, ...] | None) -> Targets:
        """What is chosen; else everything in DEV, and in any other mode our schema and its scratch schema."""
        own = f"{namespace.catalog}.{namespace.schema}"
        default = ("*",) if lenient(mode) else (own, namespace.scratch_schema)
        patterns = default if chosen is None else chosen
        return cls(namespace=namespace, patterns=tuple(pattern.strip().lower() for pattern in patterns))

    def table(self, name: Name) -> Reach:
        """Whether a table of that name may be written to."""
        ours = (self.namespace.catalog.lower(), self.namespace.schema.lower())
        if all(map(_may_be, name[:2], ours)):
            if name[2] in LEDGER:
                return Reach.LEDGER
            if any(_may_be(name[2], table) for table in LEDGER):
                return Reach.UNCLEAR
        return self.schema(name[0], name[1])

    def schema(self, catalog: str, schema: str) -> Reach:
        """Whether anything in that schema may be written to."""
        if catalog in _SYSTEM_CATALOGS or schema == _SYSTEM_SCHEMA:
            return Reach.OUTSIDE
        pairs = [[*pattern.split("."), "*"][:2] for pattern in self.patterns]
        if any(_covers(one, catalog) and _covers(two, schema) for one, two in pairs):
            # Any catalog will do, and a system catalog will not.
            return Reach.UNCLEAR if "*" in catalog else Reach.INSIDE
        if any(_may_be(catalog, one) and _may_be(schema, two) for one, two in pairs):
            return Reach.UNCLEAR
        return Reach.OUTSIDE

    def __str__(self) -> str:
        return ", ".join(self.patterns)


def _covers(pattern: str, name: str) -> bool:
    """Whether a pattern holds for whatever a name turns out to be."""
    return pattern == "*" or fnmatchcase(name, pattern)


def _may_be(name: str, other: str) -> bool:
    """Whether a name with unknown parts may turn out to be another, or to fit a pattern."""
    return not name or fnmatchcase(other, name) or fnmatchcase(name, other)


def shown(name: Name) -> str:
    """A name as the program has it."""
    return ".".join(part for part in name if part)


def may_be_same(name: Name, other: Name) -> bool:
    """Whether two names may turn out to mean the same table."""
    return all(_may_be(one, two) or not two for one, two in zip(name, other, strict=True))


def full_name(parts: tuple[str, ...], here: tuple[str, str]) -> Name:
    """A table's whole name where names without a place mean those of ``here`` (catalog, schema).

    A part that is wholly unknown may hold dots: what stands left of it is unknown as well.
    """
    lower = tuple(part.lower() for part in parts)
    if not lower or len(lower) > 3 or (lower[0] == "*" and len(lower) < 3):
        known = lower[1:] if 1 < len(lower) <= 3 else ()
        lower = (*("*",) * (3 - len(known)), *known)
    catalog, schema, table = (*here[: 3 - len(lower)], *lower)
    return catalog, schema, table

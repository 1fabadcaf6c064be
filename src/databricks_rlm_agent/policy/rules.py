"""The policy's rules: tools and actions by mode, and write targets. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum, auto
from fnmatch import fnmatchcase

from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.sqltext.names import parts_may_match

DEV = "DEV"
GATED: Mapping[str, frozenset[str]] = {DEV: frozenset(), "PROD": frozenset()}
"""By mode: tools that are neither offered to the model nor answered. Unknown modes are as PROD."""


@dataclass(frozen=True, kw_only=True)
class PolicyFinding:
    """A rule's finding about a tool or an action: refused, or allowed and noted (``refused`` False).

    ``reason`` goes back to the model: what is wrong, and what to do instead.
    """

    rule: str
    reason: str
    refused: bool = True


def lenient(mode: str) -> bool:
    """Return whether a mode allows what cannot be decided: only DEV does, so a misspelt mode is strict."""
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
"""Our own tables, which generated code may read and never write. ``work_items`` belongs to its users."""
_SYSTEM_CATALOGS = {"system", "samples"}
_SYSTEM_SCHEMA = "information_schema"
FullName = tuple[str, str, str]
"""Catalog, schema and table in lower case; ``*`` stands for what is not known, and an empty part for what a
program leaves to its session.
"""


class WriteAccess(StrEnum):
    """The access that generated code has to a name."""

    ALLOWED = auto()
    OUTSIDE = auto()
    UNCLEAR = auto()  # it depends on what is not known
    LEDGER = auto()


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The schemas that generated code may write to in a mode; ``patterns`` are of ``catalog.schema``."""

    namespace: Namespace
    patterns: tuple[str, ...]

    @classmethod
    def of(cls, mode: str, namespace: Namespace, chosen: tuple[str, ...] | None) -> Targets:
        """The ``chosen`` patterns; by default everything in DEV, else our schema and its scratch schema."""
        own = f"{namespace.catalog}.{namespace.schema}"
        default = ("*",) if lenient(mode) else (own, namespace.scratch_schema)
        patterns = default if chosen is None else chosen
        return cls(namespace=namespace, patterns=tuple(pattern.strip().lower() for pattern in patterns))

    def table(self, name: FullName) -> WriteAccess:
        """Return the access to a table."""
        ours = (self.namespace.catalog.lower(), self.namespace.schema.lower())
        if all(map(_may_be, name[:2], ours)):
            if name[2] in LEDGER:
                return WriteAccess.LEDGER
            if any(_may_be(name[2], table) for table in LEDGER):
                return WriteAccess.UNCLEAR
        return self.schema(name[0], name[1])

    def schema(self, catalog: str, schema: str) -> WriteAccess:
        """Return the access to everything in a schema."""
        if catalog in _SYSTEM_CATALOGS or schema == _SYSTEM_SCHEMA:
            return WriteAccess.OUTSIDE
        pairs = [[*pattern.split("."), "*"][:2] for pattern in self.patterns]
        if any(_covers(one, catalog) and _covers(two, schema) for one, two in pairs):
            # An unknown catalog may be a system catalog.
            return WriteAccess.UNCLEAR if "*" in catalog else WriteAccess.ALLOWED
        if any(_may_be(catalog, one) and _may_be(schema, two) for one, two in pairs):
            return WriteAccess.UNCLEAR
        return WriteAccess.OUTSIDE

    def __str__(self) -> str:
        return ", ".join(self.patterns)


def _covers(pattern: str, name: str) -> bool:
    """Return whether a pattern matches whatever a name turns out to be."""
    return pattern == "*" or fnmatchcase(name, pattern)


def _may_be(name: str, other: str) -> bool:
    """Return whether a name with unknown parts may turn out to be another, or to fit a pattern."""
    return not name or parts_may_match(name, other)


def dotted(name: FullName) -> str:
    """A name as the program writes it."""
    return ".".join(part for part in name if part)


def may_be_same(name: FullName, other: FullName) -> bool:
    """Return whether two names may turn out to mean the same table."""
    return all(_may_be(one, two) or not two for one, two in zip(name, other, strict=True))


def full_name(parts: tuple[str, ...], place: tuple[str, str]) -> FullName:
    """A table's whole name where names without one are in ``place`` (catalog, schema).

    A part that is entirely unknown may contain dots: what is left of it is unknown as well.
    """
    lower = tuple(part.lower() for part in parts)
    if not lower or len(lower) > 3 or (lower[0] == "*" and len(lower) < 3):
        known = lower[1:] if 1 < len(lower) <= 3 else ()
        lower = (*("*",) * (3 - len(known)), *known)
    catalog, schema, table = (*place[: 3 - len(lower)], *lower)
    return catalog, schema, table

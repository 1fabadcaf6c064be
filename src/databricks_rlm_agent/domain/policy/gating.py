"""Which tools and actions a mode goes without. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

DEV = "DEV"
GATED: Mapping[str, frozenset[str]] = {DEV: frozenset(), "PROD": frozenset()}
"""By mode: what is neither offered to the model nor answered. A mode that is not named has what PROD has."""


@dataclass(frozen=True, kw_only=True)
class Finding:
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


def gate(tool: str, mode: str, gated: Mapping[str, frozenset[str]] = GATED) -> Finding | None:
    """The refusal of a tool that the mode goes without; None for any other."""
    if tool not in gated_in(mode, gated):
        return None
    return Finding(
        rule="tool", reason=f"{tool} is not to be used in mode {mode[:40]}. Use another tool or action."
    )

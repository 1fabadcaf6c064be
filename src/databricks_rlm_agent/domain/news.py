"""What a poll of a work table found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from databricks_rlm_agent.domain.fsm import State
from databricks_rlm_agent.domain.items import Item


@dataclass(frozen=True, kw_only=True)
class RunNews:
    """How the run of an item stands; ``told``: its question, answer or reason."""

    item_id: str
    run_id: str
    revision: str
    state: State
    told: str | None = None


@dataclass(frozen=True, kw_only=True)
class News:
    """Revisions that no run has taken up, runs that changed, and runs whose item has a newer revision.

    ``more``: the batch was full, so there may be further items; ``whole``: all open items were looked at,
    whenever they changed.
    """

    items: Sequence[Item] = ()
    runs: Sequence[RunNews] = ()
    obsolete: Sequence[RunNews] = ()
    more: bool = False
    whole: bool = False

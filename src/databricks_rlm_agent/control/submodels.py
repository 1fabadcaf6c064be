"""Which models programs may ask, and how much: the part of a request that says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from databricks_rlm_agent.domain.models import sub_endpoint
from databricks_rlm_agent.domain.prices import Price
from databricks_rlm_agent.domain.run import Run
from executor_harness import protocol


@dataclass(frozen=True, kw_only=True)
class SubModels:
    """Serving endpoints for programs. ``endpoint`` None: that of the run's planner, if it is one.

    ``concurrency`` and ``per_minute`` (calls) hold for a run with all its child runs.
    """

    planner_model: str
    calls_table: str
    endpoint: str | None = None
    concurrency: int = 64
    per_minute: int | None = None
    timeout_s: float = 120.0
    reply_tokens: int = 4_096
    prices: Mapping[str, Price] = field(default_factory=dict)

    def of(self, run: Run) -> str | None:
        """The endpoint that the programs of a run may ask; None if there is none."""
        return self.endpoint or sub_endpoint(run.model or self.planner_model)

    def access(self, run: Run) -> dict[str, Any] | None:
        """What a request says of it (``protocol.ModelAccess``)."""
        endpoint = self.of(run)
        if endpoint is None:
            return None
        at_once = run.budget.sub_concurrency or self.concurrency
        # A child's part of the rate is that of the calls at once.
        rate = None if self.per_minute is None else max(1, self.per_minute * at_once // self.concurrency)
        access: protocol.ModelAccess = {
            "endpoint": endpoint,
            "concurrency": min(at_once, self.concurrency),
            "per_minute": rate,
            "timeout_s": self.timeout_s,
            "max_reply_tokens": self.reply_tokens,
            "prices": {name: _told(price) for name, price in self.prices.items()},
            "allowance": run.budget.allowance(),
            "calls_table": self.calls_table,
        }
        return dict(access)


def _told(price: Price) -> protocol.Price:
    return {"input_usd": price.input_usd, "output_usd": price.output_usd}

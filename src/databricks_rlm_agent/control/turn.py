"""What the planner is told of a run."""

from __future__ import annotations

from databricks_rlm_agent.domain.run import Run
from databricks_rlm_agent.ports import Turn


def turn_of(run: Run, *, used_calls: int) -> Turn:
    """The planner's view of a run whose turn has used so many model calls already."""
    return Turn(
        run_id=run.run_id,
        iter_n=run.iter_n,
        mode=run.current_mode,
        capsule=run.capsule,
        budget=run.budget.lent(run.lease_epoch, used=used_calls),
        model=run.model,
        last_value=(run.last_result or {}).get("value"),
    )

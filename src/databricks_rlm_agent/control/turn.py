"""What the planner is told of a run."""

from __future__ import annotations

from collections.abc import Callable

from databricks_rlm_agent.domain.actions import Action
from databricks_rlm_agent.domain.run import Run
from databricks_rlm_agent.ports import Turn


def turn_of(
    run: Run,
    *,
    used_calls: int,
    sub_model: str | None = None,
    held: Callable[[], bool] = lambda: True,
    review: Callable[[Action], str | None] = lambda _action: None,
) -> Turn:
    """The planner's view of a run whose turn has used so many model calls already; see ``ports.Turn``."""
    return Turn(
        run_id=run.run_id,
        iter_n=run.iter_n,
        mode=run.current_mode,
        capsule=run.capsule,
        budget=run.budget.lent(run.lease_epoch, used=used_calls),
        model=run.model,
        last_value=(run.last_result or {}).get("value"),
        sub_model=sub_model,
        children_left=run.children_left,
        held=held,
        review=review,
    )

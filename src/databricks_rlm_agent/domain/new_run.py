"""Turn a task into a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from databricks_rlm_agent.domain.budget import Budget
from databricks_rlm_agent.domain.capsule import INPUT_CHARS, OBJECTIVE_CHARS, Capsule
from databricks_rlm_agent.domain.checks import Check
from databricks_rlm_agent.domain.fsm import State
from databricks_rlm_agent.domain.ids import check_id
from databricks_rlm_agent.domain.run import Outcome, Run
from databricks_rlm_agent.domain.text import storable
from databricks_rlm_agent.errors import UsageError


def new_run(
    task: str,
    *,
    run_id: str,
    clock: Callable[[], datetime],
    inputs: dict[str, Any] | None = None,
    checks: Sequence[Check] = (),
    budget: Budget | None = None,
    mode: str = "DEV",
    model: str | None = None,
    item_id: str | None = None,
    item_revision: str | None = None,
) -> Run:
    """A run for a task, not yet stored; raise UsageError for a task that cannot be one."""
    _check(task, json.dumps(inputs or {}, ensure_ascii=False))
    now = clock()
    return Run(
        run_id=check_id(run_id, what="run id"),
        item_id=item_id,
        item_revision=item_revision,
        parent_run_id=None,
        depth=0,
        current_mode=mode,
        fsm_state=State.PENDING,
        iter_n=1,
        attempt=1,
        lease_owner=None,
        lease_epoch=0,
        lease_expiry=None,
        version=0,
        write_id=None,
        capsule=Capsule.begin(task.strip(), inputs=inputs).model_copy(update={"checks": list(checks)}),
        budget=budget or Budget(),
        last_request=None,
        last_result=None,
        outcome=Outcome(),
        model=model,
        created_at=now,
        updated_at=now,
    )


def _check(task: str, inputs: str) -> None:
    if not task.strip():
        raise UsageError("The task is empty.", fix='Say what is to be done: rlm-agent run "…".')
    if len(task) > OBJECTIVE_CHARS:
        raise UsageError(
            f"The task has {len(task):,} characters; the limit is {OBJECTIVE_CHARS:,}.",
            fix="Put long material in a file of a Volume and give it as an input.",
        )
    if storable(task + inputs) != task + inputs:
        raise UsageError(
            "The task or an input is not valid UTF-8.", fix="Check the encoding of what was typed."
        )
    if len(inputs) > INPUT_CHARS:
        raise UsageError(
            f"The inputs have more than {INPUT_CHARS:,} characters.",
            fix="Inputs are handles: name a table or a file of a Volume in place of the text itself.",
        )

"""Which steps may be put on record while later ones already run. Pure.

What is done and not yet on record when a process dies is run again. That leads to the same tables where the
step is safe to run again from its start, and nothing that may have run after it has changed what it reads.
What is not safe to repeat is noted before, and a note goes on record with all that is before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from databricks_rlm_agent.domain.workflow.model import Iteration, Loop, Plan, Step
from databricks_rlm_agent.domain.workflow.names import Name, common
from databricks_rlm_agent.domain.workflow.planning.iterations import iteration
from databricks_rlm_agent.domain.workflow.running.checkpoints import checkpoints
from databricks_rlm_agent.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Late:
    """``steps`` of which it holds, and ``loops`` each of whose iterations may be on record one later."""

    steps: frozenset[str] = frozenset()
    loops: frozenset[str] = frozenset()


def late(plan: Plan) -> Late:
    """What may be put on record late."""
    before = _before(plan)
    return Late(
        steps=frozenset(
            step.id
            for step in plan.steps
            if _again(step)
            and not _changes([each for each in plan.steps if each.id not in before[step.id]], _read(step))
        ),
        loops=frozenset(step.id for step in plan.steps if step.loop and _one_after_another(step.loop)),
    )


def _before(plan: Plan) -> dict[str, set[str]]:
    """Of every step those that are over when it begins, and itself."""
    found: dict[str, set[str]] = {}
    earlier: set[str] = set()
    for _stage, steps in plan.stages:
        for step in steps:
            needed = (found.get(need.step, set()) for need in step.needs)
            found[step.id] = earlier.union({step.id}, *needed)
        earlier |= {step.id for step in steps}
    return found


def _again(step: Step) -> bool:
    """Whether it may be run again from its start; of a loop that is its end, behind its iterations."""
    return step.problem is None and (step.file is None or not checkpoints(step.file))


def _read(step: Step) -> tuple[Name, ...]:
    """What must not change: of a loop also its tables, the last of which gets the alias."""
    return (*step.reads, *step.writes) if step.loop else step.reads


def _changes(others: Iterable[Step], names: Iterable[Name]) -> bool:
    written = [name for step in others for name in step.writes]
    return any(step.problem for step in others) or common(written, names) is not None


def _one_after_another(loop: Loop) -> bool:
    try:
        some = [iteration(loop, loop.first + n) for n in range(len(loop.files) + 2)]
    except UsageError:  # there is no file beyond those, and none can be made
        some = [iteration(loop, loop.first + n) for n in range(len(loop.files))]
    return all(not checkpoints(each.file) and each.file.problem is None for each in some) and all(
        common(following.file.writes, _measured(each)) is None for each, following in itertools.pairwise(some)
    )


def _measured(each: Iteration) -> list[Name]:
    """What running and measuring an iteration reads, but for what it makes itself."""
    tables = [name for name in (each.table, each.before) if name is not None]
    return [*each.file.reads, *tables]

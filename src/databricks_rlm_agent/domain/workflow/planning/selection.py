"""Which steps of a plan are to run: ``--only``, ``--from``, ``--skip``. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from databricks_rlm_agent.domain.workflow.model import Plan, Step
from databricks_rlm_agent.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Steps by their names or their files' (patterns too): only these, all from one on, all but these."""

    only: tuple[str, ...] = ()
    start: str | None = None
    skip: tuple[str, ...] = ()


def select(plan: Plan, selection: Selection) -> Plan:
    """The plan with the chosen steps only; raise UsageError for a name that no step has, or if none is left.

    What steps need of those left out is taken to be there.
    """
    steps: Sequence[Step] = plan.steps
    if selection.start:
        first = _named(plan, selection.start, "--from")[0]
        steps = steps[[step.id for step in steps].index(first) :]
    if selection.only:
        wanted = {id_ for pattern in selection.only for id_ in _named(plan, pattern, "--only")}
        steps = [step for step in steps if step.id in wanted]
    skipped = {id_ for pattern in selection.skip for id_ in _named(plan, pattern, "--skip")}
    steps = [step for step in steps if step.id not in skipped]
    if not steps:
        raise UsageError("No step is left.", fix="Choose others with --only, --from and --skip.")
    return replace(plan, steps=tuple(_narrowed(steps)))


def _named(plan: Plan, pattern: str, option: str) -> list[str]:
    found = [step.id for step in plan.steps if any(fnmatchcase(name, pattern) for name in _names(step))]
    if found:
        return found
    known = ", ".join(step.id for step in plan.steps[:30])
    raise UsageError(f"{option} {pattern}: there is no such step.", fix=f"There are: {known}.")


def _names(step: Step) -> list[str]:
    return [step.id, *(name for file in step.files for name in file.names)]


def _narrowed(steps: Iterable[Step]) -> list[Step]:
    """The steps without needs of others."""
    steps = list(steps)
    left = {step.id for step in steps}
    return [replace(step, needs=tuple(need for need in step.needs if need.step in left)) for step in steps]

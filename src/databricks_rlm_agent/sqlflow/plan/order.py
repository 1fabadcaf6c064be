"""Orders the steps of a plan by what they read and write, and selects some of them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.sqlflow.model import Need, Plan, Step
from databricks_rlm_agent.sqltext.names import ANYTHING, Name, common, is_table, shown, unique
from databricks_rlm_agent.sqltext.statement import StatementKind

_INSERTING = {StatementKind.INSERT, StatementKind.MERGE}
_DIGITS = re.compile(r"(\d+)")


def ordered(steps: Iterable[Step]) -> tuple[tuple[Step, ...], list[str]]:
    """Return the steps, with their needs, in an order in which they could run one by one; and notices."""
    steps = _without_foreign_functions(sorted(steps, key=_by_stage))
    made = unique(name for step in steps for name in step.makes if is_table(name))
    order: list[Step] = []
    notices: list[str] = []
    for stage in dict.fromkeys(step.stage for step in steps):
        in_stage, stage_notices = _ordered_stage([step for step in steps if step.stage == stage], made)
        order += in_stage
        notices += stage_notices
    for place, step in enumerate(order):
        reasons = ((other.id, conflict(other, step)) for other in order[:place])
        needs = tuple(Need(step=other, reason=reason) for other, reason in reasons if reason)
        order[place] = replace(step, needs=needs)
    return tuple(order), notices


def conflict(earlier: Step, later: Step) -> str | None:
    """Return why the later step must wait for the earlier one; None if they may run at the same time."""
    for step in (later, earlier):
        if step.problem:
            return f"{step.id} runs alone: what it reads and writes is not known"
    if name := common(later.reads, earlier.writes):
        return f"reads {shown(name)}"
    if name := common(later.writes, earlier.writes):
        return f"writes {shown(name)} as well"
    if name := common(later.writes, earlier.reads):
        return f"writes {shown(name)}, which that one reads"
    return None


def required(step: Step) -> tuple[Name, ...]:
    """Return what must exist before a step: what it reads, and what it changes without making it."""
    makes = set(step.makes)
    gone = {name for file in step.files for each in file.statements if each.repeatable for name in each.drops}
    changed = [name for name in step.writes if name not in makes and name not in gone and is_table(name)]
    return (*step.reads, *changed)


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Return a key that sorts names as people do: b2 before b10."""
    parts = _DIGITS.split(name.lower())
    return tuple((0, int(part)) if place % 2 else (1, part) for place, part in enumerate(parts))


def _by_stage(step: Step) -> tuple[bool, int, tuple[tuple[int, int | str], ...], str]:
    return step.stage is None, step.stage or 0, natural_key(step.id), step.id


def _ordered_stage(steps: Sequence[Step], made: Sequence[Name]) -> tuple[list[Step], list[str]]:
    """Return the steps of a stage, makers before users, else by name; and notices about circles."""
    waiting = list(steps)
    before = {step.id: {other.id for other in steps if _makes_for(other, step, made)} for step in steps}
    order: list[Step] = []
    notices = []
    while waiting:
        left = {step.id for step in waiting}
        free = next((step for step in waiting if not before[step.id] & left), None)
        if free is None:
            free = waiting[0]
            others = ", ".join(sorted(before[free.id] & left))
            notices.append(
                f"{free.id} needs what {others} makes, and the other way round: they run in the order of "
                "their names."
            )
        waiting.remove(free)
        order.append(free)
    return order, notices


def _makes_for(maker: Step, user: Step, made: Sequence[Name]) -> bool:
    """Return whether one makes what the other needs, or inserts into what the other only reads.

    The latter only for tables ``made`` by the workflow: rows of others may as well be marked after they were
    read.
    """
    if maker.id == user.id or maker.problem or user.problem:
        return False
    own = set(user.makes)
    makes = [name for name in maker.makes if name not in own]
    schemas = [name for name in makes if "*" in name[-1]]
    if common(makes, required(user)) or common(schemas, user.writes):
        return True
    statements = (each for file in maker.files for each in file.statements if each.kind in _INSERTING)
    written = unique(name for each in statements for name in each.writes)
    inserted = [name for name in written if name not in user.writes and common([name], made)]
    return bool(inserted and common(inserted, user.reads))


def _without_foreign_functions(steps: Sequence[Step]) -> list[Step]:
    """Remove from the steps' reads the functions that no step makes: they exist already."""
    made = {name[-1] for step in steps for name in step.makes if name[-1].endswith("()")}

    def ours(name: Name) -> bool:
        return name == ANYTHING or not name[-1].endswith("()") or name[-1] in made

    return [replace(step, reads=tuple(name for name in step.reads if ours(name))) for step in steps]


def notices_of(steps: Sequence[Step]) -> Iterator[str]:
    """Yield notices about steps in their order: what they read that is not there, and what is overwritten."""
    yield from _hidden_views(steps)
    yield from _made_later(steps)
    yield from _made_twice(steps)


def _hidden_views(steps: Sequence[Step]) -> Iterator[str]:
    made = {name[-1] for step in steps for name in step.makes}
    views = {view: step.id for step in steps for file in step.files for view in file.views}
    for step in steps:
        for name in step.reads:
            owner = views.get(name[-1])
            if owner and owner != step.id and name[-1] not in made:
                yield f"{step.id} reads {name[-1]}, a temporary view of {owner}: no other file can see it."


def _made_later(steps: Sequence[Step]) -> Iterator[str]:
    places = {stage: place for place, stage in enumerate(dict.fromkeys(step.stage for step in steps))}
    for step in steps:
        for name in filter(is_table, step.reads):
            makers = [other for other in steps if name in other.makes]
            if makers and all(places[other.stage] > places[step.stage] for other in makers):
                yield (
                    f"{step.id} reads {shown(name)}, which {makers[0].id} of a later stage makes: it must be "
                    "there from before."
                )


def _made_twice(steps: Sequence[Step]) -> Iterator[str]:
    makers: dict[tuple[int | None, Name], Step] = {}
    for step in steps:
        for name in filter(is_table, step.makes):
            other = makers.setdefault((step.stage, name), step)
            if other is not step and _always_makes(other, name) and _always_makes(step, name):
                yield (
                    f"{other.id} and {step.id} both make {shown(name)}: what is left is that of {step.id}, "
                    "which runs later."
                )


def _always_makes(step: Step, name: Name) -> bool:
    statements = [each for file in step.files for each in file.statements if name in each.makes]
    return any("IF NOT EXISTS" not in each.words for each in statements)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A choice of steps by names or patterns, or their files': only these, from one on, without these."""

    only: tuple[str, ...] = ()
    start: str | None = None
    skip: tuple[str, ...] = ()


def select(plan: Plan, selection: Selection) -> Plan:
    """Return the plan with the chosen steps only; raise UsageError for an unknown name, or if none is left.

    What the steps need of those left out must exist already.
    """
    steps: Sequence[Step] = plan.steps
    if selection.start:
        first = _named(plan, selection.start, "--from")[0]
        steps = steps[[step.id for step in steps].index(first) :]
    if selection.only:
        chosen = {id_ for pattern in selection.only for id_ in _named(plan, pattern, "--only")}
        steps = [step for step in steps if step.id in chosen]
    skipped = {id_ for pattern in selection.skip for id_ in _named(plan, pattern, "--skip")}
    steps = [step for step in steps if step.id not in skipped]
    if not steps:
        raise UsageError("No step is left.", fix="Choose others with --only, --from and --skip.")
    left = {step.id for step in steps}
    kept = [replace(step, needs=tuple(need for need in step.needs if need.step in left)) for step in steps]
    return replace(plan, steps=tuple(kept))


def _named(plan: Plan, pattern: str, option: str) -> list[str]:
    found = [step.id for step in plan.steps if any(fnmatchcase(name, pattern) for name in _names(step))]
    if found:
        return found
    known = ", ".join(step.id for step in plan.steps[:30])
    raise UsageError(f"{option} {pattern}: there is no such step.", fix=f"There are: {known}.")


def _names(step: Step) -> list[str]:
    return [step.id, *(name for file in step.files for name in file.names)]

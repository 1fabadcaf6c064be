"""What a person should know of a plan before it runs. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from databricks_rlm_agent.domain.workflow.model import Loop, Step
from databricks_rlm_agent.domain.workflow.names import Name, is_table, shown
from databricks_rlm_agent.domain.workflow.planning.iterations import iteration
from databricks_rlm_agent.domain.workflow.text.variables import used
from databricks_rlm_agent.errors import UsageError

_IF_NOT_THERE = re.compile(r"\bIF\s+NOT\s+EXISTS\b", re.IGNORECASE)
_HEAD = 200  # characters of a statement in which it stands


def unused(texts: Iterable[str], variables: Iterable[str]) -> list[str]:
    """Tells of variables that no text has."""
    named = {name for text in texts for name in used(text)}
    return [f"--var {name} is used by no file." for name in variables if name not in named]


def told_of(step: Step) -> Iterator[str]:
    """What a person should know of a step."""
    for file in step.files:
        if file.problem:
            yield f"{step.id} runs alone: {file.problem}."
        if not file.statements:
            yield f"{file.name} has no statements."
    if step.loop:
        yield from _told_of_loop(step.id, step.loop)


def _told_of_loop(name: str, loop: Loop) -> Iterator[str]:
    last = iteration(loop, loop.first + len(loop.files) - 1)
    if last.table is None and not loop.convergence:
        yield f"{name}: its iterations write no table that could be compared: declare a convergence query."
    elif last.table == last.before and not loop.convergence:
        where = shown(last.table or ())
        yield (
            f"{name}: its iterations change {where} in place: it ends when one leaves all rows as they were. "
            "Declare a convergence query if rows get a time or number with every iteration."
        )
    for number in range(loop.first, loop.first + len(loop.files)):
        yield from _dropped(name, loop, number)
    if loop.template is None:
        try:
            iteration(loop, last.number + 1)
        except UsageError as error:
            yield f"{name}: iterations beyond {last.file.name} cannot be made: {error.fix}"


def _dropped(name: str, loop: Loop, number: int) -> Iterator[str]:
    """Tells of an iteration that drops the table which its own is compared with."""
    now = iteration(loop, number)
    gone = {each for statement in now.file.statements for each in statement.gone}
    if now.before in gone - set(now.file.makes) and not loop.convergence:
        yield (
            f"{name}: {now.file.name} drops {shown(now.before or ())}, which its own table is compared with: "
            "leave the DROP away, or drop the tables in a later file."
        )


def hidden_views(steps: Sequence[Step]) -> Iterator[str]:
    """Tells of files that read what another has made for its own session only."""
    made = {name[-1] for step in steps for name in step.makes}
    views = {view: step.id for step in steps for file in step.files for view in file.views}
    for step in steps:
        for name in step.reads:
            owner = views.get(name[-1])
            if owner and owner != step.id and name[-1] not in made:
                yield f"{step.id} reads {name[-1]}, a temporary view of {owner}: no other file can see it."


def made_later(steps: Sequence[Step]) -> Iterator[str]:
    """Tells of steps that read what only a later stage makes."""
    places = {stage: place for place, stage in enumerate(dict.fromkeys(step.stage for step in steps))}
    for step in steps:
        for name in filter(is_table, step.reads):
            makers = [other for other in steps if name in other.makes]
            if makers and all(places[other.stage] > places[step.stage] for other in makers):
                yield (
                    f"{step.id} reads {shown(name)}, which {makers[0].id} of a later stage makes: it must be "
                    "there from before."
                )


def made_twice(steps: Sequence[Step]) -> Iterator[str]:
    """Tells of steps of one stage that make the same table: the later one's is what is left."""
    makers: dict[tuple[int | None, Name], Step] = {}
    for step in steps:
        for name in filter(is_table, step.makes):
            other = makers.setdefault((step.stage, name), step)
            if other is not step and _anew(other, name) and _anew(step, name):
                yield (
                    f"{other.id} and {step.id} both make {shown(name)}: what is left is that of {step.id}, "
                    "which runs later."
                )


def _anew(step: Step, name: Name) -> bool:
    """Whether a step makes a table whatever is there."""
    statements = [each for file in step.files for each in file.statements if name in each.makes]
    return any(not _IF_NOT_THERE.search(each.text[:_HEAD]) for each in statements)

"""What a person should know of a plan before it runs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from databricks_rlm_agent.domain.workflow.iterations import iteration
from databricks_rlm_agent.domain.workflow.model import Loop, Step
from databricks_rlm_agent.domain.workflow.names import shown
from databricks_rlm_agent.domain.workflow.variables import used
from databricks_rlm_agent.errors import UsageError


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
        yield f"{name}: its iterations change {where} in place: declare a convergence query."
    if loop.template is None:
        try:
            iteration(loop, last.number + 1)
        except UsageError as error:
            yield f"{name}: iterations beyond {last.file.name} cannot be made: {error.fix}"


def hidden_views(steps: Sequence[Step]) -> Iterator[str]:
    """Tells of files that read what another has made for its own session only."""
    made = {name[-1] for step in steps for name in step.makes}
    views = {view: step.id for step in steps for file in step.files for view in file.views}
    for step in steps:
        for name in step.reads:
            owner = views.get(name[-1])
            if owner and owner != step.id and name[-1] not in made:
                yield f"{step.id} reads {name[-1]}, a temporary view of {owner}: no other file can see it."

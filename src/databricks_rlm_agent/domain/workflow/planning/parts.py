"""Loops whose iterations are of several files: ``a_iteration_01`` and ``b_iteration_01``. Pure.

By their names they are loops of their own. They are one loop if their names differ after the number only
(``iteration_01_part1``), or if one reads what the other makes in an iteration: to run the one to its end
before the other begins would not converge, or not to the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from databricks_rlm_agent.domain.workflow.model import SqlFile, Step
from databricks_rlm_agent.domain.workflow.names import Name, common, is_table
from databricks_rlm_agent.domain.workflow.planning.files import stage_of
from databricks_rlm_agent.domain.workflow.planning.groups import Group
from databricks_rlm_agent.domain.workflow.planning.iterations import table_of
from databricks_rlm_agent.domain.workflow.planning.order import ordered

Files = Mapping[str, SqlFile]


def joined(groups: Sequence[Group], files: Files) -> tuple[list[Group], list[str]]:
    """The loops, with those that are parts of one put together; and what a person should know of that."""
    done = [group for group in groups if not group.head]
    notices = []
    for some in _together([group for group in groups if group.head], files):
        if len(some) == 1 or not _fit(some):
            done += some
            notices += [_not_fitting(some)] if len(some) > 1 else []
            continue
        loop = _one_loop(some, files)
        names = ", ".join(group.id for group in some)
        order = ", ".join(loop.iterations[0])
        notices.append(f"{names} run as one loop, {loop.id}: an iteration is {order}.")
        done.append(loop)
    return done, notices


def _together(groups: Iterable[Group], files: Files) -> list[list[Group]]:
    sets: list[list[Group]] = []
    for group in groups:
        near = [some for some in sets if any(_linked(group, other, files) for other in some)]
        sets = [some for some in sets if some not in near]
        sets.append([*(each for some in near for each in some), group])
    return sets


def _linked(one: Group, other: Group, files: Files) -> bool:
    if stage_of(one.members[0]) != stage_of(other.members[0]):
        return False
    return one.head == other.head or _feeds(one, other, files) or _feeds(other, one, files)


def _feeds(maker: Group, reader: Group, files: Files) -> bool:
    """Whether one reads what the other makes, or leaves the same table: not if both only add to a log."""
    made = [name for file in maker.members for name in files[file].makes if is_table(name)]
    read = [name for file in reader.members for name in files[file].reads if is_table(name)]
    if common(read, made):
        return True
    return bool(set(_left(maker, files)) & set(_left(reader, files)))


def _left(group: Group, files: Files) -> list[Name]:
    found = (table_of(files[name], n) for n, name in enumerate(group.members, group.first))
    return [table for table in found if table is not None]


def _fit(some: Sequence[Group]) -> bool:
    return len({(group.first, len(group.iterations)) for group in some}) == 1


def _not_fitting(some: Sequence[Group]) -> str:
    names = ", ".join(group.id for group in some)
    return (
        f"{names} belong together, but do not have the same iterations: each runs to its end as a loop of "
        "its own. Give them the same numbers, or put what belongs to one iteration into one file."
    )


def _one_loop(some: Sequence[Group], files: Files) -> Group:
    first = some[0]
    heads = {group.head for group in some}
    name = first.head.rstrip("_-. ") if len(heads) == 1 else first.id
    rows = zip(*(group.members for group in some), strict=True)
    return replace(first, id=name, iterations=tuple(_in_order(names, files) for names in rows))


def _in_order(names: Iterable[str], files: Files) -> tuple[str, ...]:
    """The files of one iteration: who makes a table before who reads it, apart from that by name."""
    steps = [
        Step(id=name, stage=None, file=file, reads=file.reads, writes=file.writes, makes=file.makes)
        for name, file in ((name, files[name]) for name in names)
    ]
    return tuple(step.id for step in ordered(steps)[0])

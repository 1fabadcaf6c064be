"""Which files of a directory are loops: those that are declared, and those by convention. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from databricks_rlm_agent.domain.workflow.model import Template
from databricks_rlm_agent.domain.workflow.planning.declared import FILE, Declared
from databricks_rlm_agent.domain.workflow.planning.loops import first_number, series_of
from databricks_rlm_agent.domain.workflow.planning.order import natural
from databricks_rlm_agent.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Group:
    """Files of one loop, or its template, and what is declared about it.

    ``iterations`` are names of files: mostly one, or those that make up an iteration, in order.
    """

    id: str
    first: int
    iterations: tuple[tuple[str, ...], ...] = ()
    template: Template | None = None
    declared: Declared | None = None
    head: str = ""  # of a loop by convention: the names of its files up to the number

    @property
    def members(self) -> tuple[str, ...]:
        """The names of its files."""
        if self.template:
            return (self.template.name,)
        return tuple(name for names in self.iterations for name in names)


def groups_of(texts: Mapping[str, str], declared: Sequence[Declared]) -> tuple[list[Group], list[str]]:
    """The loops, declared or by convention."""
    groups: list[Group] = []
    for each in declared:
        group = _declared_group(each, texts)
        taken = {name for other in groups for name in other.members} & set(group.members)
        if taken:
            raise _wrong(each, f"{min(taken)} belongs to another loop already")
        groups.append(group)
    left = texts.keys() - {name for group in groups for name in group.members}
    series, notices = series_of(left)
    groups += [
        Group(id=each.id, first=each.first, iterations=tuple((name,) for name in each.files), head=each.head)
        for each in series
    ]
    return groups, notices


def _declared_group(declared: Declared, texts: Mapping[str, str]) -> Group:
    if declared.template:
        if declared.template not in texts:
            raise _wrong(declared, f"There is no file {declared.template}")
        template = Template(name=declared.template, text=texts[declared.template])
        first = 1 if declared.first is None else declared.first
        name = declared.name or declared.template.rpartition(".")[0]
        return Group(id=name, first=first, template=template, declared=declared)
    files: list[str] = []
    for pattern in declared.files:
        found = [name for name in sorted(texts, key=natural) if fnmatchcase(name, pattern)]
        if not found:
            raise _wrong(declared, f"There is no file {pattern}")
        files += [name for name in found if name not in files]
    first = first_number(files[0]) if declared.first is None else declared.first
    name = declared.name or files[0].rpartition(".")[0]
    return Group(id=name, first=first, iterations=tuple((file,) for file in files), declared=declared)


def _wrong(declared: Declared, what: str) -> UsageError:
    return UsageError(f"{what}.", where=f"{FILE}:{declared.line}", fix="Correct what the loop declares.")

"""Which files are the iterations of a loop: by their names, by declaration, or in several parts. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.sqlflow.model import Loop, SqlFile, Step, Template
from databricks_rlm_agent.sqlflow.plan.declarations import FILE, Declared
from databricks_rlm_agent.sqlflow.plan.files import stage_of
from databricks_rlm_agent.sqlflow.plan.iterations import ITERATION, table_of, with_word
from databricks_rlm_agent.sqlflow.plan.order import natural, ordered
from databricks_rlm_agent.sqltext.names import Name, common, is_table, unique

_FIX = "Rename the files, or declare the loop in workflow.yml."


@dataclass(frozen=True, kw_only=True)
class Series:
    """Files that are iterations of one loop, in order, and the number of the first."""

    id: str
    first: int
    files: tuple[str, ...]
    head: str  # the name up to the number: several series that have it in common are parts of one loop


def series_of(names: Iterable[str]) -> tuple[list[Series], list[str]]:
    """The loops among files by convention, and notices about files that only look like one.

    Files belong together that have the same name but for the number. Raises UsageError for a number that is
    missing or there twice.
    """
    groups: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for name in sorted(names):
        stem = name.rpartition(".")[0] or name
        if found := ITERATION.search(stem):
            groups[stem[: found.start(1)] + "#" + stem[found.end(1) :]].append((int(found[1]), name))
    loops, notices = [], []
    for key, group in groups.items():
        group.sort()
        first, one = group[0]
        if first > 1:
            those = one if len(group) == 1 else f"{one} and those like it"
            notices.append(f"{those}: no loop, for its iterations would begin at {first}.")
            continue
        _check_numbers([number for number, _ in group], [name for _, name in group])
        files = tuple(name for _, name in group)
        loops.append(Series(id=_id(key), first=first, files=files, head=key.partition("#")[0]))
    return loops, notices


def first_number(name: str) -> int:
    """The number of an iteration in a file's name; 1 where it has none."""
    stem = name.rpartition(".")[0] or name
    numbers = re.findall(r"\d+", re.sub(r"^\d+", "", stem))
    found = ITERATION.search(stem)
    return int(found[1]) if found else int(numbers[-1]) if numbers else 1


def _id(key: str) -> str:
    head, _, tail = key.partition("#")
    return head.rstrip("_-. ") + tail


def _check_numbers(numbers: Sequence[int], names: Sequence[str]) -> None:
    for place, number in enumerate(numbers[1:], 1):
        before, name, wanted = names[place - 1], names[place], numbers[place - 1] + 1
        if number < wanted:
            raise UsageError(f"Iteration {number} is there twice: {before} and {name}.", fix=_FIX)
        if number > wanted:
            raise UsageError(f"Iteration {wanted} is missing: {name} comes after {before}.", fix=_FIX)


def alias_of(loop: Loop, wanted: Iterable[Name]) -> Name | None:
    """The table that names the last iteration's: its name with ``final`` for the number, or what files want.

    ``wanted``: names that other files read and no file makes. None for a loop that has no numbered tables.
    """
    number = loop.first + len(loop.files) - 1
    table = table_of(loop.files[-1], number)
    plain = with_word(table[-1], number, "final") if table else None
    if table is None or plain is None:
        return None
    base = plain.removesuffix("final").rstrip("_")
    base = re.sub(r"_?(?:iter(?:ation)?|loop)$", "", base)
    form = re.compile(re.escape(base) + r"(_?loop)?(_?iter(ation)?)?_?final")
    for last in (plain, *(other[-1] for other in wanted if form.fullmatch(other[-1]))):
        name = (*table[:-1], last)
        if any(name[-len(other) :] == other or other[-len(name) :] == name for other in wanted):
            return name
    return (*table[:-1], plain)


def reads_of(loop: Loop) -> tuple[Name, ...]:
    """What must be there before the loop."""
    made: set[Name] = set()
    reads: list[Name] = []
    for file in loop.files:
        reads += [name for name in file.reads if name not in made]
        made |= set(file.makes)
    return unique(reads)


def writes_of(loop: Loop) -> tuple[Name, ...]:
    """What the loop writes: its files, its alias, and as patterns the tables of further iterations."""
    writes = [name for file in loop.files for name in file.writes]
    number = loop.first + len(loop.files) - 1
    patterns = [(name, with_word(name[-1], number, "*")) for name in loop.files[-1].writes]
    further = [(*name[:-1], pattern) for name, pattern in patterns if pattern]
    return unique([*writes, *further, *([loop.alias] if loop.alias else [])])


def makes_of(loop: Loop) -> tuple[Name, ...]:
    """The tables of the iterations that exist, and the alias."""
    made = [name for file in loop.files for name in file.makes]
    return unique([*made, *([loop.alias] if loop.alias else [])])


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

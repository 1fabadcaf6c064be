"""Finds files that are iterations of a loop: by their names, by declaration, or in several parts. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.sqlflow.model import Loop, SqlFile, Step, Template
from databricks_rlm_agent.sqlflow.plan.declarations import FILE, LoopDeclaration
from databricks_rlm_agent.sqlflow.plan.files import stage_of
from databricks_rlm_agent.sqlflow.plan.iterations import ITERATION, replace_number, table_of
from databricks_rlm_agent.sqlflow.plan.order import natural_key, ordered
from databricks_rlm_agent.sqltext.names import Name, common, is_table, unique

_FIX = "Rename the files, or declare the loop in workflow.yml."


@dataclass(frozen=True, kw_only=True)
class LoopFiles:
    """The files of one loop, or its template, with its declaration.

    ``iterations``: the names of the files that make up each iteration, mostly one.
    """

    id: str
    first: int
    iterations: tuple[tuple[str, ...], ...] = ()
    template: Template | None = None
    declared: LoopDeclaration | None = None
    head: str = ""  # of a loop by convention: the names of its files up to the number

    @property
    def members(self) -> tuple[str, ...]:
        """The names of its files."""
        if self.template:
            return (self.template.name,)
        return tuple(name for names in self.iterations for name in names)


def loops_by_name(names: Iterable[str]) -> tuple[list[LoopFiles], list[str]]:
    """Return the loops among files by convention, and notices about files that only look like one.

    Files belong together if their names differ only in the number. Raise UsageError for a number that is
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
            names = one if len(group) == 1 else f"{one} and those like it"
            notices.append(f"{names}: not a loop, because its iterations would begin at {first}.")
            continue
        _check_numbers([number for number, _ in group], [name for _, name in group])
        head, _, tail = key.partition("#")
        iterations = tuple((name,) for _, name in group)
        loops.append(LoopFiles(id=head.rstrip("_-. ") + tail, first=first, iterations=iterations, head=head))
    return loops, notices


def first_number(name: str) -> int:
    """Return the number of an iteration in a file's name; 1 if it has none."""
    stem = name.rpartition(".")[0] or name
    numbers = re.findall(r"\d+", re.sub(r"^\d+", "", stem))
    found = ITERATION.search(stem)
    return int(found[1]) if found else int(numbers[-1]) if numbers else 1


def _check_numbers(numbers: Sequence[int], names: Sequence[str]) -> None:
    for place, number in enumerate(numbers[1:], 1):
        before, name, expected = names[place - 1], names[place], numbers[place - 1] + 1
        if number < expected:
            raise UsageError(f"Iteration {number} is there twice: {before} and {name}.", fix=_FIX)
        if number > expected:
            raise UsageError(f"Iteration {expected} is missing: {name} comes after {before}.", fix=_FIX)


def alias_of(loop: Loop, wanted: Iterable[Name]) -> Name | None:
    """Return the table that later files read as a loop's result: a name with ``final`` for the number.

    ``wanted``: names that other files read and no file makes; one of them that fits is preferred. None for a
    loop without numbered tables.
    """
    number = loop.first + len(loop.files) - 1
    table = table_of(loop.files[-1], number)
    plain = replace_number(table[-1], number, "final") if table else None
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
    """Return what must exist before the loop."""
    made: set[Name] = set()
    reads: list[Name] = []
    for file in loop.files:
        reads += [name for name in file.reads if name not in made]
        made |= set(file.makes)
    return unique(reads)


def writes_of(loop: Loop) -> tuple[Name, ...]:
    """Return what the loop writes: its files, its alias, and as patterns the tables of later iterations."""
    writes = [name for file in loop.files for name in file.writes]
    number = loop.first + len(loop.files) - 1
    patterns = [(name, replace_number(name[-1], number, "*")) for name in loop.files[-1].writes]
    later = [(*name[:-1], pattern) for name, pattern in patterns if pattern]
    return unique([*writes, *later, *([loop.alias] if loop.alias else [])])


def makes_of(loop: Loop) -> tuple[Name, ...]:
    """Return the tables of the iterations that exist, and the alias."""
    made = [name for file in loop.files for name in file.makes]
    return unique([*made, *([loop.alias] if loop.alias else [])])


def loops_of(
    texts: Mapping[str, str], declared: Sequence[LoopDeclaration]
) -> tuple[list[LoopFiles], list[str]]:
    """Return the loops, declared or by convention; and notices."""
    groups: list[LoopFiles] = []
    for each in declared:
        group = _declared_group(each, texts)
        taken = {name for other in groups for name in other.members} & set(group.members)
        if taken:
            raise _error(each, f"{min(taken)} belongs to another loop already")
        groups.append(group)
    left = texts.keys() - {name for group in groups for name in group.members}
    by_name, notices = loops_by_name(left)
    return [*groups, *by_name], notices


def _declared_group(declared: LoopDeclaration, texts: Mapping[str, str]) -> LoopFiles:
    if declared.template:
        if declared.template not in texts:
            raise _error(declared, f"There is no file {declared.template}")
        template = Template(name=declared.template, text=texts[declared.template])
        first = 1 if declared.first is None else declared.first
        name = declared.name or declared.template.rpartition(".")[0]
        return LoopFiles(id=name, first=first, template=template, declared=declared)
    files: list[str] = []
    for pattern in declared.files:
        found = [name for name in sorted(texts, key=natural_key) if fnmatchcase(name, pattern)]
        if not found:
            raise _error(declared, f"There is no file {pattern}")
        files += [name for name in found if name not in files]
    first = first_number(files[0]) if declared.first is None else declared.first
    name = declared.name or files[0].rpartition(".")[0]
    return LoopFiles(id=name, first=first, iterations=tuple((file,) for file in files), declared=declared)


def _error(declared: LoopDeclaration, what: str) -> UsageError:
    return UsageError(f"{what}.", where=f"{FILE}:{declared.line}", fix="Correct what the loop declares.")


Files = Mapping[str, SqlFile]


def merge_parts(groups: Sequence[LoopFiles], files: Files) -> tuple[list[LoopFiles], list[str]]:
    """Merge loops that are parts of one; return the loops, and notices."""
    done = [group for group in groups if not group.head]
    notices = []
    for parts in _related([group for group in groups if group.head], files):
        if len(parts) == 1 or not _same_numbers(parts):
            done += parts
            notices += [_mismatch(parts)] if len(parts) > 1 else []
            continue
        loop = _merged(parts, files)
        names = ", ".join(group.id for group in parts)
        order = ", ".join(loop.iterations[0])
        notices.append(f"{names} run as one loop, {loop.id}: an iteration is {order}.")
        done.append(loop)
    return done, notices


def _related(groups: Iterable[LoopFiles], files: Files) -> list[list[LoopFiles]]:
    """Return the loops in groups that share a name or tables."""
    sets: list[list[LoopFiles]] = []
    for group in groups:
        linked = [each for each in sets if any(_linked(group, other, files) for other in each)]
        sets = [each for each in sets if each not in linked]
        sets.append([*(other for each in linked for other in each), group])
    return sets


def _linked(one: LoopFiles, other: LoopFiles, files: Files) -> bool:
    if stage_of(one.members[0]) != stage_of(other.members[0]):
        return False
    return one.head == other.head or _feeds(one, other, files) or _feeds(other, one, files)


def _feeds(maker: LoopFiles, reader: LoopFiles, files: Files) -> bool:
    """Return whether one reads what the other makes, or both leave the same table."""
    made = [name for file in maker.members for name in files[file].makes if is_table(name)]
    read = [name for file in reader.members for name in files[file].reads if is_table(name)]
    if common(read, made):
        return True
    return bool(set(_tables_left(maker, files)) & set(_tables_left(reader, files)))


def _tables_left(group: LoopFiles, files: Files) -> list[Name]:
    found = (table_of(files[name], n) for n, name in enumerate(group.members, group.first))
    return [table for table in found if table is not None]


def _same_numbers(parts: Sequence[LoopFiles]) -> bool:
    return len({(group.first, len(group.iterations)) for group in parts}) == 1


def _mismatch(parts: Sequence[LoopFiles]) -> str:
    names = ", ".join(group.id for group in parts)
    return (
        f"{names} belong together, but do not have the same iterations: each runs to its end as a loop of "
        "its own. Give them the same numbers, or put what belongs to one iteration into one file."
    )


def _merged(parts: Sequence[LoopFiles], files: Files) -> LoopFiles:
    first = parts[0]
    heads = {group.head for group in parts}
    name = first.head.rstrip("_-. ") if len(heads) == 1 else first.id
    rows = zip(*(group.members for group in parts), strict=True)
    return replace(first, id=name, iterations=tuple(_in_order(names, files) for names in rows))


def _in_order(names: Iterable[str], files: Files) -> tuple[str, ...]:
    """Return the files of one iteration: makers of a table before its readers, else by name."""
    steps = [
        Step(id=name, stage=None, file=file, reads=file.reads, writes=file.writes, makes=file.makes)
        for name, file in ((name, files[name]) for name in names)
    ]
    return tuple(step.id for step in ordered(steps)[0])

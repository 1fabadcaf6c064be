"""Which files are the iterations of a loop, by their names; and the table that names its end. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from databricks_rlm_agent.domain.workflow.model import Loop
from databricks_rlm_agent.domain.workflow.names import Name, unique
from databricks_rlm_agent.domain.workflow.numbers import ITERATION, with_word
from databricks_rlm_agent.domain.workflow.planning.iterations import table_of
from databricks_rlm_agent.errors import UsageError

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

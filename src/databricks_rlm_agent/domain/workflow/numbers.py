"""Numbers in names: of the iteration that a table or a file belongs to. Pure."""

from __future__ import annotations

import re

from databricks_rlm_agent.domain.workflow.names import Name

_RUNS = re.compile(r"\d+")
# 04_unify_loop_iteration_01.sql, 04_iter_2.sql, loopiter3.sql, 5_iterate_merge_07.sql; not criteria_1.sql.
ITERATION = re.compile(r"(?:(?<![a-z])|(?<=loop))iter(?:ation|ate)?s?(?![a-z])\D*(\d+)", re.IGNORECASE)


def renumbered(text: str, old: int, new: int) -> str | None:
    """``text`` with ``new`` for the last ``old`` in it, as wide as that was; None where there is none."""
    for found in reversed(list(_RUNS.finditer(text))):
        if int(found[0]) == old:
            return f"{text[: found.start()]}{new:0{len(found[0])}d}{text[found.end() :]}"
    return None


def renamed(file: str, old: int, new: int) -> str | None:
    """The name of a file with ``new`` for its iteration's number; None where it has none."""
    found = ITERATION.search(file)
    if found is None or int(found[1]) != old:
        return renumbered(file, old, new)
    return f"{file[: found.start(1)]}{new:0{len(found[1])}d}{file[found.end(1) :]}"


def predecessors(name: Name, number: int) -> list[Name]:
    """What a table with that number may be called with the one before: after x_10, x_9 as well as x_09."""
    last = renumbered(name[-1], number, number - 1)
    bare = with_word(name[-1], number, str(number - 1))
    return [(*name[:-1], part) for part in dict.fromkeys((last, bare)) if part is not None]


def with_word(text: str, number: int, word: str) -> str | None:
    """``text`` with a word in place of the last ``number``."""
    for found in reversed(list(_RUNS.finditer(text))):
        if int(found[0]) == number:
            return f"{text[: found.start()]}{word}{text[found.end() :]}"
    return None


def counted_up(before: str, after: str) -> list[int] | None:
    """Which numbers in ``after`` are one more than in ``before``; None where more than that differs."""
    ones, others = _RUNS.findall(before), _RUNS.findall(after)
    if _RUNS.sub("0", before) != _RUNS.sub("0", after):
        return None
    moved = [place for place, (a, b) in enumerate(zip(ones, others, strict=True)) if a != b]
    return moved if all(int(others[place]) == int(ones[place]) + 1 for place in moved) else None


def moved(text: str, places: list[int], by: int) -> str:
    """``text`` with the numbers at those places, counted from 0, ``by`` more."""
    place = -1

    def one(found: re.Match[str]) -> str:
        nonlocal place
        place += 1
        return f"{int(found[0]) + by:0{len(found[0])}d}" if place in places else found[0]

    return _RUNS.sub(one, text)

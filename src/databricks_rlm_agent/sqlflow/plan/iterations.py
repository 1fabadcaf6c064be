"""The iterations of a loop: those that exist as files, and those that are made from the last one. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.sqlflow.model import Iteration, Loop, SqlFile
from databricks_rlm_agent.sqlflow.plan.files import sql_file
from databricks_rlm_agent.sqltext.names import Name, is_table
from databricks_rlm_agent.sqltext.split import tokens_of
from databricks_rlm_agent.sqltext.variables import check_all_known, substitute

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


_FIX = "Declare the loop in workflow.yml, with a template that has {iteration} and {previous}."


def iteration(loop: Loop, number: int) -> Iteration:
    """Iteration ``number`` of a loop, from ``loop.first`` on; the same one every time.

    Raises UsageError where there is no file of that number and none can be made.
    """
    if number < loop.first:
        raise UsageError(f"There is no iteration {number}.", fix=f"The first one is {loop.first}.")
    file = _file(loop, number)
    table = table_of(file, number)
    if number > loop.first:
        before = table_of(_file(loop, number - 1), number - 1)
    else:
        before = _before_the_first(file, table, number)
    return Iteration(
        number=number,
        file=file,
        generated=number - loop.first >= len(loop.files),
        table=table,
        before=before,
        convergence=substitute(loop.convergence, _numbers(number)) if loop.convergence else None,
    )


def _file(loop: Loop, number: int) -> SqlFile:
    """The file of an iteration, or what it would be."""
    if number - loop.first < len(loop.files):
        return loop.files[number - loop.first]
    if loop.template:
        return of_template(loop, number)
    file = _generated(loop, number)
    _check(loop, number, table_of(file, number))
    return file


def of_template(loop: Loop, number: int) -> SqlFile:
    """An iteration made from the loop's template."""
    assert loop.template is not None
    stem, dot, end = loop.template.name.rpartition(".")
    name = f"{stem}.{number}{dot}{end}"
    text = substitute(loop.template.text, _numbers(number))
    check_all_known(text, name)
    return sql_file(name, text, catalog=loop.catalog, schema=loop.schema)


def _numbers(number: int) -> dict[str, str]:
    return {"iteration": str(number), "previous": str(number - 1)}


def table_of(file: SqlFile, number: int) -> Name | None:
    """The table that an iteration leaves; None if it leaves none.

    Of several that carry the number, the last whose predecessor is read; of none, one changed in place.
    """
    written = [name for name in file.writes if is_table(name) and _is_left(file, name)]
    numbered = [name for name in written if predecessors(name, number)]
    following = [name for name in numbered if set(predecessors(name, number)) & set(file.reads)]
    in_place = [name for name in written if name in file.reads]
    return next((names[-1] for names in (following, numbered, in_place, written) if names), None)


def _before_the_first(file: SqlFile, table: Name | None, number: int) -> Name | None:
    """The table that a first iteration starts from, if that is of its series, or the same one."""
    if table is None or table in file.reads:
        return table
    series = predecessors(table, number)
    if not series and table not in file.makes:  # UPDATE, MERGE: of what was there before
        return table
    return next((name for name in series if name in file.reads), None)


def _is_left(file: SqlFile, name: Name) -> bool:
    """Whether a table that the file writes is there at its end, as far as it is up to the file."""
    touched = [each for each in file.statements if name in each.writes]
    return name in file.makes or not any(name in each.drops or name in each.makes for each in touched)


def _check(loop: Loop, number: int, table: Name | None) -> None:
    """Raise UsageError if the iteration does not write where it should."""
    last = loop.first + len(loop.files) - 1
    before = table_of(loop.files[-1], last)
    wanted = before and (*before[:-1], renumbered(before[-1], last, number) or before[-1])
    if table is None or table != wanted:
        raise UsageError(
            f"Iteration {number} cannot be made from the last file.", where=loop.files[-1].name, fix=_FIX
        )


def _generated(loop: Loop, number: int) -> SqlFile:
    """An iteration beyond the files: the last file's, with its numbers moved on."""
    last = loop.files[-1]
    at = loop.first + len(loop.files) - 1
    texts = _learned(loop.files, number - at) or _in_series(last, at, number)
    name = " + ".join(renamed(part, at, number) or f"{number}.{part}" for part in last.names)
    text = ";\n\n".join(texts) + ";\n"
    return sql_file(name, text, catalog=loop.catalog, schema=loop.schema)


def _learned(files: Sequence[SqlFile], by: int) -> list[str] | None:
    """Moves on what the last file counts up from the one before; None if they differ in more than numbers."""
    if len(files) < 2 or len(files[-2].statements) != len(files[-1].statements):
        return None
    texts = []
    for before, last in zip(files[-2].statements, files[-1].statements, strict=True):
        ones, others = tokens_of(before.text, before.file), tokens_of(last.text, last.file)
        if len(ones) != len(others):
            return None
        text, at = "", 0
        for one, other in zip(ones, others, strict=True):
            if other.start < at:  # a word of several tokens: 10L
                continue
            word = last.text[other.start : other.end + 1]
            places = counted_up(before.text[one.start : one.end + 1], word)
            if places is None:
                return None
            text += last.text[at : other.start] + moved(word, places, by)
            at = other.end + 1
        texts.append(text + last.text[at:])
    return texts


def _in_series(file: SqlFile, at: int, number: int) -> list[str]:
    """Moves on the names of tables and temporary views that are numbered as those that the file makes."""
    parts = {name[-1] for statement in file.statements for name in statement.writes} | set(file.views)
    series = {with_word(part, at, "*") for part in parts} - {None}
    texts = []
    for statement in file.statements:
        text, done = "", 0
        for token in tokens_of(statement.text, statement.file):
            if token.token_type.name not in {"VAR", "IDENTIFIER"}:
                continue
            word = statement.text[token.start : token.end + 1]
            bare = token.text.lower()
            for old in (at, at - 1):
                if with_word(bare, old, "*") in series:
                    word = renumbered(word, old, number - at + old) or word
                    break
            text += statement.text[done : token.start] + word
            done = token.end + 1
        texts.append(text + statement.text[done:])
    return texts

"""A loop: its iterations, from files or generated from the last one, and what it reads and leaves. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.sqlflow.model import Iteration, Loop, SqlFile
from databricks_rlm_agent.sqlflow.plan.files import sql_file
from databricks_rlm_agent.sqltext.names import Name, is_table, shown, unique
from databricks_rlm_agent.sqltext.split import check_all_known, substitute, tokens_of

_DIGITS = re.compile(r"\d+")
# 04_unify_loop_iteration_01.sql, 04_iter_2.sql, loopiter3.sql, 5_iterate_merge_07.sql; not criteria_1.sql.
ITERATION = re.compile(r"(?:(?<![a-z])|(?<=loop))iter(?:ation|ate)?s?(?![a-z])\D*(\d+)", re.IGNORECASE)


def renumber(text: str, old: int, new: int | str) -> str | None:
    """Replace the last ``old`` in ``text`` by a number of as many digits, or a word; None if it has none."""
    for found in reversed(list(_DIGITS.finditer(text))):
        if int(found[0]) == old:
            word = new if isinstance(new, str) else f"{new:0{len(found[0])}d}"
            return f"{text[: found.start()]}{word}{text[found.end() :]}"
    return None


def predecessors(name: Name, number: int) -> list[Name]:
    """Return the names that a numbered table's predecessor may have: before x_10, x_9 as well as x_09."""
    last = renumber(name[-1], number, number - 1)
    bare = renumber(name[-1], number, str(number - 1))
    return [(*name[:-1], part) for part in dict.fromkeys((last, bare)) if part is not None]


_FIX = "Declare the loop in workflow.yml, with a template that has {iteration} and {previous}."


def iteration(loop: Loop, number: int) -> Iteration:
    """Return iteration ``number`` of a loop, from ``loop.first`` on; the same one every time.

    Raise UsageError if there is no file of that number and none can be generated.
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
    """Return the file of an iteration, generated if there is none."""
    if number - loop.first < len(loop.files):
        return loop.files[number - loop.first]
    if loop.template:
        return from_template(loop, number)
    file = _generated(loop, number)
    _check(loop, number, table_of(file, number))
    return file


def from_template(loop: Loop, number: int) -> SqlFile:
    """Generate an iteration from the loop's template."""
    assert loop.template is not None
    stem, dot, end = loop.template.name.rpartition(".")
    name = f"{stem}.{number}{dot}{end}"
    text = substitute(loop.template.text, _numbers(number))
    check_all_known(text, name)
    return sql_file(name, text, catalog=loop.catalog, schema=loop.schema)


def _numbers(number: int) -> dict[str, str]:
    return {"iteration": str(number), "previous": str(number - 1)}


def table_of(file: SqlFile, number: int) -> Name | None:
    """Return the table that an iteration leaves; None if it leaves none.

    Of several with the number in their names, the last whose predecessor is read; else one changed in place.
    """
    written = [name for name in file.writes if is_table(name) and _leaves(file, name)]
    numbered = [name for name in written if predecessors(name, number)]
    following = [name for name in numbered if set(predecessors(name, number)) & set(file.reads)]
    in_place = [name for name in written if name in file.reads]
    return next((names[-1] for names in (following, numbered, in_place, written) if names), None)


def _before_the_first(file: SqlFile, table: Name | None, number: int) -> Name | None:
    """Return the table that a first iteration starts from: of its series, or the same one; else None."""
    if table is None or table in file.reads:
        return table
    series = predecessors(table, number)
    if not series and table not in file.makes:  # UPDATE, MERGE: of what was there before
        return table
    return next((name for name in series if name in file.reads), None)


def _leaves(file: SqlFile, name: Name) -> bool:
    """Return whether a table that the file writes still exists at its end, as far as the file decides."""
    touched = [each for each in file.statements if name in each.writes]
    return name in file.makes or not any(name in each.drops or name in each.makes for each in touched)


def _check(loop: Loop, number: int, table: Name | None) -> None:
    """Raise UsageError if the iteration does not write the table of its number."""
    last = loop.first + len(loop.files) - 1
    before = table_of(loop.files[-1], last)
    expected = before and (*before[:-1], renumber(before[-1], last, number) or before[-1])
    if table is None or table != expected:
        raise UsageError(
            f"Iteration {number} cannot be made from the last file.", where=loop.files[-1].name, fix=_FIX
        )


def _generated(loop: Loop, number: int) -> SqlFile:
    """Generate an iteration beyond the files from the last one, with its numbers increased."""
    last = loop.files[-1]
    at = loop.first + len(loop.files) - 1
    texts = _by_difference(loop.files, number - at) or _by_names(last, at, number)
    name = " + ".join(_renamed(part, at, number) or f"{number}.{part}" for part in last.names)
    text = ";\n\n".join(texts) + ";\n"
    return sql_file(name, text, catalog=loop.catalog, schema=loop.schema)


def _renamed(file: str, old: int, new: int) -> str | None:
    """Replace the number of the iteration in a file's name; None if it has none."""
    found = ITERATION.search(file)
    if found is None or int(found[1]) != old:
        return renumber(file, old, new)
    return f"{file[: found.start(1)]}{new:0{len(found[1])}d}{file[found.end(1) :]}"


def _by_difference(files: Sequence[SqlFile], by: int) -> list[str] | None:
    """Increase the numbers that the last file increases; None if the files differ in more than numbers."""
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
            moved = _moved_on(before.text[one.start : one.end + 1], word, by)
            if moved is None:
                return None
            text += last.text[at : other.start] + moved
            at = other.end + 1
        texts.append(text + last.text[at:])
    return texts


def _moved_on(before: str, word: str, by: int) -> str | None:
    """Add ``by`` to the numbers that are one more than in ``before``; None if anything else differs."""
    ones = iter(_DIGITS.findall(before))
    if _DIGITS.sub("0", before) != _DIGITS.sub("0", word):
        return None
    moved = []
    for number in _DIGITS.findall(word):
        one = next(ones)
        if number != one and int(number) != int(one) + 1:
            return None
        moved.append(number if number == one else f"{int(number) + by:0{len(number)}d}")
    numbers = iter(moved)
    return _DIGITS.sub(lambda _found: next(numbers), word)


def _by_names(file: SqlFile, at: int, number: int) -> list[str]:
    """Increase the numbers in names of tables and temporary views that are numbered as those it makes."""
    parts = {name[-1] for statement in file.statements for name in statement.writes} | set(file.views)
    series = {renumber(part, at, "*") for part in parts} - {None}
    texts = []
    for statement in file.statements:
        text, done = "", 0
        for token in tokens_of(statement.text, statement.file):
            if token.token_type.name not in {"VAR", "IDENTIFIER"}:
                continue
            word = statement.text[token.start : token.end + 1]
            bare = token.text.lower()
            for old in (at, at - 1):
                if renumber(bare, old, "*") in series:
                    word = renumber(word, old, number - at + old) or word
                    break
            text += statement.text[done : token.start] + word
            done = token.end + 1
        texts.append(text + statement.text[done:])
    return texts


def alias_of(loop: Loop, wanted: Iterable[Name]) -> Name | None:
    """Return the table that later files read as a loop's result: a name with ``final`` for the number.

    ``wanted``: names that other files read and no file makes; one of them that fits is preferred. None for a
    loop without numbered tables.
    """
    number = loop.first + len(loop.files) - 1
    table = table_of(loop.files[-1], number)
    plain = renumber(table[-1], number, "final") if table else None
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


def writes_of(loop: Loop) -> tuple[Name, ...]:
    """Return what the loop writes: its files, its alias, and as patterns the tables of later iterations."""
    writes = [name for file in loop.files for name in file.writes]
    number = loop.first + len(loop.files) - 1
    patterns = [(name, renumber(name[-1], number, "*")) for name in loop.files[-1].writes]
    later = [(*name[:-1], pattern) for name, pattern in patterns if pattern]
    return unique([*writes, *later, *([loop.alias] if loop.alias else [])])


def makes_of(loop: Loop) -> tuple[Name, ...]:
    """Return the tables of the iterations that exist, and the alias."""
    made = [name for file in loop.files for name in file.makes]
    return unique([*made, *([loop.alias] if loop.alias else [])])


def loop_notices(name: str, loop: Loop) -> Iterator[str]:
    """Yield what a person should know of a loop."""
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
    """Yield a notice about an iteration that drops the table which its own is compared with."""
    now = iteration(loop, number)
    gone = {each for statement in now.file.statements for each in statement.drops}
    if now.before in gone - set(now.file.makes) and not loop.convergence:
        yield (
            f"{name}: {now.file.name} drops {shown(now.before or ())}, which its own table is compared with: "
            "remove the DROP, or drop the tables in a later file."
        )

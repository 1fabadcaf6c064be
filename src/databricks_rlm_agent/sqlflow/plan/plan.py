"""Makes the plan of a run from the texts of a directory: finds its loops, and orders its steps. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.sqlflow.model import Loop, Plan, SqlFile, Step, Template
from databricks_rlm_agent.sqlflow.plan.declarations import (
    FILE,
    LoopDeclaration,
    expectations_of,
    parse_declarations,
)
from databricks_rlm_agent.sqlflow.plan.files import joined_file, reads_of, sql_file, stage_of
from databricks_rlm_agent.sqlflow.plan.iterations import (
    ITERATION,
    alias_of,
    from_template,
    loop_notices,
    makes_of,
    table_of,
    writes_of,
)
from databricks_rlm_agent.sqlflow.plan.order import natural_key, notices_of, ordered
from databricks_rlm_agent.sqltext.names import Name, common, is_table, parts_of, resolved
from databricks_rlm_agent.sqltext.split import check_all_known, substitute, used
from databricks_rlm_agent.values import storable

_FIX = "Rename the files, or declare the loop in workflow.yml."
_LISTED = 5  # problems in one message
Files = Mapping[str, SqlFile]


@dataclass(frozen=True, kw_only=True)
class SqlSource:
    """The source of a plan: the text of each file by its name, and the text of ``workflow.yml``.

    Names in the files that leave out catalog or schema mean ``catalog`` and ``schema``, if these are known.
    """

    texts: Mapping[str, str]
    declared: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    catalog: str | None = None
    schema: str | None = None
    notices: tuple[str, ...] = ()  # from reading it


def plan_of(source: SqlSource) -> Plan:
    """Return the plan of a directory; the same for the same source.

    Raise UsageError, with file and line, for what cannot be read, split into statements or found.
    """
    _check_encoding(source)
    texts = {name: substitute(text, source.variables) for name, text in source.texts.items()}
    declared = parse_declarations(
        substitute(source.declared or "", source.variables), catalog=source.catalog, schema=source.schema
    )
    loops, loop_notices = loops_of(texts, declared.loops)
    in_loops = {name for loop in loops for name in loop.members}
    templates = {loop.template.name for loop in loops if loop.template}
    files = _read_all({name: text for name, text in texts.items() if name not in templates}, source)
    loops, merge_notices = merge_parts(loops, files)
    steps = [_file_step(file) for name, file in files.items() if name not in in_loops]
    made = {name for step in steps for name in step.makes}
    wanted = sorted({name for step in steps for name in step.reads} - made)
    steps += [_loop_step(loop, files, source, wanted) for loop in loops]
    _check_ids(steps)
    in_order, order_notices = ordered(steps)
    expectations, table_notices = expectations_of(declared.tables, in_order)
    notices = (
        *source.notices,
        *loop_notices,
        *merge_notices,
        *_unused([*source.texts.values(), source.declared or ""], source.variables),
        *order_notices,
        *(notice for step in in_order for notice in _step_notices(step)),
        *notices_of(in_order),
        *table_notices,
    )
    return Plan(steps=in_order, notices=notices, expectations=expectations, name=declared.name)


def _check_encoding(source: SqlSource) -> None:
    """Raise UsageError for a name or a text that no table and no file in UTF-8 can hold."""
    given = {f"--var {name}": value for name, value in source.variables.items()}
    given |= {name: name + text for name, text in source.texts.items()}
    for name, text in {**given, "workflow.yml": source.declared or ""}.items():
        if storable(text) != text:
            raise UsageError("It is not valid UTF-8.", where=storable(name), fix="Write it anew.")


def _read_all(texts: Mapping[str, str], source: SqlSource) -> dict[str, SqlFile]:
    """Read all files; raise one UsageError for all that cannot be read."""
    files, problems = {}, []
    for name in sorted(texts, key=natural_key):
        try:
            check_all_known(texts[name], name)
            files[name] = sql_file(name, texts[name], catalog=source.catalog, schema=source.schema)
        except UsageError as error:
            problems.append(error)
    if len(problems) > 1:
        listed = [f"{error.where}: {error.what}" for error in problems[:_LISTED]]
        more = f" And {len(problems) - _LISTED} more." if len(problems) > _LISTED else ""
        raise UsageError(
            f"{len(problems)} files cannot be read: {' '.join(listed)}{more}", fix=problems[0].fix
        )
    if problems:
        raise problems[0]
    return files


def _file_step(file: SqlFile) -> Step:
    id_ = _stem(file.name)
    return Step(id=id_, stage=file.stage, file=file, reads=file.reads, writes=file.writes, makes=file.makes)


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _loop_step(loop_files: LoopFiles, files: Files, source: SqlSource, wanted: Sequence[Name]) -> Step:
    """Return the step of a loop. ``wanted``: what the other steps read, and none of them makes."""
    declared = loop_files.declared or LoopDeclaration(line=0)
    place: Any = {"catalog": source.catalog, "schema": source.schema}
    loop = Loop(
        files=tuple(joined_file([files[name] for name in names], **place) for names in loop_files.iterations),
        first=loop_files.first,
        template=loop_files.template,
        key_columns=declared.key_columns,
        convergence=declared.convergence,
        limit=declared.limit,
        alias=resolved(parts_of(declared.alias), source.catalog, source.schema) if declared.alias else None,
        **place,
    )
    if loop_files.template:
        loop = replace(loop, files=(from_template(loop, loop_files.first),))
    if not loop.alias:
        loop = replace(loop, alias=alias_of(loop, wanted))
    return Step(
        id=loop_files.id,
        stage=stage_of(loop_files.members[0]),
        loop=loop,
        reads=reads_of(loop.files),
        writes=writes_of(loop),
        makes=makes_of(loop),
    )


def _check_ids(steps: Iterable[Step]) -> None:
    seen: dict[str, Step] = {}
    for step in steps:
        other = seen.setdefault(step.id.lower(), step)
        if other is not step:
            files = " and ".join(each.files[0].name for each in (other, step))
            raise UsageError(f"Two steps have the name {step.id}: {files}.", fix="Rename one of the files.")


def _unused(texts: Iterable[str], variables: Iterable[str]) -> list[str]:
    named = {name for text in texts for name in used(text)}
    return [f"--var {name} is used by no file." for name in variables if name not in named]


def _step_notices(step: Step) -> Iterator[str]:
    for file in step.files:
        if file.problem:
            yield f"{step.id} runs alone: {file.problem}."
        if not file.statements:
            yield f"{file.name} has no statements."
    if step.loop:
        yield from loop_notices(step.id, step.loop)


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
        stem = _stem(name)
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


def _first_number(name: str) -> int:
    stem = _stem(name)
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
    first = _first_number(files[0]) if declared.first is None else declared.first
    name = declared.name or files[0].rpartition(".")[0]
    return LoopFiles(id=name, first=first, iterations=tuple((file,) for file in files), declared=declared)


def _error(declared: LoopDeclaration, what: str) -> UsageError:
    return UsageError(f"{what}.", where=f"{FILE}:{declared.line}", fix="Correct what the loop declares.")


def merge_parts(groups: Sequence[LoopFiles], files: Files) -> tuple[list[LoopFiles], list[str]]:
    """Merge loops that are parts of one; return the loops, and notices."""
    done = [group for group in groups if not group.head]
    notices = []
    for parts in _related([group for group in groups if group.head], files):
        names = ", ".join(group.id for group in parts)
        if len(parts) == 1:
            done += parts
        elif len({(group.first, len(group.iterations)) for group in parts}) > 1:
            done += parts
            notices.append(
                f"{names} belong together, but do not have the same iterations: each runs to its end as a "
                "loop of its own. Give them the same numbers, or put what belongs to one iteration into one "
                "file."
            )
        else:
            done.append(loop := _merged(parts, files))
            order = ", ".join(loop.iterations[0])
            notices.append(f"{names} run as one loop, {loop.id}: an iteration is {order}.")
    return done, notices


def _related(groups: Iterable[LoopFiles], files: Files) -> list[list[LoopFiles]]:
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


def _merged(parts: Sequence[LoopFiles], files: Files) -> LoopFiles:
    first = parts[0]
    heads = {group.head for group in parts}
    name = first.head.rstrip("_-. ") if len(heads) == 1 else first.id
    rows = zip(*(group.members for group in parts), strict=True)
    return replace(first, id=name, iterations=tuple(_in_order(names, files) for names in rows))


def _in_order(names: Iterable[str], files: Files) -> tuple[str, ...]:
    """Return the files of one iteration: makers of a table before its readers, else by name."""
    steps = [replace(_file_step(files[name]), id=name, stage=None) for name in names]
    return tuple(step.id for step in ordered(steps)[0])

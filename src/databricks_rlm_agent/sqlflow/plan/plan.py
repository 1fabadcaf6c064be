"""From the texts of a directory to the plan of its run. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.sqlflow.model import Loop, Plan, SqlFile, Step
from databricks_rlm_agent.sqlflow.plan.declarations import Declared, expectations_of, parse_declared
from databricks_rlm_agent.sqlflow.plan.files import joined_file, sql_file, stage_of
from databricks_rlm_agent.sqlflow.plan.iterations import iteration, of_template
from databricks_rlm_agent.sqlflow.plan.loops import (
    Group,
    alias_of,
    groups_of,
    joined,
    makes_of,
    reads_of,
    writes_of,
)
from databricks_rlm_agent.sqlflow.plan.order import natural, ordered
from databricks_rlm_agent.sqltext.names import Name, is_table, parts_of, resolved, shown
from databricks_rlm_agent.sqltext.variables import check_all_known, substitute, used

_IF_NOT_THERE = re.compile(r"\bIF\s+NOT\s+EXISTS\b", re.IGNORECASE)
_HEAD = 200  # characters of a statement in which it stands


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
    """Tells of an iteration that drops the table which its own is compared with."""
    now = iteration(loop, number)
    gone = {each for statement in now.file.statements for each in statement.drops}
    if now.before in gone - set(now.file.makes) and not loop.convergence:
        yield (
            f"{name}: {now.file.name} drops {shown(now.before or ())}, which its own table is compared with: "
            "leave the DROP away, or drop the tables in a later file."
        )


def hidden_views(steps: Sequence[Step]) -> Iterator[str]:
    """Tells of files that read what another has made for its own session only."""
    made = {name[-1] for step in steps for name in step.makes}
    views = {view: step.id for step in steps for file in step.files for view in file.views}
    for step in steps:
        for name in step.reads:
            owner = views.get(name[-1])
            if owner and owner != step.id and name[-1] not in made:
                yield f"{step.id} reads {name[-1]}, a temporary view of {owner}: no other file can see it."


def made_later(steps: Sequence[Step]) -> Iterator[str]:
    """Tells of steps that read what only a later stage makes."""
    places = {stage: place for place, stage in enumerate(dict.fromkeys(step.stage for step in steps))}
    for step in steps:
        for name in filter(is_table, step.reads):
            makers = [other for other in steps if name in other.makes]
            if makers and all(places[other.stage] > places[step.stage] for other in makers):
                yield (
                    f"{step.id} reads {shown(name)}, which {makers[0].id} of a later stage makes: it must be "
                    "there from before."
                )


def made_twice(steps: Sequence[Step]) -> Iterator[str]:
    """Tells of steps of one stage that make the same table: the later one's is what is left."""
    makers: dict[tuple[int | None, Name], Step] = {}
    for step in steps:
        for name in filter(is_table, step.makes):
            other = makers.setdefault((step.stage, name), step)
            if other is not step and _anew(other, name) and _anew(step, name):
                yield (
                    f"{other.id} and {step.id} both make {shown(name)}: what is left is that of {step.id}, "
                    "which runs later."
                )


def _anew(step: Step, name: Name) -> bool:
    """Whether a step makes a table whatever is there."""
    statements = [each for file in step.files for each in file.statements if name in each.makes]
    return any(not _IF_NOT_THERE.search(each.text[:_HEAD]) for each in statements)


_SHOWN = 5  # problems in one message


@dataclass(frozen=True, kw_only=True)
class SqlSource:
    """What a plan is made from: the text of each file by its name, and what stands in ``workflow.yml``.

    Names in the files that leave out catalog or schema mean ``catalog`` and ``schema``, if these are known.
    """

    texts: Mapping[str, str]
    declared: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    catalog: str | None = None
    schema: str | None = None
    notices: tuple[str, ...] = ()  # of who read it


def plan_of(source: SqlSource) -> Plan:
    """The plan of a directory; the same for the same source.

    Raises UsageError, with file and line, for what cannot be read, told apart or found.
    """
    texts = {name: substitute(text, source.variables) for name, text in source.texts.items()}
    declared = parse_declared(substitute(source.declared or "", source.variables))
    groups, notices = groups_of(texts, declared.loops)
    grouped = {name for group in groups for name in group.members}
    templates = {group.template.name for group in groups if group.template}
    files = _read_all({name: text for name, text in texts.items() if name not in templates}, source)
    groups, told = joined(groups, files)
    notices += told
    steps = [_file_step(file) for name, file in files.items() if name not in grouped]
    steps += _with_aliases([_loop_step(group, files, source) for group in groups], steps)
    _check_ids(steps)
    done, told = ordered(steps)
    notices = [*source.notices, *notices]
    notices += unused([*source.texts.values(), source.declared or ""], source.variables)
    notices += [*told, *(line for step in done for line in told_of(step))]
    notices += [*hidden_views(done), *made_later(done), *made_twice(done)]
    expectations, doubts = expectations_of(declared.tables, done, source.catalog, source.schema)
    return Plan(steps=done, notices=(*notices, *doubts), expectations=expectations, name=declared.name)


def _read_all(texts: Mapping[str, str], source: SqlSource) -> dict[str, SqlFile]:
    """All files, read; one UsageError that tells of all that cannot be."""
    files, problems = {}, []
    for name in sorted(texts, key=natural):
        try:
            check_all_known(texts[name], name)
            files[name] = sql_file(name, texts[name], catalog=source.catalog, schema=source.schema)
        except UsageError as error:
            problems.append(error)
    if len(problems) > 1:
        said = [f"{error.where}: {error.what}" for error in problems[:_SHOWN]]
        more = f" And {len(problems) - _SHOWN} more." if len(problems) > _SHOWN else ""
        raise UsageError(f"{len(problems)} files cannot be read: {' '.join(said)}{more}", fix=problems[0].fix)
    if problems:
        raise problems[0]
    return files


def _file_step(file: SqlFile) -> Step:
    id_ = file.name.rpartition(".")[0] or file.name
    return Step(id=id_, stage=file.stage, file=file, reads=file.reads, writes=file.writes, makes=file.makes)


def _loop_step(group: Group, files: Mapping[str, SqlFile], source: SqlSource) -> Step:
    declared = group.declared or Declared(line=0)
    loop = Loop(
        files=tuple(_iteration([files[name] for name in names], source) for names in group.iterations),
        first=group.first,
        template=group.template,
        key_columns=declared.key_columns,
        convergence=declared.convergence,
        limit=declared.limit,
        alias=resolved(parts_of(declared.alias), source.catalog, source.schema) if declared.alias else None,
        catalog=source.catalog,
        schema=source.schema,
    )
    if group.template:
        loop = replace(loop, files=(of_template(loop, group.first),))
    return Step(id=group.id, stage=stage_of(group.members[0]), loop=loop)


def _iteration(files: Sequence[SqlFile], source: SqlSource) -> SqlFile:
    if len(files) == 1:
        return files[0]
    return joined_file(files, catalog=source.catalog, schema=source.schema)


def _with_aliases(loops: Iterable[Step], others: Sequence[Step]) -> list[Step]:
    """Loop steps with the names of their ends, and with what they read and write."""
    wanted = {name for step in others for name in step.reads} - {
        name for step in others for name in step.makes
    }
    done = []
    for step in loops:
        loop = step.loop
        assert loop is not None
        loop = loop if loop.alias else replace(loop, alias=alias_of(loop, sorted(wanted)))
        done.append(
            replace(step, loop=loop, reads=reads_of(loop), writes=writes_of(loop), makes=makes_of(loop))
        )
    return done


def _check_ids(steps: Iterable[Step]) -> None:
    seen: dict[str, Step] = {}
    for step in steps:
        other = seen.setdefault(step.id.lower(), step)
        if other is not step:
            files = " and ".join(each.files[0].name for each in (other, step))
            raise UsageError(f"Two steps have the name {step.id}: {files}.", fix="Rename one of the files.")

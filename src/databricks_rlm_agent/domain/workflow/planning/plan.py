"""From the texts of a directory to the plan of its run. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from databricks_rlm_agent.domain.workflow.model import Loop, Plan, SqlFile, Step
from databricks_rlm_agent.domain.workflow.names import resolved
from databricks_rlm_agent.domain.workflow.planning.declared import Declared, parse_declared
from databricks_rlm_agent.domain.workflow.planning.expectations import expectations_of
from databricks_rlm_agent.domain.workflow.planning.files import joined_file, sql_file, stage_of
from databricks_rlm_agent.domain.workflow.planning.groups import Group, groups_of
from databricks_rlm_agent.domain.workflow.planning.iterations import of_template
from databricks_rlm_agent.domain.workflow.planning.loops import alias_of, makes_of, reads_of, writes_of
from databricks_rlm_agent.domain.workflow.planning.notices import (
    hidden_views,
    made_later,
    made_twice,
    told_of,
    unused,
)
from databricks_rlm_agent.domain.workflow.planning.order import natural, ordered
from databricks_rlm_agent.domain.workflow.planning.parts import joined
from databricks_rlm_agent.domain.workflow.text.variables import check_all_known, substitute
from databricks_rlm_agent.domain.workflow.text.words import parts_of
from databricks_rlm_agent.errors import UsageError

_SHOWN = 5  # problems in one message


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a plan is made from: the text of each file by its name, and what stands in ``workflow.yml``.

    Names in the files that leave out catalog or schema mean ``catalog`` and ``schema``, if these are known.
    """

    texts: Mapping[str, str]
    declared: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    catalog: str | None = None
    schema: str | None = None
    notices: tuple[str, ...] = ()  # of who read it


def plan_of(source: Source) -> Plan:
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


def _read_all(texts: Mapping[str, str], source: Source) -> dict[str, SqlFile]:
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


def _loop_step(group: Group, files: Mapping[str, SqlFile], source: Source) -> Step:
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


def _iteration(files: Sequence[SqlFile], source: Source) -> SqlFile:
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

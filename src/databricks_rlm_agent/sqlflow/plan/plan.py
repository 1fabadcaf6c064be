"""Makes the plan of a run from the texts of a directory. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.sqlflow.model import Loop, Plan, SqlFile, Step
from databricks_rlm_agent.sqlflow.plan.declarations import (
    LoopDeclaration,
    expectations_of,
    parse_declarations,
)
from databricks_rlm_agent.sqlflow.plan.files import joined_file, sql_file, stage_of
from databricks_rlm_agent.sqlflow.plan.iterations import from_template, iteration
from databricks_rlm_agent.sqlflow.plan.loops import (
    LoopFiles,
    alias_of,
    loops_of,
    makes_of,
    merge_parts,
    reads_of,
    writes_of,
)
from databricks_rlm_agent.sqlflow.plan.order import natural_key, ordered
from databricks_rlm_agent.sqltext.names import Name, is_table, parts_of, resolved, shown
from databricks_rlm_agent.sqltext.split import check_all_known, substitute, used
from databricks_rlm_agent.values import storable


def unused(texts: Iterable[str], variables: Iterable[str]) -> list[str]:
    """Return notices about variables that no text has."""
    named = {name for text in texts for name in used(text)}
    return [f"--var {name} is used by no file." for name in variables if name not in named]


def step_notices(step: Step) -> Iterator[str]:
    """Yield what a person should know of a step."""
    for file in step.files:
        if file.problem:
            yield f"{step.id} runs alone: {file.problem}."
        if not file.statements:
            yield f"{file.name} has no statements."
    if step.loop:
        yield from _loop_notices(step.id, step.loop)


def _loop_notices(name: str, loop: Loop) -> Iterator[str]:
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


def hidden_views(steps: Sequence[Step]) -> Iterator[str]:
    """Yield notices about files that read a temporary view of another file's session."""
    made = {name[-1] for step in steps for name in step.makes}
    views = {view: step.id for step in steps for file in step.files for view in file.views}
    for step in steps:
        for name in step.reads:
            owner = views.get(name[-1])
            if owner and owner != step.id and name[-1] not in made:
                yield f"{step.id} reads {name[-1]}, a temporary view of {owner}: no other file can see it."


def made_later(steps: Sequence[Step]) -> Iterator[str]:
    """Yield notices about steps that read what only a later stage makes."""
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
    """Yield notices about steps of one stage that make the same table: that of the later one stays."""
    makers: dict[tuple[int | None, Name], Step] = {}
    for step in steps:
        for name in filter(is_table, step.makes):
            other = makers.setdefault((step.stage, name), step)
            if other is not step and _always_makes(other, name) and _always_makes(step, name):
                yield (
                    f"{other.id} and {step.id} both make {shown(name)}: what is left is that of {step.id}, "
                    "which runs later."
                )


def _always_makes(step: Step, name: Name) -> bool:
    """Return whether a step makes a table even if it exists."""
    statements = [each for file in step.files for each in file.statements if name in each.makes]
    return any("IF NOT EXISTS" not in each.words for each in statements)


_LISTED = 5  # problems in one message


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
    steps += _with_aliases([_loop_step(loop, files, source) for loop in loops], steps)
    _check_ids(steps)
    in_order, order_notices = ordered(steps)
    expectations, table_notices = expectations_of(declared.tables, in_order)
    notices = (
        *source.notices,
        *loop_notices,
        *merge_notices,
        *unused([*source.texts.values(), source.declared or ""], source.variables),
        *order_notices,
        *(notice for step in in_order for notice in step_notices(step)),
        *hidden_views(in_order),
        *made_later(in_order),
        *made_twice(in_order),
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
    id_ = file.name.rpartition(".")[0] or file.name
    return Step(id=id_, stage=file.stage, file=file, reads=file.reads, writes=file.writes, makes=file.makes)


def _loop_step(loop_files: LoopFiles, files: Mapping[str, SqlFile], source: SqlSource) -> Step:
    declared = loop_files.declared or LoopDeclaration(line=0)
    loop = Loop(
        files=tuple(_iteration([files[name] for name in names], source) for names in loop_files.iterations),
        first=loop_files.first,
        template=loop_files.template,
        key_columns=declared.key_columns,
        convergence=declared.convergence,
        limit=declared.limit,
        alias=resolved(parts_of(declared.alias), source.catalog, source.schema) if declared.alias else None,
        catalog=source.catalog,
        schema=source.schema,
    )
    if loop_files.template:
        loop = replace(loop, files=(from_template(loop, loop_files.first),))
    return Step(id=loop_files.id, stage=stage_of(loop_files.members[0]), loop=loop)


def _iteration(files: Sequence[SqlFile], source: SqlSource) -> SqlFile:
    if len(files) == 1:
        return files[0]
    return joined_file(files, catalog=source.catalog, schema=source.schema)


def _with_aliases(loops: Iterable[Step], others: Sequence[Step]) -> list[Step]:
    """Return the loop steps with their aliases, and with what they read and write."""
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

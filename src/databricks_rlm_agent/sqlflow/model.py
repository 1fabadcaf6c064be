"""Values of a workflow: files of statements, loops over files, checks, and the plan of their steps. Pure.

Names of tables are `names.Name`: lower case, with as many parts as are known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from databricks_rlm_agent.sqltext.names import Name, is_table, shown
from databricks_rlm_agent.sqltext.statement import Statement


@dataclass(frozen=True, kw_only=True)
class SqlFile:
    """A file of statements, which run in order, in a session of their own.

    ``sha256`` is that of the text as it runs, with the values of its variables. ``reads`` leaves out what the
    file has made before. ``makes`` are the tables and views that it leaves.
    """

    name: str
    stage: int | None  # by its numeric prefix; None: after all stages
    sha256: str
    statements: tuple[Statement, ...]
    reads: tuple[Name, ...] = ()
    writes: tuple[Name, ...] = ()
    makes: tuple[Name, ...] = ()
    views: tuple[str, ...] = ()  # temporary ones, which no other file sees
    problem: str | None = None  # why it runs alone: what it reads and writes is not fully known
    parts: tuple[str, ...] = ()  # the files that it consists of, for an iteration of several

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the files that it consists of."""
        return self.parts or (self.name,)

    @property
    def tables(self) -> tuple[Name, ...]:
        """The tables and views that it leaves."""
        return tuple(name for name in self.makes if is_table(name))


@dataclass(frozen=True, kw_only=True)
class Template:
    """The file that iterations are made from, with ``{iteration}`` and ``{previous}`` for the numbers."""

    name: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Loop:
    """A step that is repeated until its table does not change any more.

    ``files`` are the iterations that exist, in order; the first has the number ``first``. A template has one,
    made from it. `iterations.iteration` returns any of them and those beyond.
    """

    files: tuple[SqlFile, ...]
    first: int = 1
    template: Template | None = None
    key_columns: tuple[str, ...] = ()  # empty: to be found from the tables
    convergence: str | None = None  # a query of changed rows, one number; with {iteration} and {previous}
    limit: int | None = None  # iterations at most; None: what the command says
    alias: Name | None = None  # the table that later files read as the loop's result
    catalog: str | None = None  # of names in the files that leave it out
    schema: str | None = None

    def ordinal(self, number: int) -> int:
        """Return the ordinal of an iteration, from 1, by which it is recorded; 0 is the loop itself."""
        return number - self.first + 1


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """One iteration of a loop, ready to run.

    Changed rows are counted between ``before`` and ``table``, or by the ``convergence`` query. ``before`` is
    None for a first iteration that reads no table of its series. ``table == before``: every iteration changes
    the same table in place; without a ``convergence`` query the loop ends when one leaves it unchanged.
    """

    number: int
    file: SqlFile
    generated: bool
    table: Name | None
    before: Name | None
    convergence: str | None


@dataclass(frozen=True, kw_only=True)
class Need:
    """A step that must be done before another, and the reason."""

    step: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """A file, or a loop, that is run as one.

    ``needs`` are all earlier steps that it conflicts with, in its own stage and in those before. Stages are
    barriers besides: a step starts when all steps of earlier stages are done.
    """

    id: str
    stage: int | None
    file: SqlFile | None = None
    loop: Loop | None = None
    needs: tuple[Need, ...] = ()
    reads: tuple[Name, ...] = ()
    writes: tuple[Name, ...] = ()  # of a loop also its alias and, as patterns, tables of later iterations
    makes: tuple[Name, ...] = ()  # of a loop: the alias, and the tables of the iterations that exist

    @property
    def files(self) -> tuple[SqlFile, ...]:
        """Its file, or the files of its loop."""
        return self.loop.files if self.loop else (self.file,) if self.file else ()

    @property
    def problem(self) -> str | None:
        """The reason why it runs alone; None if it does not."""
        return next((file.problem for file in self.files if file.problem), None)


@dataclass(frozen=True, kw_only=True)
class CoverageRule:
    """A ``share`` of the keys of ``table`` must be found; ``on``: columns of both tables, in pairs."""

    table: Name
    on: tuple[tuple[str, str], ...]
    share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """Checks that must hold of one table. ``steps``: those that make it; none if it exists before the run."""

    table: Name
    key: tuple[str, ...] = ()
    min_rows: int | None = None
    covers: tuple[CoverageRule, ...] = ()
    steps: tuple[str, ...] = ()

    def describe(self) -> Iterator[str]:
        """Yield each check in words."""
        if self.key:
            yield f"key {', '.join(self.key)} is unique"
        if self.min_rows is not None:
            yield f"{self.min_rows:,} rows or more"
        for cover in self.covers:
            on = ", ".join(here if here == there else f"{here} = {there}" for here, there in cover.on)
            yield f"covers {percent(cover.share)} of {shown(cover.table)} on {on}"

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "table": shown(self.table),
            "key": list(self.key),
            "min_rows": self.min_rows,
            "covers": [
                {"table": shown(cover.table), "on": dict(cover.on), "share": cover.share}
                for cover in self.covers
            ],
        }


def percent(share: float) -> str:
    """Return a share as a percentage, never rounded up to 100 %."""
    text = f"{share:.2%}"
    return "99.99%" if share < 1.0 and text == "100.00%" else text.replace(".00%", "%")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Steps in an order in which they could run one after another, stage by stage.

    ``name``: the workflow's declared name, by which its runs are found; None: that of its directory.
    """

    steps: tuple[Step, ...]
    notices: tuple[str, ...] = ()
    expectations: tuple[Expectation, ...] = ()
    name: str | None = None

    @property
    def stages(self) -> tuple[tuple[int | None, tuple[Step, ...]], ...]:
        """The stages in order, with their steps; files without a prefix are the last, under None."""
        order = list(dict.fromkeys(step.stage for step in self.steps))
        return tuple((stage, tuple(step for step in self.steps if step.stage == stage)) for stage in order)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan for JSON."""
        return {
            "name": self.name,
            "stages": [
                {"stage": stage, "steps": [_step(step) for step in steps]} for stage, steps in self.stages
            ],
            "checks": [each.to_dict() for each in self.expectations],
            "notices": list(self.notices),
        }


def _step(step: Step) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": step.id,
        "kind": "loop" if step.loop else "file",
        "files": [name for file in step.files for name in file.names],
        "statements": sum(len(file.statements) for file in step.files),
        "needs": [{"step": need.step, "reason": need.reason} for need in step.needs],
        "reads": [shown(name) for name in step.reads],
        "writes": [shown(name) for name in step.writes],
        "alone": step.problem,
    }
    return document | ({"loop": _loop(step.loop)} if step.loop else {})


def _loop(loop: Loop) -> dict[str, Any]:
    return {
        "iterations": len(loop.files),
        "first": loop.first,
        "template": loop.template.name if loop.template else None,
        "key_columns": list(loop.key_columns),
        "convergence": loop.convergence,
        "limit": loop.limit,
        "alias": shown(loop.alias) if loop.alias else None,
    }

"""What a SQL workflow would do, file by file, for the policy. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from databricks_rlm_agent.domain.actions import RunSqlWorkflow
from databricks_rlm_agent.domain.layout import Namespace
from databricks_rlm_agent.domain.policy.deeds import Deed
from databricks_rlm_agent.domain.policy.reach import Name
from databricks_rlm_agent.domain.policy.sql import deeds_of_sql
from databricks_rlm_agent.domain.workflow.model import Plan
from databricks_rlm_agent.domain.workflow.planning.plan import plan_of
from databricks_rlm_agent.domain.workflow.planning.shipped import source_of


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A workflow as the policy looks at it. ``made`` are the tables that it leaves, of whichever file: it may
    drop them as well. Every file begins in ``place`` (catalog, schema).
    """

    place: tuple[str, str]
    made: frozenset[Name]
    files: tuple[tuple[str, tuple[Deed, ...]], ...]


def judged(action: RunSqlWorkflow, namespace: Namespace) -> Judged:
    """The deeds of a workflow whose texts are whole; raise UsageError for one that cannot be planned."""
    place = ((action.catalog or namespace.catalog).lower(), (action.schema or namespace.schema).lower())
    plan = plan_of(source_of(action.files, variables=action.variables, catalog=place[0], schema=place[1]))
    files = {file.name: file for step in plan.steps for file in step.files}
    return Judged(
        place=place,
        made=frozenset(_made(plan)),
        files=tuple(
            (
                name,
                tuple(
                    deed
                    for statement in file.statements
                    for deed in deeds_of_sql(statement.text, line=statement.line)
                ),
            )
            for name, file in files.items()
        ),
    )


def _made(plan: Plan) -> Iterator[Name]:
    for step in plan.steps:
        statements = [statement for file in step.files for statement in file.statements]
        for name in (*step.makes, *(name for statement in statements for name in statement.makes)):
            if len(name) == 3:
                yield (name[0], name[1], name[2])

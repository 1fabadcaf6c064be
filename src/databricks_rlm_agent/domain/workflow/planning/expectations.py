"""What must hold of the tables of a workflow in the end, as ``workflow.yml`` declares it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from databricks_rlm_agent.domain.workflow.checks import Cover, Expectation
from databricks_rlm_agent.domain.workflow.model import Step
from databricks_rlm_agent.domain.workflow.names import Name, may_be_same, resolved, shown
from databricks_rlm_agent.domain.workflow.planning.declared import FILE, TableRule
from databricks_rlm_agent.domain.workflow.text.words import parts_of
from databricks_rlm_agent.errors import UsageError

_NAME = re.compile(r"(`[^`]+`|\w+)(\.(`[^`]+`|\w+)){0,2}")


def expectations_of(
    rules: Iterable[TableRule], steps: Sequence[Step], catalog: str | None, schema: str | None
) -> tuple[tuple[Expectation, ...], list[str]]:
    """What is declared, with names in full and the steps that make the tables; and notices.

    Raises UsageError for a table that is declared under two names.
    """
    found: dict[Name, Expectation] = {}
    notices = []
    for rule in rules:
        name = _name(rule.table, rule.line, catalog, schema)
        if name in found:
            raise UsageError(
                f"{shown(name)} is declared twice.", where=f"{FILE}:{rule.line}", fix="Write it once."
            )
        makers = tuple(step.id for step in steps if any(may_be_same(name, made) for made in step.makes))
        if not makers:
            notices.append(f"{FILE}:{rule.line}: no file makes {shown(name)}; it is checked all the same.")
        covers = tuple(
            Cover(table=_name(each.table, each.line, catalog, schema), on=each.on, share=each.share)
            for each in rule.covers
        )
        found[name] = Expectation(
            table=name, key=rule.key, min_rows=rule.min_rows, covers=covers, steps=makers
        )
    return tuple(found.values()), notices


def _name(text: str, line: int, catalog: str | None, schema: str | None) -> Name:
    if not _NAME.fullmatch(text):
        raise UsageError(
            f"{text!r} is not the name of a table.",
            where=f"{FILE}:{line}",
            fix="Write table, schema.table or catalog.schema.table; backquotes around odd parts.",
        )
    return resolved(parts_of(text), catalog, schema)

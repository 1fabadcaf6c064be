"""What is there in the end: tables, their rows, and whether declared keys are unique."""

from __future__ import annotations

import time
from collections.abc import Mapping

from databricks_rlm_agent.domain.workflow.model import Plan
from databricks_rlm_agent.domain.workflow.names import Name, quoted, shown
from databricks_rlm_agent.domain.workflow.outcome import StepOutcome, StepStatus, TableCheck
from databricks_rlm_agent.errors import NotFound, RlmError, Unreachable
from databricks_rlm_agent.sqlflow.engine import Engine
from databricks_rlm_agent.sqlflow.steady import SteadySession
from databricks_rlm_agent.sqlflow.steps import tables_of


def expected(plan: Plan, outcomes: Mapping[str, StepOutcome]) -> dict[Name, tuple[str, ...]]:
    """The tables that must be there after the steps that are done, with their declared keys."""
    there: dict[Name, tuple[str, ...]] = {}
    for step in plan.steps:
        outcome = outcomes[step.id]
        if outcome.status not in {StepStatus.DONE, StepStatus.KEPT}:
            continue
        for statement in step.file.statements if step.file else ():
            for name in statement.gone:
                there.pop(name, None)
        key = step.loop.key_columns if step.loop else ()
        there |= dict.fromkeys(tables_of(step, outcome), key)
    return there


def check_tables(plan: Plan, outcomes: Mapping[str, StepOutcome], engine: Engine) -> tuple[TableCheck, ...]:
    """Count the rows of every table that must be there."""
    session = SteadySession(engine, time.sleep)
    checks = []
    try:
        for name, key in expected(plan, outcomes).items():
            try:
                checks.append(_check(session, name, key))
            except Unreachable as error:  # it has been tried long enough: nor will it answer for the others
                checks.append(_not_counted(name, error))
                break
        return tuple(checks)
    finally:
        session.close()


def _check(session: SteadySession, name: Name, key: tuple[str, ...]) -> TableCheck:
    table = shown(name)
    columns = ", ".join(quoted((column,)) for column in key)
    distinct = f", (SELECT count(*) FROM (SELECT DISTINCT {columns} FROM {quoted(name)})) AS u" if key else ""
    try:
        row = session.fetch(f"SELECT (SELECT count(*) FROM {quoted(name)}) AS n{distinct}")[0]
    except NotFound:
        return TableCheck(table=table, exists=False)
    except Unreachable:
        raise
    except RlmError as error:
        return _not_counted(name, error)
    unique = row["u"] == row["n"] if key else None
    return TableCheck(table=table, exists=True, rows=int(row["n"]), key=key, unique=unique)


def _not_counted(name: Name, error: RlmError) -> TableCheck:
    return TableCheck(table=shown(name), exists=True, note=f"It could not be counted: {error.what}")

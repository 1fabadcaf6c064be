"""``sql plan``: in what order a directory of SQL would run, and why. No workspace is needed for it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from databricks_rlm_agent.domain.workflow.model import Plan
from databricks_rlm_agent.domain.workflow.pictures.plans import as_dot, as_mermaid, as_table
from databricks_rlm_agent.domain.workflow.planning.plan import plan_of
from databricks_rlm_agent.domain.workflow.planning.selection import Selection, select
from databricks_rlm_agent.domain.workflow.text.variables import parse_variables
from databricks_rlm_agent.sqlflow.reading import read_directory

_PICTURES = {"table": as_table, "mermaid": as_mermaid, "dot": as_dot}


def plan(options: argparse.Namespace) -> int:
    """Print the plan of a directory."""
    planned = planned_for(options)
    if options.json or options.format == "json":
        print(json.dumps(planned.to_dict(), ensure_ascii=False), flush=True)
    else:
        print(_PICTURES[options.format](planned), flush=True)
    return 0


def planned_for(options: argparse.Namespace) -> Plan:
    """The plan of ``DIR`` with the variables and the steps that the options choose."""
    source = read_directory(
        Path(options.directory),
        variables=parse_variables(options.var),
        catalog=options.catalog,
        schema=options.schema,
    )
    selection = Selection(only=tuple(options.only), start=options.start, skip=tuple(options.skip))
    return select(plan_of(source), selection)

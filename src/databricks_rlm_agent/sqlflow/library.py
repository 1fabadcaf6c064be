"""SQL workflows as a library: one function, over whatever engine runs the statements."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from databricks_rlm_agent.domain.workflow.model import Plan
from databricks_rlm_agent.domain.workflow.planning.plan import plan_of
from databricks_rlm_agent.domain.workflow.running.late import late
from databricks_rlm_agent.domain.workflow.running.outcome import Report
from databricks_rlm_agent.sqlflow.ahead import OpenedAhead
from databricks_rlm_agent.sqlflow.behind import WrittenBehind
from databricks_rlm_agent.sqlflow.engine import Engine
from databricks_rlm_agent.sqlflow.events import Observer, Silent
from databricks_rlm_agent.sqlflow.reading import read_directory
from databricks_rlm_agent.sqlflow.record import DeltaRecord
from databricks_rlm_agent.sqlflow.runner import Decide, Options, Runner, stop
from databricks_rlm_agent.sqlflow.steady import SteadySession


def run_workflow(
    directory: Path,
    engine: Engine,
    *,
    catalog: str,
    schema: str,
    variables: Mapping[str, str] | None = None,
    options: Options | None = None,
    observer: Observer | None = None,
    decide: Decide = stop,
) -> Report:
    """Run a directory of SQL in a catalog and schema, where its record is kept too; return the report.

    Raises UsageError for a directory that cannot be planned, and RlmError where nothing can run; what fails
    later is in the report.
    """
    plan = plan_of(read_directory(directory, variables=variables, catalog=catalog, schema=schema))
    name = plan.name or directory.resolve().name
    with prepared(
        plan,
        engine,
        workflow=name,
        place=(catalog, schema),
        options=options,
        observer=observer,
        decide=decide,
    ) as runner:
        return runner.run()


@contextmanager
def prepared(
    plan: Plan,
    engine: Engine,
    *,
    workflow: str,
    place: tuple[str, str],
    options: Options | None = None,
    observer: Observer | None = None,
    decide: Decide = stop,
) -> Iterator[Runner]:
    """A runner for a plan, with its record in ``place``; for who may interrupt it. Raises RlmError."""
    options = options or Options()
    with ExitStack() as stack:
        # The record has two sessions of its own, one to write and one to ask.
        spare = min(options.max_parallel, len(plan.steps)) + 1
        expected = sum(len(step.files) for step in plan.steps) + 2
        engine = stack.enter_context(OpenedAhead(engine, spare=spare, expected=expected))
        writer, prover = (stack.enter_context(closing(SteadySession(engine, time.sleep))) for _ in range(2))
        record = DeltaRecord(writer, place, now, prover=prover)
        yield Runner(
            plan=plan,
            workflow=workflow,
            engine=engine,
            record=WrittenBehind(record, late(plan)),
            clock=now,
            new_id=new_id,
            options=options,
            observer=observer or Silent(),
            decide=decide,
            place=".".join(place),
        )


def now() -> datetime:
    """The time now."""
    return datetime.now(UTC)


def new_id(prefix: str) -> str:
    """A new id."""
    return f"{prefix}{uuid.uuid4().hex[:16]}"

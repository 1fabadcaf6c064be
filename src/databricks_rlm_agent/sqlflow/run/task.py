"""A workflow as a task of the agent: what Job B runs, from the published files to what is reported."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from databricks_rlm_agent.errors import InvalidData, NotFound, RlmError
from databricks_rlm_agent.logs import keep_off_root
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.sqlflow.handover import content_hash, source_of, to_agent
from databricks_rlm_agent.sqlflow.plan.plan import plan_of
from databricks_rlm_agent.sqlflow.run.outcome import Report, RunStatus, StepStatus
from databricks_rlm_agent.sqlflow.run.record import RUNS
from databricks_rlm_agent.sqlflow.run.runner import Options, Runner, go_on, stop
from databricks_rlm_agent.sqlflow.run.task_report import AgentLog, document, problem_lines, summary
from databricks_rlm_agent.sqlflow.run.workflow import prepared
from databricks_rlm_agent.sqltext.names import quoted
from databricks_rlm_agent.values import SqlEngine

# After a time-out or a cancel the harness waits five seconds for what it runs (protocol.DEFAULT_GRACE_S).
_LEAVE_S = 3.5


class Reporter(Protocol):
    """As much of ``rlm`` as a workflow reports by."""

    def path(self, path: str) -> str:
        """Where a Volume path can be opened."""

    def finish(self, value: Any) -> None:
        """Report a value."""

    def metric(self, name: str, value: object) -> None:
        """Report a number."""

    def table(self, name: str) -> str:
        """Report a table."""

    def log(self, message: object) -> None:
        """Report a line."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be run: the published ``folder`` with the ``sha256`` of its ``files``, and how.

    ``run_id`` is the id of the workflow's run: a later order of the same id goes on with what still counts.
    ``restart``: the number of the iteration that begins anew; the newest beginning is what others go on with.
    """

    name: str
    folder: str
    files: tuple[str, ...]
    sha256: str
    run_id: str
    catalog: str
    schema: str
    variables: Mapping[str, str] = field(default_factory=dict)
    max_iterations: int = 30
    max_parallel: int = 4
    on_error: str = "stop"
    restart: int | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Order:
        """From JSON."""
        return cls(**{**document, "files": tuple(document["files"])})


def run_task(rlm: Reporter, order: Order, engine: SqlEngine, *, alone: str | None = None) -> str | None:
    """Run the order and report on ``rlm``; why it did not succeed, None if it did.

    ``alone`` says why the engine has but one session: files then run one at a time.
    """
    keep_off_root("sqlglot")  # it warns of statements that it does not know; notices tell that
    try:
        texts = _read(Path(rlm.path(order.folder)), order)
        source = source_of(texts, variables=order.variables, catalog=order.catalog, schema=order.schema)
        if alone is not None:
            source = replace(source, notices=(f"Files run one at a time: {alone}",))
        place = (order.catalog, order.schema)
        options = Options(
            run_id=_run_id(engine, order),
            max_iterations=order.max_iterations,
            max_parallel=1 if alone is not None else order.max_parallel,
        )
        with prepared(
            plan_of(source),
            engine,
            workflow=order.name,
            place=place,
            options=options,
            observer=AgentLog(print),
            decide=go_on if order.on_error == "continue" else stop,
        ) as runner:
            report = _watched(runner, rlm, order)
    except RlmError as error:
        return f"{order.name}: {to_agent(str(error))}"
    _tell(rlm, order, report)
    return None if report.status is RunStatus.SUCCEEDED else summary(report)


def _read(folder: Path, order: Order) -> dict[str, str]:
    """The files as they were published; raise InvalidData if they are not."""
    try:
        texts = {name: (folder / name).read_bytes().decode() for name in order.files}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidData(f"The published files cannot be read: {error}.", where=order.folder) from None
    if content_hash(texts) != order.sha256:
        raise InvalidData(
            "The files were changed after publishing; nothing was run.",
            where=order.folder,
            fix="Run it again.",
        )
    return texts


def _run_id(engine: SqlEngine, order: Order) -> str:
    """The id of the run to go on with, or to begin: the newest of those that this workflow began."""
    if order.restart is not None:
        return f"{order.run_id}-{order.restart}"
    session = RetryingSession(engine.session, time.sleep)
    table = quoted((order.catalog, order.schema, RUNS))
    try:
        rows = session.fetch(
            f"SELECT workflow_run_id, max(started_at) AS at FROM {table} "
            "WHERE workflow = :workflow AND substr(workflow_run_id, 1, :length) = :run "
            "GROUP BY workflow_run_id ORDER BY at DESC",
            {"workflow": order.name, "run": order.run_id, "length": len(order.run_id)},
        )
    except NotFound:  # the first workflow in this schema
        rows = []
    finally:
        session.close()
    ours = re.compile(re.escape(order.run_id) + r"(-\d+)?")
    found = (str(row["workflow_run_id"]) for row in rows)
    return next((id_ for id_ in found if ours.fullmatch(id_)), order.run_id)


def _watched(runner: Runner, rlm: Reporter, order: Order) -> Report:
    """Run it on a thread of its own: a time-out or a cancel is raised in this one, and ends the run in order.
    What is known of it then is told before that is raised again.
    """
    reports: list[Report] = []
    failures: list[BaseException] = []
    over = threading.Event()  # Thread.join takes a thread for ended once it was interrupted (Python 3.11)

    def work() -> None:
        try:
            reports.append(runner.run())
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            failures.append(error)
        finally:
            over.set()

    threading.Thread(target=work, name="sql-workflow", daemon=True).start()
    try:
        while not over.is_set():
            over.wait(0.5)
    except BaseException:
        runner.interrupt()
        _wait(over, _LEAVE_S)
        if reports:
            _tell(rlm, order, reports[0])
        else:
            why = str(failures[0]) if failures else f"no answer within {_LEAVE_S:g} s"
            rlm.log(f"{order.name} came to no orderly end ({to_agent(why)}); another call goes on with it.")
        raise
    if failures:
        raise failures[0]
    return reports[0]


def _wait(over: threading.Event, seconds: float) -> None:
    """Wait, whatever is raised meanwhile: the harness interrupts more than once."""
    until = time.monotonic() + seconds
    while not over.is_set() and time.monotonic() < until:
        with suppress(BaseException):
            over.wait(0.1)


def _tell(rlm: Reporter, order: Order, report: Report) -> None:
    rlm.finish(document(report, folder=order.folder))
    rlm.metric("steps_done", report.count(StepStatus.DONE))
    rlm.metric("steps_kept", report.count(StepStatus.KEPT))
    rlm.metric("steps", len(report.steps))
    for line in _log_lines(report):
        rlm.log(line)
    for table in report.tables:
        if table.exists:
            # A name that cannot be reported, or too many: they are in the value.
            with suppress(ValueError):
                rlm.table(table.table)


def _log_lines(report: Report) -> Iterable[str]:
    for step in report.steps:
        if step.problem is not None:
            yield f"{step.id}: {problem_lines(step.problem)}"
    yield from map(to_agent, report.notices[:20])

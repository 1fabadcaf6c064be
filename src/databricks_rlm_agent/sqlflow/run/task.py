"""A workflow as a task of the agent: runs the published files in Job B, and reports to the planner."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from databricks_rlm_agent.errors import InvalidData, RlmError
from databricks_rlm_agent.logs import keep_off_root
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.sqlflow.handover import content_hash, for_agent, source_of
from databricks_rlm_agent.sqlflow.plan.plan import plan_of
from databricks_rlm_agent.sqlflow.run.events import LineObserver
from databricks_rlm_agent.sqlflow.run.outcome import Report, RunStatus, StepOutcome, StepStatus, TableCheck
from databricks_rlm_agent.sqlflow.run.record import run_ids
from databricks_rlm_agent.sqlflow.run.runner import Options, Runner, go_on, stop
from databricks_rlm_agent.sqlflow.run.workflow import prepared
from databricks_rlm_agent.sqltext.errors import Problem
from databricks_rlm_agent.values import SqlEngine

# After a time-out or a cancel the harness waits five seconds for what it runs (protocol.DEFAULT_GRACE_S).
END_TIMEOUT_S = 3.5
MAX_BYTES = 48 * 1024  # of the report as JSON; rlm.finish takes 64 KB
_MESSAGE_CHARS = 400
_PROBLEMS, _NOTICES = 8, 20
_CHANGES = 12  # of a loop's first and last iterations


class Reporter(Protocol):
    """The methods of ``rlm`` that a workflow reports by."""

    def path(self, path: str) -> str:
        """Return where a Volume path can be opened."""

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
    """An order to run a workflow: the published ``folder`` with the ``sha256`` of its ``files``, and how.

    ``run_id`` is the id of the workflow's run: a later order with the same id resumes it. ``restart``: the
    number of the iteration that begins anew; later orders resume the newest beginning.
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
        """Read an order from JSON."""
        return cls(**{**document, "files": tuple(document["files"])})


def run_task(rlm: Reporter, order: Order, engine: SqlEngine, *, alone: str | None = None) -> str | None:
    """Run the order and report on ``rlm``; return why it did not succeed, None if it did.

    ``alone`` says why the engine has only one session: files then run one at a time.
    """
    keep_off_root("sqlglot")  # it warns about statements that it does not know; so do our notices
    try:
        texts = _read(Path(rlm.path(order.folder)), order)
        source = source_of(texts, variables=order.variables, catalog=order.catalog, schema=order.schema)
        if alone is not None:
            source = replace(source, notices=(f"Files run one at a time: {alone}",))
        options = Options(
            run_id=_run_id(engine, order),
            max_iterations=order.max_iterations,
            max_parallel=1 if alone is not None else order.max_parallel,
        )
        with prepared(
            plan_of(source),
            engine,
            workflow=order.name,
            place=(order.catalog, order.schema),
            options=options,
            observer=LineObserver(_print),
            decide=go_on if order.on_error == "continue" else stop,
        ) as runner:
            report = _run_interruptibly(runner, rlm, order)
    except RlmError as error:
        return f"{order.name}: {for_agent(str(error))}"
    _publish(rlm, order, report)
    return None if report.status is RunStatus.SUCCEEDED else summary(report)


def _print(line: str) -> None:
    print(for_agent(line))  # noqa: T201 - standard output is the log of the job


def _read(folder: Path, order: Order) -> dict[str, str]:
    """Return the files as they were published; raise InvalidData if they were changed."""
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
    """Return the id of the run to resume or to begin: the newest of those that this workflow began."""
    if order.restart is not None:
        return f"{order.run_id}-{order.restart}"
    session = RetryingSession(engine.session, time.sleep)
    try:
        found = run_ids(session, (order.catalog, order.schema), workflow=order.name, prefix=order.run_id)
    finally:
        session.close()
    ours = re.compile(re.escape(order.run_id) + r"(-\d+)?")
    return next((id_ for id_ in found if ours.fullmatch(id_)), order.run_id)


def _run_interruptibly(runner: Runner, rlm: Reporter, order: Order) -> Report:
    """Run in another thread: a time-out or a cancel is raised in this one, and interrupts the run.

    What is known of the run then is reported before the exception is raised again.
    """
    reports: list[Report] = []
    failures: list[BaseException] = []
    ended = threading.Event()  # Thread.join takes a thread for ended once it was interrupted (Python 3.11)

    def run() -> None:
        try:
            reports.append(runner.run())
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            failures.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, name="sql-workflow", daemon=True).start()
    try:
        while not ended.is_set():
            ended.wait(0.5)
    except BaseException:
        runner.interrupt()
        _wait(ended, END_TIMEOUT_S)
        if reports:
            _publish(rlm, order, reports[0])
        else:
            reason = for_agent(str(failures[0])) if failures else f"no answer within {END_TIMEOUT_S:g} s"
            rlm.log(f"{order.name} did not end in order ({reason}); another call resumes it.")
        raise
    if failures:
        raise failures[0]
    return reports[0]


def _wait(ended: threading.Event, seconds: float) -> None:
    """Wait, whatever is raised meanwhile: the harness interrupts more than once."""
    until = time.monotonic() + seconds
    while not ended.is_set() and time.monotonic() < until:
        with suppress(BaseException):
            ended.wait(0.1)


def _publish(rlm: Reporter, order: Order, report: Report) -> None:
    rlm.finish(report_value(report, folder=order.folder))
    rlm.metric("steps_done", report.count(StepStatus.DONE))
    rlm.metric("steps_kept", report.count(StepStatus.KEPT))
    rlm.metric("steps", len(report.steps))
    for step in report.steps:
        if step.problem is not None:
            rlm.log(f"{step.id}: {problem_line(step.problem)}")
    for notice in report.notices[:_NOTICES]:
        rlm.log(for_agent(notice))
    for table in report.tables:
        if table.exists:
            # A name that cannot be reported, or too many: they are in the value.
            with suppress(ValueError):
                rlm.table(table.table)


def problem_line(problem: Problem) -> str:
    """Return what went wrong, where, and what to do, in one line."""
    where = f"{problem.where}: " if problem.where else ""
    hint = for_agent(problem.hint)
    return f"{where}{problem.message[:_MESSAGE_CHARS]} ({problem.kind.value}) {hint}".strip()


def summary(report: Report) -> str:
    """Return why a workflow has not succeeded: the steps that failed, with file and line."""
    failed = [step for step in report.steps if step.problem is not None and not step.status.complete]
    reasons = [f"{step.id}: {problem_line(step.problem)}" for step in failed[:3] if step.problem is not None]
    reasons += [f"and {len(failed) - 3} more steps failed"] if len(failed) > 3 else []
    reasons = reasons or [for_agent(line) for line in report.next[:3]]
    steps = f"{report.complete_steps} of {len(report.steps)} steps done"
    return f"{report.workflow} {report.status.value}, {steps}. {' | '.join(reasons)}"


def report_value(report: Report, *, folder: str) -> dict[str, Any]:
    """Return the report for the planner as a JSON value of bounded size, what went wrong first."""
    value: dict[str, Any] = {
        "workflow": report.workflow,
        "status": report.status.value,
        "steps": {"all": len(report.steps)}
        | {status.value: report.count(status) for status in StepStatus if report.count(status)},
        "folder": folder,
        "problems": [
            {"step": step.id, "step_status": step.status.value, **_problem(step.problem)}
            for step in report.steps
            if step.problem is not None
        ][:_PROBLEMS],
        "loops": {step.id: _loop(step) for step in report.steps if step.iterations or step.end},
        "tables": [_table(table) for table in report.tables],
        "not_done": [step.id for step in report.steps if not step.status.complete],
        "warnings": [_problem(problem) for step in report.steps for problem in step.warnings][:_PROBLEMS],
        "seconds": round(report.seconds, 1),
        "run": report.workflow_run_id,
        "notices": [for_agent(notice)[:_MESSAGE_CHARS] for notice in report.notices[:_NOTICES]],
    }
    return _shortened(value, ("notices", "warnings", "tables", "not_done", "loops"))


def _problem(problem: Problem) -> dict[str, Any]:
    fields = {
        "file": problem.file,
        "line": problem.line,
        "kind": problem.kind.value,
        "message": problem.message[:_MESSAGE_CHARS],
        "hint": for_agent(problem.hint),
        "statement": problem.statement,
    }
    return {name: value for name, value in fields.items() if value not in (None, "")}


def _loop(step: StepOutcome) -> dict[str, Any]:
    changed: list[Any] = [measure.changed for measure in step.iterations]
    iterations = len(changed)
    if iterations > 2 * _CHANGES:
        changed = [*changed[:_CHANGES], "…", *changed[-_CHANGES:]]
    return {"end": step.end.value if step.end else None, "iterations": iterations, "rows_changed": changed}


def _table(table: TableCheck) -> dict[str, Any]:
    fields = {"table": table.table, "rows": table.rows, "unique": table.unique, "faults": list(table.faults)}
    return {name: value for name, value in fields.items() if value not in (None, [])}


def _shortened(value: dict[str, Any], order: Iterable[str]) -> dict[str, Any]:
    """Cut the ends of lists, in this order, until the value is small enough; count them in ``left_out``."""
    left_out: dict[str, int] = {}
    for name in order:
        while len(json.dumps(value, default=str)) > MAX_BYTES and value[name]:
            entries = list(value[name])
            kept = entries[: len(entries) // 2]
            left_out[name] = left_out.get(name, 0) + len(entries) - len(kept)
            value["left_out"] = left_out
            value[name] = {key: value[name][key] for key in kept} if isinstance(value[name], dict) else kept
    return value

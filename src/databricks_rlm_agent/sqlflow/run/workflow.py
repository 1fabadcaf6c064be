"""Runs workflows: a directory of SQL for the command line and as a library, published files in Job B."""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from databricks_rlm_agent.errors import (
    Forbidden,
    InvalidData,
    NotFound,
    Rejected,
    RlmError,
    Unauthorized,
    UsageError,
)
from databricks_rlm_agent.logs import keep_off_root
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.sqlflow.handover import Order, content_hash, for_agent, read_directory, source_of
from databricks_rlm_agent.sqlflow.model import Plan
from databricks_rlm_agent.sqlflow.plan.plan import plan_of
from databricks_rlm_agent.sqlflow.run.delta_record import DeltaRecord, run_ids
from databricks_rlm_agent.sqlflow.run.events import (
    NOTICES,
    LineObserver,
    Observer,
    problem_line,
    report_value,
    summary,
)
from databricks_rlm_agent.sqlflow.run.outcome import Report, RunStatus, StepStatus
from databricks_rlm_agent.sqlflow.run.record import WriteBehindRecord, deferrable_rows
from databricks_rlm_agent.sqlflow.run.runner import Decide, Options, Runner, go_on, stop
from databricks_rlm_agent.sqlflow.run.sessions import SessionPool
from databricks_rlm_agent.sqltext.names import Name, quoted
from databricks_rlm_agent.values import NewId, SqlEngine, SqlSession

if TYPE_CHECKING:
    from executor_harness.rlm.api import Rlm

# After a time-out or a cancel the harness waits five seconds for what it runs (protocol.DEFAULT_GRACE_S).
END_TIMEOUT_S = 3.5


def verify_place(engine: SqlEngine, place: Name, new_id: NewId) -> None:
    """Check that tables can be made in ``(catalog, schema)``; raise RlmError with what to do if not.

    The engine must not have a place of its own: a session that cannot be opened says less than USE does.
    """
    catalog, schema = place
    probe = quoted((*place, new_id("_rlm_probe_")))
    session = engine.session()
    try:
        _use(session, f"USE CATALOG {quoted((catalog,))}", f"catalog {catalog}", "--catalog")
        _use(session, f"USE SCHEMA {quoted((schema,))}", f"schema {catalog}.{schema}", "--schema")
        try:
            session.execute(f"CREATE TABLE {probe} (x INT) USING DELTA")
            session.execute(f"DROP TABLE {probe}")
        except Unauthorized as error:
            raise Forbidden(
                f"No table may be made in {catalog}.{schema}: {error.what}",
                where=error.where,
                fix="Ask for USE SCHEMA and CREATE TABLE on it, or name another --schema.",
            ) from None
    finally:
        session.close()


def _use(session: SqlSession, statement: str, what: str, option: str) -> None:
    try:
        session.execute(statement)
    except NotFound as error:
        raise NotFound(
            f"There is no {what}, or it may not be seen.",
            where=error.where,
            fix=f"Check {option}, or create it.",
        ) from None
    except Rejected as error:
        raise UsageError(f"This is not a valid {what}: {error.what}", fix=f"Check {option}.") from None
    except RlmError as error:
        error.fix = error.fix or f"Check {option}."
        raise


def run_workflow(
    directory: Path,
    engine: SqlEngine,
    *,
    catalog: str,
    schema: str,
    variables: Mapping[str, str] | None = None,
    options: Options | None = None,
) -> Report:
    """Run a directory of SQL in a catalog and schema, which its record is in too; return the report.

    Raise UsageError for a directory that cannot be planned, and RlmError if nothing can run; later failures
    are in the report.
    """
    plan = plan_of(read_directory(directory, variables=variables, catalog=catalog, schema=schema))
    name = plan.name or directory.resolve().name
    with prepared(plan, engine, workflow=name, place=(catalog, schema), options=options) as runner:
        return runner.run()


@contextmanager
def prepared(
    plan: Plan,
    engine: SqlEngine,
    *,
    workflow: str,
    place: tuple[str, str],
    options: Options | None = None,
    observer: Observer | None = None,
    decide: Decide = stop,
) -> Iterator[Runner]:
    """Provide a runner for a plan, which can be interrupted, with its record in ``place``; raise RlmError."""
    options = options or Options()
    with ExitStack() as stack:
        # The record has two sessions of its own, one to write and one to read.
        spare = min(options.max_parallel, len(plan.steps)) + 1
        expected = sum(len(step.files) for step in plan.steps) + 2
        pool = stack.enter_context(SessionPool(engine, spare=spare, expected=expected))
        writer, reader = (
            stack.enter_context(closing(RetryingSession(pool.session, time.sleep))) for _ in range(2)
        )
        record = DeltaRecord(writer, place, now, reader=reader)
        yield Runner(
            plan=plan,
            workflow=workflow,
            engine=pool,
            record=WriteBehindRecord(record, deferrable_rows(plan)),
            clock=now,
            new_id=new_id,
            options=options,
            observer=observer,
            decide=decide,
            place=".".join(place),
        )


def now() -> datetime:
    """Return the current time."""
    return datetime.now(UTC)


def new_id(prefix: str) -> str:
    """Return a new id that begins with ``prefix``."""
    return f"{prefix}{uuid.uuid4().hex[:16]}"


def run_task(rlm: Rlm, order: Order, engine: SqlEngine, *, alone: str | None = None) -> str | None:
    """Run the order and report on ``rlm``; return why it did not succeed, None if it did.

    ``alone`` says why the engine has only one session: files then run one at a time.
    """
    keep_off_root("sqlglot")  # it warns about statements that it does not know; so do our notices
    try:
        texts = _published(Path(rlm.path(order.folder)), order)
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
            observer=LineObserver(_print_line),
            decide=go_on if order.on_error == "continue" else stop,
        ) as runner:
            report = _run_interruptibly(runner, rlm, order)
    except RlmError as error:
        return f"{order.name}: {for_agent(str(error))}"
    _publish(rlm, order, report)
    return None if report.status is RunStatus.SUCCEEDED else summary(report)


def _print_line(line: str) -> None:
    print(for_agent(line))  # noqa: T201 - standard output is the log of the job


def _published(folder: Path, order: Order) -> dict[str, str]:
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


def _run_interruptibly(runner: Runner, rlm: Rlm, order: Order) -> Report:
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


def _publish(rlm: Rlm, order: Order, report: Report) -> None:
    rlm.finish(report_value(report, folder=order.folder))
    rlm.metric("steps_done", report.count(StepStatus.DONE))
    rlm.metric("steps_kept", report.count(StepStatus.KEPT))
    rlm.metric("steps", len(report.steps))
    for step in report.steps:
        if step.problem is not None:
            rlm.log(f"{step.id}: {problem_line(step.problem)}")
    for notice in report.notices[:NOTICES]:
        rlm.log(for_agent(notice))
    for table in report.tables:
        if table.exists:
            # A name that cannot be reported, or too many: they are in the value.
            with suppress(ValueError):
                rlm.table(table.table)

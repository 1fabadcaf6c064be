"""SQL workflows as a library: read a directory, check the place that it runs in, and run its plan."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from databricks_rlm_agent.errors import Forbidden, NotFound, Rejected, RlmError, Unauthorized, UsageError
from databricks_rlm_agent.logs import keep_off_root
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.sqlflow.model import Plan
from databricks_rlm_agent.sqlflow.plan.declarations import FILE
from databricks_rlm_agent.sqlflow.plan.plan import SqlSource, plan_of
from databricks_rlm_agent.sqlflow.run.events import Observer
from databricks_rlm_agent.sqlflow.run.outcome import Report
from databricks_rlm_agent.sqlflow.run.record import DeltaRecord
from databricks_rlm_agent.sqlflow.run.runner import Decide, Options, Runner, stop
from databricks_rlm_agent.sqlflow.run.sessions import SessionPool
from databricks_rlm_agent.sqlflow.run.write_behind import WriteBehindRecord, deferrable_rows
from databricks_rlm_agent.sqltext.names import Name, quoted
from databricks_rlm_agent.values import NewId, SqlEngine, SqlSession

MAX_FILES = 2_000
MAX_BYTES = 16 << 20  # of one file; what a warehouse takes in a request is less
SUFFIX = ".sql"


def read_directory(
    directory: Path,
    *,
    variables: Mapping[str, str] | None = None,
    catalog: str | None = None,
    schema: str | None = None,
) -> SqlSource:
    """Read the ``*.sql`` files of a directory and its ``workflow.yml``, but no directories below it.

    Raise UsageError for a directory that does not exist or has no such file, and for unreadable files.
    """
    keep_off_root("sqlglot")  # it warns about statements that it does not know; so do our notices
    entries = _entries(directory)
    paths = [path for path in entries if path.suffix.lower() == SUFFIX and not path.is_dir()]
    if not paths:
        raise UsageError(
            f"There is no {SUFFIX} file.", where=str(directory), fix="Give the directory that has them."
        )
    if len(paths) > MAX_FILES:
        raise UsageError(
            f"{len(paths)} files are more than {MAX_FILES}.", where=str(directory), fix="Split the directory."
        )
    declared = next((path for path in entries if path.name in {FILE, "workflow.yaml"}), None)
    return SqlSource(
        texts={path.name: _text(path) for path in paths},
        declared=_text(declared) if declared else None,
        variables=dict(variables or {}),
        catalog=catalog,
        schema=schema,
        notices=tuple(
            f"{path.name}/ is not looked into."
            for path in entries
            if path.is_dir() and (path.suffix.lower() == SUFFIX or any(path.glob(f"*{SUFFIX}")))
        ),
    )


def _entries(directory: Path) -> list[Path]:
    """Return the entries of the directory by name, without hidden ones."""
    where = str(directory)[:200]
    try:
        return sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        raise UsageError("There is no such directory.", where=where, fix="Check the path.") from None
    except NotADirectoryError:
        raise UsageError("It is a file.", where=where, fix="Give the directory that it is in.") from None
    except (OSError, ValueError) as error:  # the latter for a NUL in the name
        what = f"The directory cannot be read: {_reason(error)}."
        raise UsageError(what, where=where, fix="Check it.") from None


def _text(path: Path) -> str:
    """Return a file's text, without a byte order mark."""
    where = str(path)
    try:
        if not path.is_file():  # reading a pipe would wait for ever
            link = "a link to what is not there" if path.is_symlink() else "no regular file"
            raise UsageError(f"It is {link}.", where=where, fix="Remove it, or put the file there.")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise UsageError(f"It has {size:,} bytes, more than {MAX_BYTES:,}.", where=where, fix="Split it.")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + error.object[: error.start].count(b"\n")
        raise UsageError("It is not valid UTF-8.", where=f"{where}:{line}", fix="Save it as UTF-8.") from None
    except OSError as error:
        what = f"It cannot be read: {_reason(error)}."
        raise UsageError(what, where=where, fix="Check it and its permissions.") from None


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


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
    observer: Observer | None = None,
    decide: Decide = stop,
) -> Report:
    """Run a directory of SQL in a catalog and schema, which its record is in too; return the report.

    Raise UsageError for a directory that cannot be planned, and RlmError if nothing can run; later failures
    are in the report.
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

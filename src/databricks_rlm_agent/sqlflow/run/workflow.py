"""SQL workflows as a library: read a directory, and run its plan on any engine."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from databricks_rlm_agent.errors import UsageError
from databricks_rlm_agent.logs import keep_off_root
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.sqlflow.model import Plan
from databricks_rlm_agent.sqlflow.plan.declarations import FILE
from databricks_rlm_agent.sqlflow.plan.plan import SqlSource, plan_of
from databricks_rlm_agent.sqlflow.run.events import Observer, Silent
from databricks_rlm_agent.sqlflow.run.outcome import Report
from databricks_rlm_agent.sqlflow.run.record import DeltaRecord
from databricks_rlm_agent.sqlflow.run.runner import Decide, Options, Runner, stop
from databricks_rlm_agent.sqlflow.run.session_pool import SessionPool
from databricks_rlm_agent.sqlflow.run.write_behind import WriteBehindRecord, late
from databricks_rlm_agent.values import SqlEngine

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
    """The ``*.sql`` files of a directory and its ``workflow.yml``; directories below it are not looked into.

    Raises UsageError for a directory that is not there or has no such file, and for what cannot be read.
    """
    keep_off_root("sqlglot")  # it warns of statements that it does not know; notices tell that
    found = _entries(directory)
    paths = [path for path in found if path.suffix.lower() == SUFFIX and not path.is_dir()]
    if not paths:
        raise UsageError(
            f"There is no {SUFFIX} file.", where=str(directory), fix="Give the directory that has them."
        )
    if len(paths) > MAX_FILES:
        raise UsageError(
            f"{len(paths)} files are more than {MAX_FILES}.", where=str(directory), fix="Split the directory."
        )
    declared = next((path for path in found if path.name in {FILE, "workflow.yaml"}), None)
    return SqlSource(
        texts={path.name: _text(path) for path in paths},
        declared=_text(declared) if declared else None,
        variables=dict(variables or {}),
        catalog=catalog,
        schema=schema,
        notices=tuple(
            f"{path.name}/ is not looked into."
            for path in found
            if path.is_dir() and (path.suffix.lower() == SUFFIX or any(path.glob(f"*{SUFFIX}")))
        ),
    )


def _entries(directory: Path) -> list[Path]:
    """What the directory has, by name, without hidden files."""
    try:
        return sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        raise UsageError("There is no such directory.", where=str(directory), fix="Check the path.") from None
    except NotADirectoryError:
        raise UsageError(
            "It is a file.", where=str(directory), fix="Give the directory that it is in."
        ) from None
    except (OSError, ValueError) as error:  # the latter for a NUL in the name
        raise UsageError(
            f"The directory cannot be read: {_reason(error)}.", where=str(directory)[:200], fix="Check it."
        ) from None


def _text(path: Path) -> str:
    """A file's text, without a byte order mark."""
    try:
        if not path.is_file():  # reading a pipe would wait for ever
            link = "a link to what is not there" if path.is_symlink() else "no regular file"
            raise UsageError(f"It is {link}.", where=str(path), fix="Remove it, or put the file there.")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UsageError(
                f"It has {size:,} bytes, more than {MAX_BYTES:,}.", where=str(path), fix="Split it."
            )
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + error.object[: error.start].count(b"\n")
        raise UsageError("It is not valid UTF-8.", where=f"{path}:{line}", fix="Save it as UTF-8.") from None
    except OSError as error:
        raise UsageError(
            f"It cannot be read: {_reason(error)}.", where=str(path), fix="Check it and its permissions."
        ) from None


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


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
    engine: SqlEngine,
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
        engine = stack.enter_context(SessionPool(engine, spare=spare, expected=expected))
        writer, prover = (
            stack.enter_context(closing(RetryingSession(engine.session, time.sleep))) for _ in range(2)
        )
        record = DeltaRecord(writer, place, now, prover=prover)
        yield Runner(
            plan=plan,
            workflow=workflow,
            engine=engine,
            record=WriteBehindRecord(record, late(plan)),
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

"""What is there in the end: tables and views, their rows, and whether what is declared of them holds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue
from typing import Any

from databricks_rlm_agent.errors import NotFound, RlmError, Unreachable
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.sqlflow.checks import Cover, Coverage, Expectation, TableCheck
from databricks_rlm_agent.sqlflow.model import Plan, Step
from databricks_rlm_agent.sqlflow.run.events import EventKind, Feed
from databricks_rlm_agent.sqlflow.run.interruption import InterruptedRunError, Interruption
from databricks_rlm_agent.sqlflow.run.outcome import StepOutcome, StepStatus
from databricks_rlm_agent.sqlflow.run.steps import tables_of
from databricks_rlm_agent.sqltext.errors import classify
from databricks_rlm_agent.sqltext.names import Name, quoted, shown
from databricks_rlm_agent.sqltext.statement import Statement
from databricks_rlm_agent.values import SqlEngine

_AGAIN_S = 0.5  # how often a cancel is repeated: a statement may just be starting
_TOGETHER = 25  # tables that are counted in one statement
_DONE = {StepStatus.DONE, StepStatus.KEPT}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A table or view that is to be checked, and for what."""

    expectation: Expectation
    step: str | None = None
    view: bool = False

    @property
    def counted(self) -> bool:
        """A view is a query that may take long: it is only run where something is declared of it."""
        expects = self.expectation
        return not self.view or bool(expects.key or expects.min_rows or expects.covers)


def expected(plan: Plan, outcomes: Mapping[str, StepOutcome]) -> list[Wanted]:
    """What must be there after the steps that are done, with what is declared of it.

    What is declared of a table is left out where the step that makes it is not chosen, or not done.
    """
    there: dict[Name, Wanted] = {}
    for step in plan.steps:
        outcome = outcomes[step.id]
        if outcome.status in _DONE:
            for name in (name for statement in _statements(step) for name in statement.drops):
                there.pop(name, None)
            there |= dict(_made(step, outcome))
    for each in plan.expectations:
        known = there.get(each.table) or Wanted(expectation=each)
        if _due(each, outcomes):
            key = each.key or known.expectation.key
            there[each.table] = replace(known, expectation=replace(each, key=key))
    return list(there.values())


def _made(step: Step, outcome: StepOutcome) -> Iterator[tuple[Name, Wanted]]:
    tables = tables_of(step, outcome)
    views = [name for name in (step.file.tables if step.file else ()) if name not in tables]
    for name in (*tables, *(view for view in views if not set("*(") & set("".join(view)))):
        key = step.loop.key_columns if step.loop else ()
        expects = Expectation(table=name, key=key, steps=(step.id,))
        yield name, Wanted(expectation=expects, step=step.id, view=name in views)


def _statements(step: Step) -> Iterator[Statement]:
    return iter(step.file.statements if step.file else ())


def _due(expects: Expectation, outcomes: Mapping[str, StepOutcome]) -> bool:
    chosen = [step for step in expects.steps if step in outcomes]
    return not expects.steps or (bool(chosen) and all(outcomes[step].status in _DONE for step in chosen))


def check_tables(
    plan: Plan,
    outcomes: Mapping[str, StepOutcome],
    engine: SqlEngine,
    *,
    feed: Feed,
    interruption: Interruption,
    parallel: int = 1,
) -> tuple[TableCheck, ...]:
    """Check what must be there, so many at once. What cannot be checked says so in its ``errors``."""
    wanted = expected(plan, outcomes)
    if not wanted:
        return ()
    feed.tell(EventKind.CHECKING, f"{len(wanted)} tables and views", statements=len(wanted))
    with ExitStack() as stack:
        free: SimpleQueue[RetryingSession] = SimpleQueue()
        many = min(max(1, parallel), len(wanted))
        for _ in range(many):
            free.put(
                stack.enter_context(interruption.watching(RetryingSession(engine.session, interruption.wait)))
            )
        checker = _Checker(free, interruption, feed)
        pool = stack.enter_context(ThreadPoolExecutor(many, thread_name_prefix="check"))
        _through([pool.submit(checker.count, wanted)], interruption)
        futures = [pool.submit(checker.check, each) for each in wanted]
        _through(futures, interruption)
        return tuple(future.result() for future in futures)


def _through(futures: Sequence[Future[Any]], interruption: Interruption) -> None:
    """Wait for their end, and cancel what they run as soon as the workflow is to end."""
    while wait(futures, timeout=_AGAIN_S).not_done:
        if interruption.asked:
            interruption.cancel()


class _Checker:
    def __init__(self, free: SimpleQueue[RetryingSession], interruption: Interruption, feed: Feed) -> None:
        self._free, self._interruption, self._feed = free, interruption, feed
        self._gone = threading.Event()  # it has been tried long enough: nor will it answer for the others
        self._rows: dict[Name, int] = {}  # of tables that are counted already

    def count(self, wanted: Sequence[Wanted]) -> None:
        """Count the tables, many in a statement. Where that fails, ``check`` counts each, and says why."""
        tables = [each.expectation.table for each in wanted if each.counted and not each.view]
        session = self._free.get()
        try:
            for some in (tables[n : n + _TOGETHER] for n in range(0, len(tables), _TOGETHER)):
                self._rows |= _rows_of(session, some)
        except Unreachable:
            self._gone.set()
        except RlmError:
            pass  # one that is missing, most likely
        finally:
            self._free.put(session)

    def check(self, wanted: Wanted) -> TableCheck:
        session = self._free.get()
        try:
            found = self._checked(session, wanted)
        finally:
            self._free.put(session)
        self._feed.tell(EventKind.CHECKED, found.table, rows=found.rows)
        return found

    def _checked(self, session: RetryingSession, wanted: Wanted) -> TableCheck:
        expects = wanted.expectation
        found = TableCheck(
            table=shown(expects.table),
            exists=True,
            view=wanted.view,
            step=wanted.step,
            key=expects.key,
            min_rows=expects.min_rows,
        )
        if expects.table in self._rows:
            found = replace(found, rows=self._rows[expects.table])
        checks = [partial(_counted if wanted.counted else _looked_at, session, expects.table)]
        checks += [partial(_unique, session, expects.table)] if expects.key else []
        checks += [partial(_covered, session, expects.table, cover) for cover in expects.covers]
        for check in checks:
            try:
                found = self._tried(found, check)
            except NotFound:
                return replace(found, exists=False)
        return found

    def _tried(self, found: TableCheck, check: Callable[[TableCheck], TableCheck]) -> TableCheck:
        """What the check has found, or why it could not be made."""
        try:
            if self._gone.is_set():
                return _failed(found, "the warehouse does not answer")
            self._interruption.check()
            return check(found)
        except InterruptedRunError:
            return _failed(found, "the run was interrupted")
        except NotFound as error:
            if found.rows is None:
                raise
            return _failed(found, classify(error).message)
        except RlmError as error:
            if isinstance(error, Unreachable):
                self._gone.set()
            if self._interruption.asked:
                return _failed(found, "the run was interrupted")
            return _failed(found, classify(error).message)


def _failed(found: TableCheck, why: str) -> TableCheck:
    return replace(found, errors=(*found.errors, f"It could not be checked: {why}"))


def _looked_at(session: RetryingSession, table: Name, found: TableCheck) -> TableCheck:
    session.fetch(f"SELECT 1 FROM {quoted(table)} LIMIT 0")
    return found


def _rows_of(session: RetryingSession, tables: Sequence[Name]) -> dict[Name, int]:
    counts = ", ".join(f"(SELECT count(*) FROM {quoted(name)}) AS n{i}" for i, name in enumerate(tables))
    row = session.fetch(f"SELECT {counts}")[0] if tables else {}
    return {name: int(row[f"n{i}"]) for i, name in enumerate(tables) if f"n{i}" in row}


def _counted(session: RetryingSession, table: Name, found: TableCheck) -> TableCheck:
    if found.rows is not None:
        return found
    row = session.fetch(f"SELECT (SELECT count(*) FROM {quoted(table)}) AS n")[0]
    return replace(found, rows=int(row["n"]))


def _unique(session: RetryingSession, table: Name, found: TableCheck) -> TableCheck:
    key = ", ".join(quoted((column,)) for column in found.key)
    distinct = f"(SELECT count(*) FROM (SELECT DISTINCT {key} FROM {quoted(table)})) AS u"
    row = session.fetch(f"SELECT (SELECT count(*) FROM {quoted(table)}) AS n, {distinct}")[0]
    return replace(found, duplicates=int(row["n"]) - int(row["u"]))


def _covered(session: RetryingSession, table: Name, cover: Cover, found: TableCheck) -> TableCheck:
    row = session.fetch(coverage_query(table, cover))[0]
    coverage = Coverage(
        table=shown(cover.table),
        on=cover.on,
        keys=int(row["all_keys"]),
        found=int(row["found_keys"]),
        wanted=cover.share,
    )
    return replace(found, coverage=(*found.coverage, coverage))


def coverage_query(table: Name, cover: Cover) -> str:
    """Counts the distinct keys of the covered table, and those of them that the other one has."""
    columns = [(quoted((here,)), quoted((there,)), f"k{n}") for n, (here, there) in enumerate(cover.on)]
    here = ", ".join(f"{name} AS {alias}" for name, _, alias in columns)
    there = ", ".join(f"{name} AS {alias}" for _, name, alias in columns)
    known = " AND ".join(f"{name} IS NOT NULL" for _, name, _ in columns)
    same = " AND ".join(f"c.{alias} = t.{alias}" for _, _, alias in columns)
    return (
        f"SELECT count(*) AS all_keys, count(t.found) AS found_keys "
        f"FROM (SELECT DISTINCT {there} FROM {quoted(cover.table)} WHERE {known}) c "
        f"LEFT JOIN (SELECT DISTINCT {here}, 1 AS found FROM {quoted(table)}) t ON {same}"
    )

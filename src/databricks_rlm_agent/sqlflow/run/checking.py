"""Checks the tables and views of a workflow at its end: that they exist, their rows, and what is declared."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue
from typing import Any

from databricks_rlm_agent.errors import NotFound, RlmError, Unreachable
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.sqlflow.model import CoverageRule, Expectation, Plan, Step
from databricks_rlm_agent.sqlflow.plan.iterations import iteration
from databricks_rlm_agent.sqlflow.run.events import EventKind
from databricks_rlm_agent.sqlflow.run.execution import RunContext
from databricks_rlm_agent.sqlflow.run.measures import coverage_query, key_query, rows_query
from databricks_rlm_agent.sqlflow.run.outcome import Coverage, StepOutcome, TableCheck
from databricks_rlm_agent.sqlflow.run.sessions import InterruptedRunError, Interruption
from databricks_rlm_agent.sqltext.errors import classify
from databricks_rlm_agent.sqltext.names import Name, quoted, shown

_CANCEL_AGAIN_S = 0.5  # a statement may just be starting when it is cancelled
_NO_TABLE = set("*(")  # in the names of schemas, and of functions
_BATCH = 25  # tables that are counted in one statement


@dataclass(frozen=True, kw_only=True)
class PlannedCheck:
    """A table or view that is to be checked, with what is declared of it."""

    expectation: Expectation
    step: str | None = None
    view: bool = False

    @property
    def counted(self) -> bool:
        """Return whether its rows are counted: of a view, a slow query, only if something is declared."""
        expects = self.expectation
        return not self.view or bool(expects.key or expects.min_rows or expects.covers)


def planned_checks(plan: Plan, outcomes: Mapping[str, StepOutcome]) -> list[PlannedCheck]:
    """Return the checks of the tables and views that must exist after the steps that are done.

    What is declared of a table is left out if the step that makes it was not chosen, or is not done.
    """
    checks: dict[Name, PlannedCheck] = {}
    for step in plan.steps:
        outcome = outcomes[step.id]
        if outcome.status.complete:
            for statement in step.file.statements if step.file else ():
                for name in statement.drops:
                    checks.pop(name, None)
            checks |= dict(_made(step, outcome))
    for each in plan.expectations:
        known = checks.get(each.table) or PlannedCheck(expectation=each)
        if _applies(each, outcomes):
            key = each.key or known.expectation.key
            checks[each.table] = replace(known, expectation=replace(each, key=key))
    return list(checks.values())


def tables_of(step: Step, outcome: StepOutcome) -> tuple[Name, ...]:
    """Return the tables that a step has left: of a loop the one that later files read."""
    if step.loop is None:
        views = {
            name
            for statement in (step.file.statements if step.file else ())
            if statement.words.startswith("CREATE") and "VIEW" in statement.words.split()
            for name in statement.makes
        }
        return tuple(name for name in step.makes if name not in views and not _NO_TABLE & set("".join(name)))
    last = iteration(step.loop, outcome.iterations[-1].n).table if outcome.iterations else None
    table = step.loop.alias or last
    return (table,) if table is not None else ()


def _made(step: Step, outcome: StepOutcome) -> Iterator[tuple[Name, PlannedCheck]]:
    tables = tables_of(step, outcome)
    views = [name for name in (step.file.tables if step.file else ()) if name not in tables]
    for name in (*tables, *(view for view in views if not _NO_TABLE & set("".join(view)))):
        key = step.loop.key_columns if step.loop else ()
        expects = Expectation(table=name, key=key, steps=(step.id,))
        yield name, PlannedCheck(expectation=expects, step=step.id, view=name in views)


def _applies(expects: Expectation, outcomes: Mapping[str, StepOutcome]) -> bool:
    chosen = [step for step in expects.steps if step in outcomes]
    return not expects.steps or (bool(chosen) and all(outcomes[step].status.complete for step in chosen))


def check_tables(
    plan: Plan, outcomes: Mapping[str, StepOutcome], context: RunContext, *, parallel: int
) -> tuple[TableCheck, ...]:
    """Check the tables, ``parallel`` at once. Checks that cannot be made are in their ``errors``."""
    checks = planned_checks(plan, outcomes)
    if not checks:
        return ()
    context.events.emit(EventKind.CHECKING, f"{len(checks)} tables and views", statements=len(checks))
    with ExitStack() as stack:
        free: SimpleQueue[RetryingSession] = SimpleQueue()
        sessions = min(max(1, parallel), len(checks))
        for _ in range(sessions):
            free.put(stack.enter_context(context.retrying_session()))
        checker = _Checker(free, context)
        pool = stack.enter_context(ThreadPoolExecutor(sessions, thread_name_prefix="check"))
        _wait([pool.submit(checker.count, checks)], context.interruption)
        futures = [pool.submit(checker.check, each) for each in checks]
        _wait(futures, context.interruption)
        return tuple(future.result() for future in futures)


def _wait(futures: Sequence[Future[Any]], interruption: Interruption) -> None:
    """Wait until they have ended; cancel what they run as soon as the run is to end."""
    while wait(futures, timeout=_CANCEL_AGAIN_S).not_done:
        if interruption.requested:
            interruption.cancel()


class _Checker:
    def __init__(self, free: SimpleQueue[RetryingSession], context: RunContext) -> None:
        self._free, self._events, self._interruption = free, context.events, context.interruption
        self._unreachable = threading.Event()  # the warehouse: it will not answer the other checks either
        self._rows: dict[Name, int] = {}  # of tables that are counted already

    def count(self, checks: Sequence[PlannedCheck]) -> None:
        """Count the tables, many in a statement. Where that fails, ``check`` counts each and reports why."""
        tables = [each.expectation.table for each in checks if each.counted and not each.view]
        try:
            with self._session() as session:
                for batch in (tables[n : n + _BATCH] for n in range(0, len(tables), _BATCH)):
                    row = session.fetch(rows_query(batch))[0]
                    self._rows |= {name: int(row[f"n{i}"]) for i, name in enumerate(batch) if f"n{i}" in row}
        except Unreachable:
            self._unreachable.set()
        except RlmError:
            pass  # one is missing, most likely

    def check(self, planned: PlannedCheck) -> TableCheck:
        with self._session() as session:
            result = self._checked(session, planned)
        self._events.emit(EventKind.CHECKED, result.table, rows=result.rows)
        return result

    @contextmanager
    def _session(self) -> Iterator[RetryingSession]:
        session = self._free.get()
        try:
            yield session
        finally:
            self._free.put(session)

    def _checked(self, session: RetryingSession, planned: PlannedCheck) -> TableCheck:
        expects = planned.expectation
        result = TableCheck(
            table=shown(expects.table),
            exists=True,
            view=planned.view,
            step=planned.step,
            key=expects.key,
            min_rows=expects.min_rows,
            rows=self._rows.get(expects.table),
        )
        checks = [partial(_count if planned.counted else _probe, session, expects.table)]
        checks += [partial(_check_key, session, expects.table)] if expects.key else []
        checks += [partial(_check_coverage, session, expects.table, rule) for rule in expects.covers]
        for check in checks:
            try:
                result = self._tried(result, check)
            except NotFound:
                return replace(result, exists=False)
        return result

    def _tried(self, result: TableCheck, check: Callable[[TableCheck], TableCheck]) -> TableCheck:
        """Make a check; return its result, or the reason why it could not be made."""
        try:
            if self._unreachable.is_set():
                return _failed(result, "the warehouse does not answer")
            self._interruption.check()
            return check(result)
        except InterruptedRunError:
            return _failed(result, "the run was interrupted")
        except NotFound as error:
            if result.rows is None:
                raise
            return _failed(result, classify(error).message)
        except RlmError as error:
            if isinstance(error, Unreachable):
                self._unreachable.set()
            interrupted = self._interruption.requested
            return _failed(result, "the run was interrupted" if interrupted else classify(error).message)


def _failed(result: TableCheck, reason: str) -> TableCheck:
    return replace(result, errors=(*result.errors, f"It could not be checked: {reason}"))


def _probe(session: RetryingSession, table: Name, result: TableCheck) -> TableCheck:
    """Raise NotFound if there is no such view; do not compute it."""
    session.fetch(f"SELECT 1 FROM {quoted(table)} LIMIT 0")
    return result


def _count(session: RetryingSession, table: Name, result: TableCheck) -> TableCheck:
    if result.rows is not None:
        return result
    row = session.fetch(f"SELECT (SELECT count(*) FROM {quoted(table)}) AS n")[0]
    return replace(result, rows=int(row["n"]))


def _check_key(session: RetryingSession, table: Name, result: TableCheck) -> TableCheck:
    row = session.fetch(key_query(table, result.key))[0]
    return replace(result, duplicates=int(row["n"]) - int(row["u"]))


def _check_coverage(
    session: RetryingSession, table: Name, rule: CoverageRule, result: TableCheck
) -> TableCheck:
    row = session.fetch(coverage_query(table, rule))[0]
    coverage = Coverage(
        table=shown(rule.table),
        on=rule.on,
        keys=int(row["all_keys"]),
        found=int(row["found_keys"]),
        wanted=rule.share,
    )
    return replace(result, coverage=(*result.coverage, coverage))

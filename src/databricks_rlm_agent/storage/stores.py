"""The run store (compare-and-set on ``run_state``) and the append-only ledgers."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from databricks_rlm_agent.attempts.records import EventRow, RequestRow, ResultRow
from databricks_rlm_agent.errors import (
    ConfigError,
    Conflict,
    InvalidData,
    Rejected,
    RunNotFound,
    Throttled,
    Unreachable,
)
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.retry import SAVES, RetryingSession, crash_pause_s
from databricks_rlm_agent.runs.budget import Budget
from databricks_rlm_agent.runs.capsule.capsule import Capsule
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.run import DamagedRun, Due, LastRequest, LastResult, Run, RunOutcome
from databricks_rlm_agent.storage import sql
from databricks_rlm_agent.storage.schema import (
    EPOCH,
    RowType,
    RunStateRow,
    columns,
    distinct,
    one_per_key,
    to_json,
)
from databricks_rlm_agent.values import Row, clip

# The executor's result counts more than what the controller had to conclude without one.
_PREFERENCE = {"executor": 0, "controller": 1}


class DeltaLedger:
    """Appends to and reads the ledgers."""

    def __init__(self, session: RetryingSession, namespace: Namespace) -> None:
        self._session, self._namespace = session, namespace

    def append(self, rows: Sequence[RequestRow] | Sequence[ResultRow] | Sequence[EventRow]) -> None:
        """Add rows of one table in one commit; rows whose key is there already are left out."""
        if not rows:
            return
        statement = sql.append(self._namespace, type(rows[0]))
        self._session.execute(statement, {"rows": to_json(distinct(rows))})

    def requests(self, run_id: str) -> list[Row]:
        """The submitted attempts of a run, in order."""
        return one_per_key(self._rows(RequestRow, run_id), RequestRow)

    def events(self, run_id: str) -> list[Row]:
        """The events of a run, in order."""
        return one_per_key(self._rows(EventRow, run_id), EventRow)

    def results(self, run_id: str) -> list[Row]:
        """One result per attempt of a run, in order; of two, the executor's."""
        return one_per_key(sorted(self._rows(ResultRow, run_id), key=_rank), ResultRow)

    def _rows(self, row_type: RowType, run_id: str) -> Sequence[Row]:
        return self._session.fetch(sql.by_key(self._namespace, row_type), {"value": run_id})


def _rank(row: Row) -> tuple[int, int, int, str]:
    return row["iter_n"], row["attempt"], _PREFERENCE.get(row["reported_by"], 2), str(row["status"])


log = logging.getLogger(__name__)
REASON_CHARS = 1_000


class DeltaRunStore:
    """Reads and changes runs. Every change names the version and the epoch that it was decided on.

    The stores of one process share ``writing``: where renewals and saves are slow they would else conflict
    with each other again and again, and no save would get through.
    """

    def __init__(
        self,
        session: RetryingSession,
        namespace: Namespace,
        *,
        look_after_s: float = 10.0,
        writing: threading.Lock | None = None,
    ) -> None:
        self._session, self._namespace = session, namespace
        self._look_after_s, self._writing = look_after_s, writing or threading.Lock()

    def insert(self, runs: Iterable[Run]) -> None:
        """Add new runs; one that exists already is left as it is."""
        rows = to_json(distinct([to_row(run) for run in runs]))
        self._change_surely(sql.append(self._namespace, RunStateRow), {"rows": rows})

    def get(self, run_id: str) -> Run:
        """One run; raise RunNotFound."""
        return from_row(self._row(run_id))

    def newest(self, *, limit: int) -> list[Run | DamagedRun]:
        """The newest runs first; one whose row cannot be read does not hide the others."""
        rows = self._session.fetch(sql.newest_runs(self._namespace), {"limit": limit})
        return [_run_or_damage(row) for row in one_per_key(rows, RunStateRow)]

    def unfinished(self, *, only: Sequence[str] = ()) -> int:
        """How many runs a controller still has work with, of all or of some."""
        return int(self._session.fetch(sql.unfinished(self._namespace), {"only": ",".join(only)})[0]["n"])

    def due(
        self, *, limit: int, gap_s: float, asked: Sequence[str] = (), only: Sequence[str] = ()
    ) -> list[Due]:
        """Runs that nobody holds and that have something to do; see ``ports.RunStore``."""
        values: dict[str, Any] = {"limit": limit, "gap_s": gap_s, "first_s": self._look_after_s}
        values |= {"asked": ",".join(asked), "only": ",".join(only)}
        with self._of_this_version():
            rows = self._session.fetch(sql.due(self._namespace), values)
        return [due_of(row) for row in one_per_key(rows, RunStateRow)]

    def claim(self, runs: Sequence[Run], *, owner: str, lease_s: float, write_id: str) -> list[Run]:
        """Take the leases that are still free, in one statement; return those won."""
        seen = json.dumps(
            [
                {"run_id": run.run_id, "version": run.version, "pause_us": _micros(crash_pause_s(run.lapses))}
                for run in runs
            ]
        )
        values = {"rows": seen, "owner": owner, "lease_us": _micros(lease_s), "write_id": write_id}
        # Lost or unknown: the read below settles which, and what was lost is due again later.
        with contextlib.suppress(Conflict, Unreachable, Throttled):
            changed = self._change(sql.claim(self._namespace), values)
            if changed == len(runs):  # all of them as they were seen: nothing is left to read
                return [_claimed(run, owner, write_id) for run in runs]
        won = self._written(write_id)
        return [_claimed(run, owner, write_id) for run in runs if run.run_id in won]

    def request_cancel(self, run_id: str, *, reason: str) -> bool:
        """Put the intent to cancel a run on record, whoever holds it; False if it has ended already."""
        values = {"run_id": run_id, "reason": clip(reason, REASON_CHARS)}
        self._change_surely(sql.request_cancel(self._namespace), values)
        return self._row(run_id)["cancel_reason"] is not None  # whatever else of the row can be read

    def children(self, run_id: str) -> list[Run]:
        """The child runs of a run, oldest first; of a damaged row, what can be read.

        Raises InvalidData where not even a row's state can be: nobody knows then whether that one has ended.
        """
        return [_child(row) for row in self._children([run_id])]

    def family(self, run_id: str) -> list[str]:
        """The ids of a run and of all runs below it: one query for each level."""
        found, level = [run_id], [run_id]
        while level := [row["run_id"] for row in self._children(level) if row["run_id"] not in found]:
            found += level
        return found

    def cancel_children(self, run_id: str, *, reason: str) -> None:
        """Put the intent to cancel the child runs of a run on record, in one statement."""
        values = {"run_id": run_id, "reason": clip(reason, REASON_CHARS)}
        self._change_surely(sql.request_cancel(self._namespace, key="parent_run_id"), values)

    def renew(self, *, owners: Sequence[str], lease_s: float) -> None:
        """Prolong all leases of these holders, in one statement."""
        values = {"owners": ",".join(owners), "lease_us": _micros(lease_s)}
        self._change_surely(sql.renew(self._namespace), values)

    def release(self, *, owners: Sequence[str]) -> None:
        """End all leases of these holders; the runs stay marked as interrupted."""
        self._change_surely(sql.release(self._namespace), {"owners": ",".join(owners)})

    def save(self, runs: Sequence[Run], *, write_id: str) -> set[str]:
        """Compare-and-set runs and release their leases; return the ids of those that were changed.

        A run that is missing from the answer was fenced: another epoch has taken it over.
        """
        values = {"rows": to_json(to_row(run) for run in runs), "write_id": write_id}

        def once() -> set[str]:
            try:
                changed = self._change(sql.save(self._namespace), values)
            except (Conflict, Unreachable, Throttled):
                if landed := self._written(write_id):
                    return landed
                raise  # nothing of ours landed: the same statement is safe to send again
            # The count spares a read, and a run that was claimed again before the read is not missed.
            return {run.run_id for run in runs} if changed == len(runs) else self._written(write_id)

        return self._session.repeated(once, SAVES)

    def _change(self, statement: str, values: Mapping[str, Any]) -> int | None:
        """Send a statement that changes rows, once. Not while waiting for the next try, others may go on."""
        with self._writing, self._of_this_version():
            return self._session.execute_once(statement, values)

    @contextlib.contextmanager
    def _of_this_version(self) -> Iterator[None]:
        """Say what to do where the table lacks a column of ours."""
        try:
            yield
        except Rejected as error:
            if "UNRESOLVED_COLUMN" not in error.what:
                raise
            raise ConfigError(
                "The table of runs was made by an earlier version.",
                where=self._namespace.table("run_state"),
                fix=f"Run `rlm-agent init`. ({error.what})",
            ) from None

    def _change_surely(self, statement: str, values: Mapping[str, Any]) -> int | None:
        """Send a statement that is safe to repeat, until it lands."""
        return self._session.repeated(lambda: self._change(statement, values))

    def _row(self, run_id: str) -> Row:
        rows = self._session.fetch(sql.by_key(self._namespace, RunStateRow), {"value": run_id})
        if not rows:
            raise RunNotFound(
                f"There is no run {run_id!r}.",
                where=self._namespace.table("run_state"),
                fix="`rlm-agent status` lists the runs.",
            )
        return one_per_key(rows, RunStateRow)[0]

    def _children(self, parents: Sequence[str]) -> list[Row]:
        rows = self._session.fetch(sql.children(self._namespace), {"parents": ",".join(parents)})
        return one_per_key(rows, RunStateRow)

    def _written(self, write_id: str) -> set[str]:
        rows = self._session.fetch(sql.written(self._namespace), {"write_id": write_id})
        return {row["run_id"] for row in rows}


def _micros(seconds: float) -> int:
    return int(seconds * 1_000_000)


def to_row(run: Run) -> RunStateRow:
    """The row of a run, with ``due_at`` as ``sql.save`` wants it."""
    values = {name: getattr(run, name) for name in columns(RunStateRow)} | {
        "fsm_state": str(run.fsm_state),
        "capsule": run.capsule.model_dump_json(),
        "budget": run.budget.model_dump_json(),
        "last_request": run.last_request and run.last_request.model_dump_json(),
        "last_result": run.last_result and run.last_result.model_dump_json(),
        "outcome": json.dumps(run.outcome.to_dict()),
        "due_at": None if run.pause_s is None else EPOCH + timedelta(seconds=run.pause_s),
    }
    return RunStateRow(**values)


def _load_outcome(text: str | None) -> RunOutcome:
    values = json.loads(text or "{}")
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise InvalidData("It is not a JSON object of texts.")
    return RunOutcome(**values)


# How the JSON columns are read, and the substitute for one that cannot be.
_PARTS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "capsule": (Capsule.parse, Capsule(objective="")),
    "budget": (Budget.parse, Budget()),
    "last_request": (lambda text: None if text is None else LastRequest.parse(text), None),
    "last_result": (lambda text: None if text is None else LastResult.parse(text), None),
    "outcome": (_load_outcome, RunOutcome()),
}


def from_row(row: Mapping[str, Any]) -> Run:
    """The run of a row; raise InvalidData if a part of it does not parse."""
    try:
        run, problem = _partly_read(row)
    except ValueError as error:  # not one of our states: nothing can be done with such a row
        problem = str(error)
    if problem is not None:
        raise InvalidData(f"The run's row does not parse: {problem}", where=f"run {row['run_id']}")
    return run


def _partly_read(row: Mapping[str, Any]) -> tuple[Run, str | None]:
    """The run of a row without the parts that cannot be read, and a description of these."""
    # A table of an earlier version has fewer columns.
    values: dict[str, Any] = {name: row.get(name) for name in columns(RunStateRow)}
    values["fsm_state"] = State(values["fsm_state"])
    missing = [name for name in _REQUIRED if values[name] is None]
    values |= {name: _REQUIRED[name] for name in missing}
    problems = [f"{name}: it is NULL" for name in missing]
    for name, (read, otherwise) in _PARTS.items():
        try:
            values[name] = read(values[name])
        except (InvalidData, ValueError, TypeError, RecursionError) as error:  # the last: nested too deeply
            problems.append(f"{name}: {error}")
            values[name] = otherwise
    return Run(**values), "; ".join(problems) or None


# What a row has to have besides its state, and the substitute where it has not.
_REQUIRED: dict[str, Any] = {
    **dict.fromkeys(("depth", "iter_n", "attempt", "lease_epoch", "version"), 0),
    **dict.fromkeys(("created_at", "updated_at"), EPOCH),
    "current_mode": "DEV",
}


def _child(row: Mapping[str, Any]) -> Run:
    try:
        return _partly_read(row)[0]
    except ValueError as error:
        raise InvalidData(
            f"The child run's row does not parse: {error}", where=f"run {row['run_id']}"
        ) from None


def due_of(row: Mapping[str, Any]) -> Due:
    """A due run. One whose row cannot be read goes on to its end, as if it were cancelled for that."""
    run, problem = _partly_read(row)
    if problem is not None:
        problem = f"The run's row does not parse: {problem}"
        log.error("run %s is ended: %s", run.run_id, problem)
        run = replace(run, cancel_reason=run.cancel_reason or problem)
    return Due(run=run, reported=row["reported_status"] is not None, problem=problem)


def _claimed(run: Run, owner: str, write_id: str) -> Run:
    """A run as a claim leaves it. The expiry is the warehouse's own and of no concern to the owner."""
    return replace(
        run,
        lease_owner=owner,
        lease_epoch=run.lease_epoch + 1,
        lease_expiry=None,
        version=run.version + 1,
        write_id=write_id,
    )


def _run_or_damage(row: Mapping[str, Any]) -> Run | DamagedRun:
    try:
        return from_row(row)
    except InvalidData as error:
        return DamagedRun(run_id=row["run_id"], problem=error.what)

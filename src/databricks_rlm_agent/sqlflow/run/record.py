"""What a workflow has done, in two Delta tables of its target schema: what ``--resume`` goes by.

Rows are only ever appended, ``seq`` orders those of a run: the last one of a step and iteration counts. A row
is written when its step, or iteration of a loop, is done, so a crash between a statement and its record makes
the step run again; what must not happen twice is noted before (``exactly``).

The first row of a run also names the process that it belongs to. Who goes on with a run puts itself there, in
one statement; it waits, reads the steps, and appends a row of its own with the next ``seq``. From there on
rows of others do not count, and rows are written only by who is named. A process finds out before every
statement: it asks when what it knew last is more than ``PROOF_S`` old. Who takes over waits as long, and so
sees all that the other put on record before a statement that it still sends.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from databricks_rlm_agent.errors import NotFound, Rejected, RlmError
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.sqlflow.run.interruption import TakenOverError
from databricks_rlm_agent.sqltext.names import Name, quoted
from databricks_rlm_agent.values import Clock, Row, Sleep

RUNS = "sql_workflow_runs"
STEPS = "sql_workflow_steps"
DONE = "done"
BEGUN = "begun"  # a note in a file; ``detail`` is the note
RUNNING = "running"
PROOF_S = 1.0
# Each row is a file of its own: without this reading them would cost more with every run that ever was.
_COMPACT = "'delta.autoOptimize.autoCompact' = 'true'"
_OF_THE_RUN = {"workflow_run_id", "seq", "owner"}
# All that was recorded before of a step, or of an iteration and those after it, counts no more: what it comes
# after has changed, or itself. STALE: that of the step, but not of its iterations.
VOID = "void"
STALE = "stale"
_RUN_COLUMNS = {
    "workflow_run_id": "STRING",
    "seq": "BIGINT",
    "workflow": "STRING",
    "status": "STRING",
    "started_at": "TIMESTAMP",
    "at": "TIMESTAMP",
    "report": "STRING",
    "owner": "STRING",
}
_STEP_COLUMNS = {
    "workflow_run_id": "STRING",
    "seq": "BIGINT",
    "step": "STRING",
    "iteration": "BIGINT",
    "status": "STRING",
    "file": "STRING",
    "sha256": "STRING",
    "started_at": "TIMESTAMP",
    "finished_at": "TIMESTAMP",
    "rows_affected": "BIGINT",
    "changed": "BIGINT",
    "detail": "STRING",
    "error": "STRING",
    "owner": "STRING",
}


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """A step (``iteration`` 0), or an iteration of one. ``detail`` is the measure of an iteration."""

    step: str
    iteration: int = 0
    status: str
    file: str
    sha256: str
    started_at: datetime
    finished_at: datetime
    rows_affected: int | None = None
    changed: int | None = None
    detail: Mapping[str, Any] | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """A run on record, and what was last said of it."""

    workflow_run_id: str
    started_at: datetime
    status: str


class Record(Protocol):
    """Where runs and their steps are recorded. What is lost to another process raises TakenOverError."""

    def newest(self, workflow: str) -> Earlier | None:
        """The newest run of a workflow."""

    def named(self, workflow_run_id: str) -> Earlier | None:
        """The run of that id."""

    def begin(self, workflow: str, workflow_run_id: str, started_at: datetime) -> Sequence[StepRow]:
        """A run begins, or is taken over; the rows of its steps so far."""

    def check(self, *, now: bool = False) -> None:
        """Raise TakenOverError if the run is another's; ``now``: whatever was known a moment ago."""

    def steps(self, rows: Sequence[StepRow]) -> None:
        """Append rows. When it returns they are durable."""

    def end(self, status: str, report: Mapping[str, Any]) -> None:
        """The run ends so."""


def this_process() -> str:
    """A name for this process that no other has, and that a person can find it by."""
    return f"{socket.gethostname()} process {os.getpid()} ({uuid.uuid4().hex[:8]})"


class DeltaRecord:
    """Implements Record. Safe to use from several threads; its sessions are its own, and outlive a cancel.

    ``prover``: a second session to ask in, so that who asks does not wait for what is being written.
    """

    def __init__(
        self,
        session: RetryingSession,
        place: Name,
        clock: Clock,
        *,
        prover: RetryingSession | None = None,
        owner: str | None = None,
        proof_s: float = PROOF_S,
        sleep: Sleep = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session, self._place, self._clock = session, place, clock
        self._prover = prover or session
        self._owner, self._proof_s = owner or this_process(), proof_s
        self._sleep, self._monotonic = sleep, monotonic
        self._lock = threading.Lock()
        self._seq = 0
        self._run: tuple[str, str, datetime] | None = None
        self._known = float("-inf")  # when it was last known that the run is ours

    def create(self) -> None:
        """Make the tables that are missing; the runs last: they are looked at."""
        for name, columns in ((STEPS, _STEP_COLUMNS), (RUNS, _RUN_COLUMNS)):
            listed = ", ".join(f"{column} {kind}" for column, kind in columns.items())
            self._session.execute(
                f"CREATE TABLE IF NOT EXISTS {self._table(name)} ({listed}) USING DELTA "
                f"TBLPROPERTIES ({_COMPACT})"
            )

    def newest(self, workflow: str) -> Earlier | None:
        """The newest run of a workflow."""
        return self._earlier("workflow = :workflow", {"workflow": workflow})

    def named(self, workflow_run_id: str) -> Earlier | None:
        """The run of that id."""
        return self._earlier("workflow_run_id = :run", {"run": workflow_run_id})

    def begin(self, workflow: str, workflow_run_id: str, started_at: datetime) -> Sequence[StepRow]:
        """A run begins, or is taken over; the rows of its steps so far."""
        self._run = (workflow, workflow_run_id, started_at)
        try:
            self._seize()
        except (NotFound, Rejected):  # a table of an earlier version
            self._widen()
            self._seize()
        runs = self._rows(RUNS)
        self._is_ours(runs)
        if len(runs) == 1 and runs[0]["report"] == self._begun():
            self._seq = 1
            return ()
        if max(runs, key=lambda row: int(row["seq"]))["status"] == RUNNING:
            self._sleep(self._proof_s)  # another may think for that long that it is still its own
            runs = self._rows(RUNS)
        steps = self._rows(STEPS)
        self._seq = max(int(row["seq"]) for row in (*runs, *steps))
        self._state(RUNNING, None)
        return tuple(_step_row(row) for row in steps if _counts(row, runs))

    def check(self, *, now: bool = False) -> None:
        """Raise TakenOverError if the run is another's; ``now``: whatever was known a moment ago."""
        if now or self._monotonic() - self._known > self._proof_s:
            asked = self._monotonic()
            self._is_ours(self._rows(RUNS, "seq = 1", "seq, owner", session=self._prover))
            self._known = asked

    def steps(self, rows: Sequence[StepRow]) -> None:
        """Append rows in one commit. A repeat after a lost answer may add them twice, read as once."""
        with self._lock:
            values = []
            for row in rows:
                fields = {**vars(row), "detail": json.dumps(row.detail) if row.detail is not None else None}
                values.append(self._numbered(fields))
            try:
                self._append(STEPS, _STEP_COLUMNS, values)
            except NotFound:  # somebody has dropped it, and left the other
                self.create()
                self._append(STEPS, _STEP_COLUMNS, values)

    def end(self, status: str, report: Mapping[str, Any]) -> None:
        """The run ends so."""
        self._state(status, json.dumps(report, default=str))

    def _state(self, status: str, report: str | None) -> None:
        assert self._run is not None
        with self._lock:
            row = {"workflow": self._run[0], "status": status, "started_at": self._run[2]}
            self._append(RUNS, _RUN_COLUMNS, [self._numbered(row | {"at": self._clock(), "report": report})])

    def _numbered(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        assert self._run is not None
        self._seq += 1
        return {**fields, "workflow_run_id": self._run[1], "seq": self._seq, "owner": self._owner}

    def _seize(self) -> None:
        """Put ourselves into the run's first row, or make that row. Who does so last has the run."""
        assert self._run is not None
        workflow, run, started_at = self._run
        self._session.execute(
            f"MERGE INTO {self._table(RUNS)} AS t USING (SELECT :run AS run, :owner AS owner) AS s "
            "ON t.workflow_run_id = s.run AND t.seq = 1 WHEN MATCHED THEN UPDATE SET owner = s.owner "
            "WHEN NOT MATCHED THEN INSERT (workflow_run_id, seq, workflow, status, started_at, at, report, "
            f"owner) VALUES (s.run, 1, :workflow, '{RUNNING}', CAST(:started AS TIMESTAMP), "
            "CAST(:now AS TIMESTAMP), :report, s.owner)",
            {
                "run": run,
                "owner": self._owner,
                "workflow": workflow,
                "started": _text(started_at),
                "now": _text(self._clock()),
                "report": self._begun(),
            },
        )
        self._known = self._monotonic()

    def _begun(self) -> str:
        return json.dumps({"begun_by": self._owner})

    def _is_ours(self, runs: Sequence[Row]) -> None:
        owners = [row["owner"] for row in runs if row["seq"] == 1]
        if self._owner not in owners:
            raise TakenOverError(str(next(iter(owners), None) or "another process"))

    def _rows(
        self, table: str, where: str = "true", columns: str = "*", *, session: RetryingSession | None = None
    ) -> Sequence[Row]:
        assert self._run is not None
        return (session or self._session).fetch(
            f"SELECT {columns} FROM {self._table(table)} WHERE workflow_run_id = :run AND {where} "
            "ORDER BY seq",
            {"run": self._run[1]},
        )

    def _earlier(self, where: str, parameters: Mapping[str, Any]) -> Earlier | None:
        try:
            found = self._session.fetch(
                f"SELECT workflow_run_id, started_at, status FROM {self._table(RUNS)} WHERE {where} "
                "ORDER BY started_at DESC, seq DESC LIMIT 1",
                parameters,
            )
        except NotFound:  # the first run here; only then a run waits for DDL
            self.create()
            return None
        return Earlier(**found[0]) if found else None

    def _widen(self) -> None:
        """Add the columns that tables of an earlier version lack; the runs last: they are looked at."""
        for name, columns in ((STEPS, _STEP_COLUMNS), (RUNS, _RUN_COLUMNS)):
            if missing := self._missing(name, columns):
                try:
                    self._session.execute(
                        f"ALTER TABLE {self._table(name)} ADD COLUMNS ({', '.join(missing)})"
                    )
                except RlmError:
                    if self._missing(name, columns):  # else another process has just done the same
                        raise

    def _missing(self, table: str, columns: Mapping[str, str]) -> list[str]:
        there = {row["col_name"] for row in self._session.fetch(f"DESCRIBE TABLE {self._table(table)}")}
        return [f"{column} {kind}" for column, kind in columns.items() if column not in there]

    def _append(self, table: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
        # One JSON parameter: the text of the statement does not grow with the rows, and NULLs need no type.
        shape = ", ".join(f"{c}: {'STRING' if k == 'TIMESTAMP' else k}" for c, k in columns.items())
        listed = ", ".join(f"CAST(r.{c} AS {k})" for c, k in columns.items())
        assert self._run is not None
        asked = self._monotonic()
        added = self._session.execute(
            f"INSERT INTO {self._table(table)} ({', '.join(columns)}) SELECT {listed} FROM "
            f"(SELECT explode(from_json(:rows, 'array<struct<{shape}>>')) AS r) WHERE EXISTS (SELECT 1 FROM "
            f"{self._table(RUNS)} WHERE workflow_run_id = :run AND seq = 1 AND owner = :owner)",
            {
                "rows": json.dumps([{**row} for row in rows], default=_text),
                "run": self._run[1],
                "owner": self._owner,
            },
        )
        if not added:  # none, or the warehouse does not say
            self.check(now=True)
        self._known = asked

    def _table(self, name: str) -> str:
        return quoted((*self._place, name))


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _counts(row: Row, runs: Sequence[Row]) -> bool:
    """Whether a row was written by the process that had the run then: late ones of earlier ones are not.

    Of two that took it over at once only the second wrote more than that.
    """
    taken = [each for each in runs if each["status"] == RUNNING and 1 < each["seq"] <= row["seq"]]
    last = max((each["seq"] for each in taken), default=None)
    return last is None or row["owner"] in [each["owner"] for each in taken if each["seq"] == last]


def _step_row(row: Row) -> StepRow:
    fields = {name: row[name] for name in _STEP_COLUMNS if name not in {*_OF_THE_RUN, "detail"}}
    return StepRow(**fields, detail=json.loads(row["detail"]) if row["detail"] else None)

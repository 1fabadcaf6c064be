"""Records runs and their steps in two Delta tables of the target schema, from which ``--resume`` goes on.

Rows are only ever appended, and ``seq`` orders those of a run: the last row of a step and iteration counts. A
row is written when its step, or iteration of a loop, is done, so after a crash between a statement and its
row the step runs again; what must not happen twice has a checkpoint before it (``exactly_once``).

The first row of a run also names the process that owns it; whoever takes the run over writes its own name
there, and a row with the next ``seq``. From then on rows of other processes do not count. Every process
checks before a statement that it still owns the run, if its last check is more than ``OWNER_CHECK_S`` old. A
new owner waits as long, and so sees all that the old one recorded before its last statement.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from databricks_rlm_agent.errors import NotFound, Rejected, RlmError
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.sqlflow.run.record import RUNNING, RecordedRun, StepRow
from databricks_rlm_agent.sqlflow.run.sessions import TakenOverError
from databricks_rlm_agent.sqltext.names import Name, quoted
from databricks_rlm_agent.values import Clock, Row, Sleep

RUNS = "sql_workflow_runs"
STEPS = "sql_workflow_steps"
OWNER_CHECK_S = 1.0

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
# The runs come last: a missing table of runs says that both are missing.
_TABLES = ((STEPS, _STEP_COLUMNS), (RUNS, _RUN_COLUMNS))

# Each row is a file of its own: without compaction reading costs more with every run that ever was.
_CREATE = (
    "CREATE TABLE IF NOT EXISTS {table} ({columns}) USING DELTA "
    "TBLPROPERTIES ('delta.autoOptimize.autoCompact' = 'true')"
)
_ADD_COLUMNS = "ALTER TABLE {table} ADD COLUMNS ({columns})"
_DESCRIBE = "DESCRIBE TABLE {table}"
_FIND_RUN = (
    "SELECT workflow_run_id, started_at, status FROM {table} WHERE {column} = :value "
    "ORDER BY started_at DESC, seq DESC LIMIT 1"
)
_FIND_RUN_IDS = (
    "SELECT workflow_run_id, max(started_at) AS at FROM {table} "
    "WHERE workflow = :workflow AND substr(workflow_run_id, 1, :length) = :run "
    "GROUP BY workflow_run_id ORDER BY at DESC"
)
_ROWS = "SELECT * FROM {table} WHERE workflow_run_id = :run ORDER BY seq"
_OWNER = "SELECT owner FROM {table} WHERE workflow_run_id = :run AND seq = 1"
# Writes the owner into the run's first row, or makes that row. Whoever does so last owns the run.
_TAKE_OWNERSHIP = (
    "MERGE INTO {table} AS t USING (SELECT :run AS run, :owner AS owner) AS s "
    "ON t.workflow_run_id = s.run AND t.seq = 1 WHEN MATCHED THEN UPDATE SET owner = s.owner "
    "WHEN NOT MATCHED THEN INSERT (workflow_run_id, seq, workflow, status, started_at, at, report, "
    f"owner) VALUES (s.run, 1, :workflow, '{RUNNING}', CAST(:started AS TIMESTAMP), "
    "CAST(:now AS TIMESTAMP), :report, s.owner)"
)
# One JSON parameter: the text of the statement does not grow with the rows, and NULLs need no type.
_APPEND = (
    "INSERT INTO {table} ({columns}) SELECT {values} FROM "
    "(SELECT explode(from_json(:rows, 'array<struct<{fields}>>')) AS r) WHERE EXISTS (SELECT 1 FROM "
    "{runs} WHERE workflow_run_id = :run AND seq = 1 AND owner = :owner)"
)


def process_name() -> str:
    """Return a name for this process that is unique and that a person can find it by."""
    return f"{socket.gethostname()} process {os.getpid()} ({uuid.uuid4().hex[:8]})"


def run_ids(session: RetryingSession, place: Name, *, workflow: str, prefix: str) -> list[str]:
    """Return the ids of a workflow's runs that begin with ``prefix``, the newest first."""
    parameters = {"workflow": workflow, "run": prefix, "length": len(prefix)}
    try:
        rows = session.fetch(_FIND_RUN_IDS.format(table=quoted((*place, RUNS))), parameters)
    except NotFound:  # the first workflow in this schema
        return []
    return [str(row["workflow_run_id"]) for row in rows]


class DeltaRecord:
    """Implements Record. Safe to use from several threads. Its sessions are not cancelled with the run.

    ``reader``: a second session for checks of the owner, which then need not wait for what is being written.
    """

    def __init__(
        self,
        session: RetryingSession,
        place: Name,
        clock: Clock,
        *,
        reader: RetryingSession | None = None,
        owner: str | None = None,
        owner_check_s: float = OWNER_CHECK_S,
        sleep: Sleep = time.sleep,
    ) -> None:
        self._session, self._place, self._clock = session, place, clock
        self._reader = reader or session
        self._owner, self._owner_check_s = owner or process_name(), owner_check_s
        self._sleep = sleep
        self._lock = threading.Lock()
        self._seq = 0
        self._run: tuple[str, str, datetime] | None = None
        self._owned_at = float("-inf")  # when the run was last known to be ours

    def create(self) -> None:
        """Create the tables that are missing."""
        for table, columns in _TABLES:
            listed = ", ".join(f"{column} {kind}" for column, kind in columns.items())
            self._session.execute(_CREATE.format(table=self._table(table), columns=listed))

    def find_run(self, workflow: str, workflow_run_id: str | None = None) -> RecordedRun | None:
        """Return the run with that id, or the newest run of a workflow."""
        column, value = ("workflow_run_id", workflow_run_id) if workflow_run_id else ("workflow", workflow)
        try:
            rows = self._session.fetch(
                _FIND_RUN.format(table=self._table(RUNS), column=column), {"value": value}
            )
        except NotFound:  # the first run here; no other run waits for DDL
            self.create()
            return None
        return RecordedRun(**rows[0]) if rows else None

    def begin(self, workflow: str, workflow_run_id: str, started_at: datetime) -> Sequence[StepRow]:
        """Begin a run, or take it over; return the rows of its steps so far."""
        self._run = (workflow, workflow_run_id, started_at)
        try:
            self._take_ownership()
        except (NotFound, Rejected):  # a table of an earlier version
            self._add_missing_columns()
            self._take_ownership()
        runs = self._rows(RUNS)
        self._check_owner([row["owner"] for row in runs if row["seq"] == 1])
        if len(runs) == 1 and runs[0]["report"] == self._begin_report():
            self._seq = 1
            return ()
        if max(runs, key=lambda row: int(row["seq"]))["status"] == RUNNING:
            self._sleep(self._owner_check_s)  # the old owner may go on for as long
            runs = self._rows(RUNS)
        steps = self._rows(STEPS)
        self._seq = max(int(row["seq"]) for row in (*runs, *steps))
        self._append_run(RUNNING, None)
        return tuple(_step_row(row) for row in steps if _written_by_owner(row, runs))

    def check_owner(self, *, now: bool = False) -> None:
        """Raise TakenOverError if another process owns the run; ``now``: even if that was just checked."""
        if now or time.monotonic() - self._owned_at > self._owner_check_s:
            asked_at = time.monotonic()
            rows = self._reader.fetch(_OWNER.format(table=self._table(RUNS)), {"run": self._run_id})
            self._check_owner([row["owner"] for row in rows])
            self._owned_at = asked_at

    def append(self, rows: Sequence[StepRow]) -> None:
        """Append rows in one commit. A repeat after a lost answer may add them twice; they count once."""
        with self._lock:
            numbered = []
            for row in rows:
                detail = json.dumps(row.detail) if row.detail is not None else None
                numbered.append(self._numbered({**vars(row), "detail": detail}))
            try:
                self._append(STEPS, _STEP_COLUMNS, numbered)
            except NotFound:  # somebody has dropped this table, and not the other one
                self.create()
                self._append(STEPS, _STEP_COLUMNS, numbered)

    def end(self, status: str, report: Mapping[str, Any]) -> None:
        """End the run with this status."""
        self._append_run(status, json.dumps(report, default=str))

    @property
    def _run_id(self) -> str:
        assert self._run is not None
        return self._run[1]

    def _append_run(self, status: str, report: str | None) -> None:
        assert self._run is not None
        with self._lock:
            row = {"workflow": self._run[0], "status": status, "started_at": self._run[2]}
            row |= {"at": self._clock(), "report": report}
            self._append(RUNS, _RUN_COLUMNS, [self._numbered(row)])

    def _numbered(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        self._seq += 1
        return {**fields, "workflow_run_id": self._run_id, "seq": self._seq, "owner": self._owner}

    def _take_ownership(self) -> None:
        assert self._run is not None
        workflow, run_id, started_at = self._run
        parameters = {
            "run": run_id,
            "owner": self._owner,
            "workflow": workflow,
            "started": _text(started_at),
            "now": _text(self._clock()),
            "report": self._begin_report(),
        }
        self._session.execute(_TAKE_OWNERSHIP.format(table=self._table(RUNS)), parameters)
        self._owned_at = time.monotonic()

    def _begin_report(self) -> str:
        """The report of a first row: it tells a run that we began from one that we have taken over."""
        return json.dumps({"begun_by": self._owner})

    def _check_owner(self, owners: Sequence[str]) -> None:
        if self._owner not in owners:
            raise TakenOverError(str(next(iter(owners), None) or "another process"))

    def _rows(self, table: str) -> Sequence[Row]:
        return self._session.fetch(_ROWS.format(table=self._table(table)), {"run": self._run_id})

    def _add_missing_columns(self) -> None:
        for table, columns in _TABLES:
            if missing := self._missing(table, columns):
                listed = ", ".join(missing)
                try:
                    self._session.execute(_ADD_COLUMNS.format(table=self._table(table), columns=listed))
                except RlmError:
                    if self._missing(table, columns):  # else another process has just added them
                        raise

    def _missing(self, table: str, columns: Mapping[str, str]) -> list[str]:
        described = self._session.fetch(_DESCRIBE.format(table=self._table(table)))
        existing = {row["col_name"] for row in described}
        return [f"{column} {kind}" for column, kind in columns.items() if column not in existing]

    def _append(self, table: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
        statement = _APPEND.format(
            table=self._table(table),
            columns=", ".join(columns),
            values=", ".join(f"CAST(r.{column} AS {kind})" for column, kind in columns.items()),
            fields=", ".join(
                f"{column}: {'STRING' if kind == 'TIMESTAMP' else kind}" for column, kind in columns.items()
            ),
            runs=self._table(RUNS),
        )
        encoded = json.dumps([{**row} for row in rows], default=_text)
        asked_at = time.monotonic()
        added = self._session.execute(statement, {"rows": encoded, "run": self._run_id, "owner": self._owner})
        if not added:  # none, or the warehouse does not say
            self.check_owner(now=True)
        self._owned_at = asked_at

    def _table(self, name: str) -> str:
        return quoted((*self._place, name))


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _written_by_owner(row: Row, runs: Sequence[Row]) -> bool:
    """Return whether the run's owner of that time wrote the row: late rows of earlier owners do not count.

    Of two processes that took it over at once, only the second wrote more than its row of the run.
    """
    takeovers = [each for each in runs if each["status"] == RUNNING and 1 < each["seq"] <= row["seq"]]
    last = max((each["seq"] for each in takeovers), default=None)
    return last is None or row["owner"] in [each["owner"] for each in takeovers if each["seq"] == last]


def _step_row(row: Row) -> StepRow:
    fields = {name: row[name] for name in StepRow.__dataclass_fields__}
    return StepRow(**{**fields, "detail": json.loads(row["detail"]) if row["detail"] else None})

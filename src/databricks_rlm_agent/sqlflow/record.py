"""What a workflow has done, in two Delta tables of its target schema: what ``--resume`` goes by.

Rows are only ever appended, ``seq`` orders those of a run: the last one of a step and iteration counts. A row
is written when its step, or iteration of a loop, is done, so a crash between a statement and its record makes
the step run again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Protocol

from databricks_rlm_agent.domain.workflow.names import Name, quoted
from databricks_rlm_agent.ports import Clock, Row
from databricks_rlm_agent.sqlflow.steady import SteadySession

RUNS = "sql_workflow_runs"
STEPS = "sql_workflow_steps"
DONE = "done"
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
    """A run on record."""

    workflow_run_id: str
    started_at: datetime
    rows: tuple[StepRow, ...]


class Record(Protocol):
    """Where runs and their steps are recorded."""

    def unfinished(self, workflow: str, workflow_run_id: str | None) -> Earlier | None:
        """The newest run of a workflow, or that one, if it has not succeeded."""

    def named(self, workflow_run_id: str) -> Earlier | None:
        """The run of that id, however it has ended."""

    def begin(self, workflow: str, workflow_run_id: str, started_at: datetime) -> None:
        """A run begins, or goes on."""

    def steps(self, rows: Sequence[StepRow]) -> None:
        """Append rows. When it returns they are durable."""

    def end(self, status: str, report: Mapping[str, Any]) -> None:
        """The run ends so."""


class DeltaRecord:
    """Implements Record. Safe to use from several threads; its session is its own, and outlives a cancel."""

    def __init__(self, session: SteadySession, place: Name, clock: Clock) -> None:
        self._session, self._place, self._clock = session, place, clock
        self._lock = threading.Lock()
        self._seq = 0
        self._run: tuple[str, str, datetime] | None = None

    def create(self) -> None:
        """Make the tables that are missing."""
        for name, columns in ((RUNS, _RUN_COLUMNS), (STEPS, _STEP_COLUMNS)):
            listed = ", ".join(f"{column} {kind}" for column, kind in columns.items())
            self._session.execute(f"CREATE TABLE IF NOT EXISTS {self._table(name)} ({listed}) USING DELTA")

    def unfinished(self, workflow: str, workflow_run_id: str | None) -> Earlier | None:
        """The newest run of a workflow, or that one, if it has not succeeded; its rows are gone on with."""
        found = self._newest(
            "workflow = :workflow AND (:run = '' OR workflow_run_id = :run)",
            {"workflow": workflow, "run": workflow_run_id or ""},
        )
        return self._earlier(found) if found and found["status"] != "succeeded" else None

    def named(self, workflow_run_id: str) -> Earlier | None:
        """The run of that id, however it has ended; its rows are gone on with."""
        found = self._newest("workflow_run_id = :run", {"run": workflow_run_id})
        return self._earlier(found) if found else None

    def _newest(self, where: str, parameters: Mapping[str, Any]) -> Row | None:
        found = self._session.fetch(
            f"SELECT workflow_run_id, started_at, status FROM {self._table(RUNS)} WHERE {where} "
            "ORDER BY started_at DESC, seq DESC LIMIT 1",
            parameters,
        )
        return found[0] if found else None

    def _earlier(self, found: Row) -> Earlier:
        run = str(found["workflow_run_id"])
        rows = self._session.fetch(
            f"SELECT * FROM {self._table(STEPS)} WHERE workflow_run_id = :run ORDER BY seq", {"run": run}
        )
        newest = self._session.fetch(
            f"SELECT max(seq) AS seq FROM {self._table(RUNS)} WHERE workflow_run_id = :run", {"run": run}
        )
        self._seq = max([int(newest[0]["seq"] or 0), *(int(row["seq"]) for row in rows)])
        return Earlier(
            workflow_run_id=run, started_at=found["started_at"], rows=tuple(_step_row(row) for row in rows)
        )

    def begin(self, workflow: str, workflow_run_id: str, started_at: datetime) -> None:
        """A run begins, or goes on."""
        self._run = (workflow, workflow_run_id, started_at)
        self._state("running", None)

    def steps(self, rows: Sequence[StepRow]) -> None:
        """Append rows in one commit. A repeat after a lost answer may add them twice, read as once."""
        assert self._run is not None
        with self._lock:
            values = []
            for row in rows:
                self._seq += 1
                fields = asdict(row) | {"workflow_run_id": self._run[1], "seq": self._seq}
                fields["detail"] = json.dumps(row.detail) if row.detail is not None else None
                values.append(fields)
            self._append(STEPS, _STEP_COLUMNS, values)

    def end(self, status: str, report: Mapping[str, Any]) -> None:
        """The run ends so."""
        self._state(status, json.dumps(report, default=str))

    def _state(self, status: str, report: str | None) -> None:
        assert self._run is not None
        workflow, run, started_at = self._run
        with self._lock:
            self._seq += 1
            row = {"workflow_run_id": run, "seq": self._seq, "workflow": workflow, "status": status}
            row |= {"started_at": started_at, "at": self._clock(), "report": report}
            self._append(RUNS, _RUN_COLUMNS, [row])

    def _append(self, table: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
        # One JSON parameter: the text of the statement does not grow with the rows, and NULLs need no type.
        shape = ", ".join(f"{c}: {'STRING' if k == 'TIMESTAMP' else k}" for c, k in columns.items())
        listed = ", ".join(f"CAST(r.{c} AS {k})" for c, k in columns.items())
        self._session.execute(
            f"INSERT INTO {self._table(table)} ({', '.join(columns)}) SELECT {listed} FROM "
            f"(SELECT explode(from_json(:rows, 'array<struct<{shape}>>')) AS r)",
            {"rows": json.dumps([{**row} for row in rows], default=_text)},
        )

    def _table(self, name: str) -> str:
        return quoted((*self._place, name))


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _step_row(row: Row) -> StepRow:
    fields = {name: row[name] for name in _STEP_COLUMNS if name not in {"workflow_run_id", "seq", "detail"}}
    return StepRow(**fields, detail=json.loads(row["detail"]) if row["detail"] else None)

"""A scripted engine, a record in memory, and plans made of texts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from databricks_rlm_agent.errors import Rejected, Unreachable
from databricks_rlm_agent.retry import WORKFLOWS
from databricks_rlm_agent.sqlflow.model import Loop, Need, Plan, SqlFile, Step
from databricks_rlm_agent.sqlflow.plan.files import sql_file
from databricks_rlm_agent.sqlflow.run.events import EventKind, WorkflowEvent
from databricks_rlm_agent.sqlflow.run.record import RecordedRun, StepRow
from databricks_rlm_agent.sqlflow.run.runner import Options, Runner
from databricks_rlm_agent.sqlflow.run.sessions import TakenOverError
from databricks_rlm_agent.sqltext.names import Name

WAIT_S = 120
PLACE = {"catalog": "main", "schema": "default"}


def file_of(name: str, text: str) -> SqlFile:
    return sql_file(name, text, **PLACE)


def step(name: str, text: str, *needs: str) -> Step:
    file = file_of(name, text)
    return Step(
        id=name,
        stage=file.stage,
        file=file,
        needs=tuple(Need(step=need, reason="test") for need in needs),
        reads=file.reads,
        writes=file.writes,
        makes=file.makes,
    )


def loop_step(name: str, texts: Sequence[str], *needs: str, **options: Any) -> Step:
    files = tuple(file_of(f"{name}_{n:02d}.sql", text) for n, text in enumerate(texts, start=1))
    alias: Name = ("main", "default", "loop_final")
    return Step(
        id=name,
        stage=files[0].stage,
        loop=Loop(files=files, alias=alias, catalog="main", schema="default", **options),
        needs=tuple(Need(step=need, reason="test") for need in needs),
        makes=(alias,),
    )


def plan(*steps: Step) -> Plan:
    return Plan(steps=steps)


class FakeSession:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine, self.alive = engine, True
        self.cancelled = threading.Event()
        self.closed = False
        self.ran: list[str] = []

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int | None:
        self.ran.append(sql)
        self._engine.ran.append(sql)
        return self._engine.on_execute(sql, self)

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Mapping[str, Any]]:
        self._engine.asked.append(sql)
        if sql.startswith("DESCRIBE HISTORY"):
            return self._engine.histories(sql)
        return self._engine.on_fetch(sql)

    def cancel(self) -> None:
        self.cancelled.set()

    def close(self) -> None:
        self.closed = True

    def lose(self) -> Unreachable:
        self.alive = False
        return Unreachable("The session is gone.")

    def until_cancelled(self) -> int:
        assert self.cancelled.wait(WAIT_S)
        raise Rejected("[CANCELED] Query was cancelled.")


class FakeEngine:
    def __init__(
        self,
        on_execute: Callable[[str, FakeSession], int | None] = lambda _sql, _session: 1,
        on_fetch: Callable[[str], Sequence[Mapping[str, Any]]] = lambda _sql: [{"n": 1}],
    ) -> None:
        self.on_execute, self.on_fetch = on_execute, on_fetch
        self.histories: Callable[[str], Sequence[Mapping[str, Any]]] = lambda _sql: []
        self.ran: list[str] = []
        self.asked: list[str] = []
        self.sessions: list[FakeSession] = []

    def session(self) -> FakeSession:
        self.sessions.append(FakeSession(self))
        return self.sessions[-1]


class MemoryRecord:
    def __init__(self) -> None:
        self.run: tuple[str, datetime] | None = None
        self.rows: list[StepRow] = []
        self.status: str | None = None
        self.taken_over = False
        self.before_write: Callable[[Sequence[StepRow]], None] = lambda _rows: None

    def find_run(self, workflow: str, workflow_run_id: str | None = None) -> RecordedRun | None:
        if self.run is None or workflow_run_id not in (None, self.run[0]):
            return None
        return RecordedRun(workflow_run_id=self.run[0], started_at=self.run[1], status=self.status or "")

    def begin(self, workflow: str, workflow_run_id: str, started_at: datetime) -> Sequence[StepRow]:
        if self.run is None or workflow_run_id != self.run[0]:
            self.rows = []
        self.run, self.status = (workflow_run_id, started_at), "running"
        return tuple(self.rows)

    def check_owner(self) -> None:
        if self.taken_over:
            raise TakenOverError("another process")

    def append(self, rows: Sequence[StepRow]) -> None:
        self.before_write(rows)
        self.check_owner()
        self.rows += rows

    def end(self, status: str, report: Mapping[str, Any]) -> None:
        self.status = status

    def done(self) -> list[str]:
        return [f"{row.step}#{row.iteration}" for row in self.rows if row.status == "done"]


class EventRecorder:
    def __init__(self, hook: Callable[[WorkflowEvent], None] = lambda _event: None) -> None:
        self.events: list[WorkflowEvent] = []
        self._hook = hook

    def on(self, event: WorkflowEvent) -> None:
        self.events.append(event)
        self._hook(event)

    def of(self, kind: EventKind) -> list[WorkflowEvent]:
        return [event for event in self.events if event.kind is kind]


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def runner(made: Plan, engine: Any, record: Any | None = None, **options: Any) -> Runner:
    names = {"observer", "decide"} & set(options)
    kept = {name: options.pop(name) for name in names}
    return Runner(
        plan=made,
        workflow="test",
        engine=engine,
        record=record or MemoryRecord(),
        clock=Clock(),
        new_id=lambda prefix: f"{prefix}1",
        options=Options(**options),
        retry=replace(WORKFLOWS, first_wait_s=0.0),
        **kept,
    )

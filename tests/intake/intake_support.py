"""A desk to work at: a work table, our tables, and controllers that poll, on the real connector."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from fake_sql import FakeSession, repeating

from databricks_rlm_agent.intake.mapping import WorkMapping
from databricks_rlm_agent.intake.poll import Intake, IntakeReport
from databricks_rlm_agent.intake.table import DeltaWorkTable
from databricks_rlm_agent.layout import Namespace
from databricks_rlm_agent.retry import RetryingSession
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.run import Run, RunOutcome
from databricks_rlm_agent.storage.stores import DeltaLedger, DeltaRunStore
from databricks_rlm_agent.values import Row, SqlSession

START = datetime(2026, 1, 1, tzinfo=UTC)
JIRA_COLUMNS = {
    "id": "issue_key",
    "title": "summary",
    "description": "details",
    "priority": "prio",
    "status": "state",
    "assignee": "owner",
    "updated_at": "changed",
    "comment": "agent_note",
    "answer": "reply",
}
JIRA = {
    "columns": JIRA_COLUMNS,
    "open_statuses": ["To Do", "Reopened"],
    "assignees": ["robot@example.com"],
    "priorities": ["Highest", "High", "Low"],
    "write": {
        "started": "In Progress",
        "waiting": "Needs Info",
        "succeeded": "Done",
        "failed": "Blocked",
        "cancelled": "Dropped",
    },
    "lookback_s": 60,
}


class Killed(BaseException):
    """The controller's process is gone."""


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


@dataclass
class Gated(FakeSession):
    """A session whose ``fault`` is asked before and after every statement. ``log`` holds what was sent."""

    session: SqlSession
    fault: Callable[[int, bool], None] = lambda _number, _after: None
    log: list[str] = field(default_factory=list)

    def fetch(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Row]:
        return self._through(sql, lambda: self.session.fetch(sql, parameters))

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> int | None:
        return self._through(sql, lambda: self.session.execute(sql, parameters))

    def _through(self, sql: str, act: Callable[[], Any]) -> Any:
        number = len(self.log)
        self.log.append(sql)
        self.fault(number, False)
        value = act()
        self.fault(number, True)
        return value


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s

    def time(self) -> datetime:
        return datetime.now(UTC)  # the warehouse compares it with its own


@dataclass
class Controller:
    """One process that polls: all it knows is lost when it is dropped."""

    session: Gated
    intake: Intake

    def poll(self) -> IntakeReport:
        return self.intake.poll()


@dataclass
class Rig:
    """A schema with our tables and a Jira-like work table."""

    session: RetryingSession
    namespace: Namespace
    mapping: WorkMapping
    clock: Clock = field(default_factory=Clock)
    _ids: Any = field(default_factory=itertools.count)

    @property
    def store(self) -> DeltaRunStore:
        return DeltaRunStore(self.session, self.namespace)

    @property
    def ledger(self) -> DeltaLedger:
        return DeltaLedger(self.session, self.namespace)

    def controller(self, *, mapping: WorkMapping | None = None, name: str = "c1") -> Controller:
        gated = Gated(self.session)
        session = repeating(gated)
        table = DeltaWorkTable(
            session=session,
            namespace=self.namespace,
            mapping=mapping or self.mapping,
            monotonic=self.clock,
        )
        intake = Intake(
            table=table,
            runs=DeltaRunStore(session, self.namespace),
            ledger=DeltaLedger(session, self.namespace),
            clock=self.clock.time,
            new_id=lambda prefix: f"{prefix}{next(self._ids)}",
            actor=name,
            monotonic=self.clock,
        )
        return Controller(gated, intake)

    def put(self, key: str | None, changed: datetime | None, **values: Any) -> None:
        """Add a row to the work table."""
        row = {
            "summary": f"Do {key}",
            "details": "Count it.",
            "prio": "High",
            "state": "To Do",
            "owner": "robot@example.com",
            "agent_note": None,
            "reply": None,
        } | values
        row |= {"issue_key": key, "changed": changed}
        names = ", ".join(row)
        self.session.execute(
            f"INSERT INTO {self.mapping.table} ({names}) VALUES ({', '.join(f':{name}' for name in row)})",
            row,
        )

    def change(self, key: str, changed: datetime | None = None, **values: Any) -> None:
        """Somebody edits a row; without ``changed`` its updated_at stays."""
        values |= {"changed": changed} if changed else {}
        sets = ", ".join(f"{name} = :{name}" for name in values)
        self.session.execute(
            f"UPDATE {self.mapping.table} SET {sets} WHERE issue_key = :key", values | {"key": key}
        )

    def row(self, key: str) -> Row:
        return self.session.fetch(f"SELECT * FROM {self.mapping.table} WHERE issue_key = :key", {"key": key})[
            0
        ]

    def runs(self, key: str | None = None) -> list[Run]:
        """The runs of an item in the order of their revisions."""
        found = [run for run in self.store.newest(limit=10_000) if key is None or run.item_id == key]
        return sorted(found, key=lambda run: (run.item_id or "", run.created_at, run.run_id))

    def run(self, key: str) -> Run:
        (run,) = self.runs(key)
        return run

    def settle(self, run: Run, state: State, **outcome: str) -> None:
        """A controller brings a run to a state."""
        fresh = replace(self.store.get(run.run_id), fsm_state=state, outcome=RunOutcome(**outcome))
        assert self.store.save([fresh], write_id=f"settle{next(self._ids)}") == {run.run_id}

    def events(self, run: Run) -> list[str]:
        return [row["kind"] for row in self.ledger.events(run.run_id)]

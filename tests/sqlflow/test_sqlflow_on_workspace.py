"""Workflows on the local workspace, through the real connector: loops, resume at every boundary, errors."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from local_workspace.options import installed_engine
from sqlflow_rig import Clock, EventRecorder, MemoryRecord

from databricks_rlm_agent.databricks.sql import WarehouseEngine, WarehouseSession
from databricks_rlm_agent.errors import NotFound, Unreachable
from databricks_rlm_agent.retry import WORKFLOWS, RetryingSession
from databricks_rlm_agent.sqlflow.model import Loop, Plan, Step
from databricks_rlm_agent.sqlflow.plan.files import sql_file
from databricks_rlm_agent.sqlflow.run.delta_record import DeltaRecord
from databricks_rlm_agent.sqlflow.run.events import EventKind, WorkflowEvent
from databricks_rlm_agent.sqlflow.run.outcome import LoopEnd, RunStatus, StepStatus
from databricks_rlm_agent.sqlflow.run.runner import Options, Runner
from databricks_rlm_agent.sqltext.errors import Cause

EDGES = "CREATE OR REPLACE TABLE edges USING DELTA AS SELECT id AS a, id + 1 AS b FROM range({n})"
START = (
    "CREATE OR REPLACE TABLE label_iter_0 AS SELECT DISTINCT id, id AS label FROM "
    "(SELECT a AS id FROM edges UNION ALL SELECT b FROM edges)"
)
ITERATION = (
    "-- the least label; of all neighbours\n"
    "CREATE OR REPLACE TABLE label_iter_{n} AS\n"
    "SELECT l.id, least(min(l.label), coalesce(min(x.label), min(l.label))) AS label{extra}\n"
    "FROM label_iter_{m} l LEFT JOIN (SELECT a, b FROM edges UNION ALL SELECT b, a FROM edges) e\n"
    "ON e.a = l.id "
    "LEFT JOIN label_iter_{m} x ON x.id = e.b GROUP BY l.id"
)


def plan_of(schema: str, texts: dict[str, str], loop: dict[str, str], **options: Any) -> Plan:
    place = {"catalog": "main", "schema": schema}
    files = tuple(sql_file(name, text, **place) for name, text in loop.items())
    steps = [
        Step(id=name, stage=file.stage, file=file, reads=file.reads, writes=file.writes, makes=file.makes)
        for name, file in ((name, sql_file(name, text, **place)) for name, text in texts.items())
    ]
    if files:
        alias = ("main", schema, "label_final")
        made = Loop(files=files, alias=alias, **place, **options)  # type: ignore[arg-type]
        steps.append(Step(id="03_loop", stage=files[0].stage, loop=made, makes=(alias,), needs=()))
    steps.sort(key=lambda step: step.stage or 0)
    return Plan(steps=tuple(steps))


def components(schema: str, *, n: int = 4, extra: str = "", files: int = 2, **options: Any) -> Plan:
    loop = {
        f"03_label_loop_iteration_{i:02d}.sql": ITERATION.format(n=i, m=i - 1, extra=extra.format(n=i))
        for i in range(1, files + 1)
    }
    texts = {
        "01_edges.sql": EDGES.format(n=n) + ";\n" + "SELECT 'a;b'",
        "02_start.sql": START,
        "04_stats.sql": "CREATE OR REPLACE TABLE stats AS "
        "SELECT label, count(*) AS n FROM label_final GROUP BY label",
    }
    return plan_of(schema, texts, loop, **options)


def record_of(engine: Any, schema: str) -> DeltaRecord:
    record = DeltaRecord(
        RetryingSession(engine.session, lambda _s: None), ("main", schema), Clock(), owner_check_s=0.0
    )
    record.create()
    return record


def runner(plan: Plan, engine: Any, schema: str, record: Any = None, **options: Any) -> Runner:
    kept = {name: options.pop(name) for name in {"observer", "decide"} & set(options)}
    return Runner(
        plan=plan,
        workflow="test",
        engine=engine,
        record=record or record_of(engine, schema),
        clock=Clock(),
        new_id=lambda prefix: f"{prefix}1",
        options=Options(**options),
        retry=replace(WORKFLOWS, first_wait_s=0.0),
        **kept,
    )


def tables(session: WarehouseSession) -> dict[str, list[Any]]:
    names = [row["tableName"] for row in session.fetch("SHOW TABLES")]
    mine = [name for name in names if not name.startswith("sql_workflow_")]
    return {name: sorted(map(repr, session.fetch(f"SELECT * FROM {name}"))) for name in mine}


def test_a_workflow_with_a_loop(engine: WarehouseEngine, session: WarehouseSession, schema: str) -> None:
    watcher = EventRecorder()
    report = runner(components(schema), engine, schema, observer=watcher, optimize=True).run()
    assert report.status is RunStatus.SUCCEEDED, report.next
    loop = next(step for step in report.steps if step.iterations)
    assert loop.end is LoopEnd.CONVERGED
    # a path of five: label 0 travels one node in an iteration; the first has the start table before it
    assert [measure.changed for measure in loop.iterations] == [4, 3, 2, 1, 0]
    assert session.fetch("SELECT * FROM stats") == [{"label": 0, "n": 5}]
    found = {table.table: table.rows for table in report.tables}
    assert found == {
        f"main.{schema}.{name}": n
        for name, n in {"edges": 4, "label_iter_0": 5, "label_final": 5, "stats": 1}.items()
    }
    assert [step.rows for step in report.steps] == [None] * 4  # CREATE TABLE … AS is answered without rows
    assert len(watcher.of(EventKind.OPTIMIZED)) == 4
    rows = session.fetch("SELECT step, iteration, status, changed FROM sql_workflow_steps ORDER BY seq")
    assert [(row["iteration"], row["changed"]) for row in rows if row["step"] == "03_loop"][:2] == [
        (1, 4),
        (2, 3),
    ]
    assert {row["status"] for row in rows} == {"done"}
    states = session.fetch("SELECT status, report FROM sql_workflow_runs ORDER BY seq")
    assert [row["status"] for row in states] == ["running", "succeeded"]
    assert '"label_final' in states[1]["report"] or "label_final" in states[1]["report"]


def test_columns_that_stamp_the_iteration_are_not_compared(engine: WarehouseEngine, schema: str) -> None:
    extra = ", {n} AS iteration, current_timestamp() AS updated_at, map('k', min(l.label)) AS m"
    watcher = EventRecorder()
    report = runner(components(schema, extra=extra), engine, schema, observer=watcher).run()
    assert report.status is RunStatus.SUCCEEDED, report.next
    notices = [event.text for event in watcher.of(EventKind.NOTICE)]
    assert sum("only stamps" in text for text in notices) == 2


class Killed(BaseException):
    """The process ends here."""


class Mortal:
    """An engine whose process dies after its n-th effect: a statement of a file, or rows on record."""

    def __init__(self, engine: WarehouseEngine, effects: int) -> None:
        self._engine, self.left = engine, effects

    def session(self) -> Any:
        return _MortalSession(self._engine.session(), self)


class _MortalSession:
    def __init__(self, session: WarehouseSession, life: Mortal) -> None:
        self._session, self._life = session, life

    def execute(self, sql: str, parameters: Any = None) -> Any:
        answer = self._session.execute(sql, parameters)
        if "sql_workflow_runs`" not in sql.partition("(")[0] and "IF NOT EXISTS" not in sql:
            self._life.left -= 1
            if self._life.left == 0:
                raise Killed
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


@pytest.mark.skipif(installed_engine() == "spark", reason="a thousand statements: half an hour on Spark")
def test_killed_after_every_effect_and_resumed_gives_the_same_tables(
    engine: WarehouseEngine, session: WarehouseSession, schema: str
) -> None:
    """One life after another: each dies before its step is on record, the next one just after that."""
    plan = components(schema, n=1)
    assert runner(plan, engine, schema, MemoryRecord()).run().status is RunStatus.SUCCEEDED
    wanted = tables(session)
    for name in wanted:
        session.execute(f"DROP TABLE {name}")
    deaths = 0
    while True:
        before = session.fetch("SHOW TABLES")
        try:
            report = runner(plan, Mortal(engine, 1 + deaths % 3), schema, resume=bool(before)).run()
            break
        except Killed:
            deaths += 1
            assert deaths < 40
    assert report.status is RunStatus.SUCCEEDED, report.next
    assert tables(session) == wanted
    assert deaths >= 8
    rows = session.fetch("SELECT DISTINCT workflow_run_id FROM sql_workflow_steps")
    assert len(rows) == 1


ONCE = {
    "01_add.sql": "INSERT INTO t VALUES (1); UPDATE t SET a = a + 1;"
    "MERGE INTO t USING (SELECT 9 AS b) s ON t.a = s.b WHEN NOT MATCHED THEN INSERT (a) VALUES (s.b)",
    "02_names.sql": "CREATE TABLE made AS SELECT * FROM t; ALTER TABLE made RENAME TO kept; DELETE FROM kept",
}


def test_killed_after_every_few_effects_and_nothing_happens_twice(
    engine: WarehouseEngine, session: WarehouseSession, schema: str
) -> None:
    """Three effects at least: a fence, a note, and the statement."""
    session.execute("CREATE TABLE t (a BIGINT)")
    plan, deaths = plan_of(schema, ONCE, {}), 0
    while True:
        try:
            report = runner(plan, Mortal(engine, 3 + deaths % 2), schema, resume=deaths > 0).run()
            break
        except Killed:
            deaths += 1
            assert deaths < 20
    assert report.status is RunStatus.SUCCEEDED, report.next
    assert deaths >= 4
    assert tables(session) == {"kept": [], "t": [repr({"a": 2}), repr({"a": 9})]}
    history = [row["operation"] for row in session.fetch("DESCRIBE HISTORY t")]
    assert [each for each in history if each != "SET TBLPROPERTIES"] == [
        "MERGE",
        "UPDATE",
        "WRITE",
        "CREATE TABLE",
    ]


@pytest.mark.parametrize(
    ("text", "kind", "line"),
    [
        ("SELECT 1;\n\nSELEC 2", Cause.SYNTAX, 3),
        ("SELECT * FROM nowhere", Cause.MISSING, 1),
        ("SELECT nothing FROM edges", Cause.MISSING, 1),
        ("SELECT 1 / 0", Cause.DATA, 1),
        ("CREATE TABLE edges (a INT)", Cause.EXISTS, 1),
    ],
)
def test_errors_of_statements(
    engine: WarehouseEngine, schema: str, text: str, kind: Cause, line: int
) -> None:
    plan = plan_of(schema, {"01_edges.sql": EDGES.format(n=2), "02_bad.sql": text}, {})
    report = runner(plan, engine, schema).run()
    problem = report.steps[1].problem
    assert problem is not None
    assert (problem.kind, problem.file, problem.line) == (kind, "02_bad.sql", line), problem
    assert report.exit_code == 1


def test_a_running_statement_is_cancelled(engine: WarehouseEngine, schema: str) -> None:
    # Some ten seconds, no more: the embedded engine goes on with what is cancelled.
    slow = "SELECT count(*) FROM range(100000) a CROSS JOIN range(30000) b WHERE a.id * b.id % 7 = 3"
    plan = plan_of(
        schema, {"01_edges.sql": EDGES.format(n=2), "02_slow.sql": slow, "03_c.sql": "SELECT 1"}, {}
    )
    made: list[Runner] = []

    def hook(event: WorkflowEvent) -> None:
        if event.kind is EventKind.STEP_STARTED and event.step == "02_slow.sql":
            threading.Timer(0.3, made[0].interrupt).start()

    made.append(runner(plan, engine, schema, observer=EventRecorder(hook)))
    report = made[0].run()
    assert report.status is RunStatus.INTERRUPTED
    assert [step.status for step in report.steps] == [
        StepStatus.DONE,
        StepStatus.INTERRUPTED,
        StepStatus.NOT_RUN,
    ]


def test_a_session_that_is_closed_stays_closed(session: WarehouseSession) -> None:
    session.execute("CREATE TABLE t (id BIGINT)")
    assert session.execute("INSERT INTO t SELECT id FROM range(3)") == 3
    assert session.execute("SELECT 1") is None
    with pytest.raises(NotFound):
        session.execute("SELECT * FROM nowhere")
    assert session.alive
    session.close()
    with pytest.raises(Unreachable):
        session.fetch("SELECT 1")

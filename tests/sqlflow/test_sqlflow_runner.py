"""The runner with a scripted engine: order, parallelism, failures, interruption, resume."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from sqlflow_rig import (
    WAIT_S,
    EventRecorder,
    FakeEngine,
    FakeSession,
    MemoryRecord,
    file_of,
    loop_step,
    plan,
    runner,
    step,
)

from databricks_rlm_agent.errors import Conflict, Rejected, Throttled, Unreachable
from databricks_rlm_agent.sqlflow.run.checkpoints import required_checkpoints
from databricks_rlm_agent.sqlflow.run.events import EventKind, WorkflowEvent
from databricks_rlm_agent.sqlflow.run.outcome import LoopEnd, RunStatus, StepOutcome, StepStatus
from databricks_rlm_agent.sqlflow.run.record import StepRow
from databricks_rlm_agent.sqlflow.run.runner import FailureDecision, go_on
from databricks_rlm_agent.sqltext.errors import Cause


def make(table: str, source: str = "src") -> str:
    return f"CREATE OR REPLACE TABLE {table} AS SELECT * FROM {source}"


def statuses(report: Any) -> dict[str, StepStatus]:
    return {outcome.id: outcome.status for outcome in report.steps}


def test_the_steps_of_a_stage_run_at_the_same_time_and_stages_one_after_another() -> None:
    together = threading.Barrier(3)

    def execute(sql: str, _session: FakeSession) -> int:
        if "s1" in sql:
            together.wait(WAIT_S)  # breaks unless all three are there at once
        return 5

    engine = FakeEngine(execute)
    made = plan(*(step(f"01_{x}.sql", make(f"s1_{x}")) for x in "abc"), step("02_d.sql", make("s2_d")))
    report = runner(made, engine, max_parallel=3).run()
    assert report.status is RunStatus.SUCCEEDED
    assert "s2_d" in engine.ran[-1]
    assert [outcome.rows for outcome in report.steps] == [5, 5, 5, 5]
    assert [table.table for table in report.tables][-1] == "main.default.s2_d"


def test_never_more_at_once_than_allowed_and_a_need_is_waited_for() -> None:
    inside: list[str] = []
    most: list[int] = []

    def execute(sql: str, _session: FakeSession) -> int:
        inside.append(sql)
        most.append(len(inside))
        inside.remove(sql)
        return 1

    engine = FakeEngine(execute)
    made = plan(
        step("01_a.sql", make("a")), step("01_b.sql", make("b", "a"), "01_a.sql"), step("01_c.sql", make("c"))
    )
    assert runner(made, engine, max_parallel=1).run().status is RunStatus.SUCCEEDED
    assert max(most) == 1
    assert engine.ran.index(make("a")) < engine.ran.index(make("b", "a"))


def test_the_statements_of_a_file_run_in_order_in_one_session() -> None:
    engine = FakeEngine()
    texts = ["USE SCHEMA x", "CREATE TEMPORARY VIEW v AS SELECT 1 AS a", make("t", "v")]
    runner(plan(step("01_a.sql", ";\n".join(texts))), engine).run()
    assert engine.sessions[0].ran == texts
    assert all(session.closed for session in engine.sessions)


def failing(marker: str, error: Exception, times: int = 10**6) -> FakeEngine:
    left = [times]

    def execute(sql: str, _session: FakeSession) -> int:
        if marker in sql and left[0] > 0:
            left[0] -= 1
            raise error
        return 1

    return FakeEngine(execute)


FOUR = (
    step("01_a.sql", make("a")),
    step(
        "01_b.sql",
        "SELECT 1;\n" + make("bad"),
    ),
    step("02_c.sql", make("c", "bad"), "01_b.sql"),
    step("02_d.sql", make("d", "a"), "01_a.sql"),
)


def test_stop_starts_nothing_more_and_says_where_and_what_to_do() -> None:
    engine = failing("bad", Rejected("[PARSE_SYNTAX_ERROR] Syntax error at 'x'."))
    report = runner(plan(*FOUR), engine).run()
    assert statuses(report) == {
        "01_a.sql": StepStatus.DONE,
        "01_b.sql": StepStatus.FAILED,
        "02_c.sql": StepStatus.NOT_RUN,
        "02_d.sql": StepStatus.NOT_RUN,
    }
    problem = report.steps[1].problem
    assert problem is not None
    assert (problem.kind, problem.where, problem.statement) == (Cause.SYNTAX, "01_b.sql:2", make("bad"))
    assert (report.status, report.exit_code) == (RunStatus.FAILED, 1)
    assert "--resume" in report.next[-1]


def test_continue_runs_what_does_not_need_it() -> None:
    report = runner(plan(*FOUR), failing("bad", Rejected("no")), decide=go_on).run()
    assert list(statuses(report).values()) == [
        StepStatus.DONE,
        StepStatus.FAILED,
        StepStatus.SKIPPED,
        StepStatus.DONE,
    ]
    assert report.exit_code == 1


def test_a_person_may_ask_for_another_try() -> None:
    asked: list[StepOutcome] = []

    def decide(_step: Any, outcome: StepOutcome) -> FailureDecision:
        asked.append(outcome)
        return FailureDecision.RETRY

    report = runner(plan(*FOUR), failing("bad", Rejected("no"), times=2), decide=decide).run()
    assert (report.status, len(asked)) == (RunStatus.SUCCEEDED, 2)


@pytest.mark.parametrize("error", [Conflict("[DELTA_CONCURRENT_APPEND] x"), Throttled("slow", retry_after=0)])
def test_passing_faults_are_tried_again(error: Exception) -> None:
    watcher = EventRecorder()
    engine = failing("INSERT", error, times=2)
    report = runner(plan(step("01_a.sql", "INSERT INTO a VALUES (1)")), engine, observer=watcher).run()
    assert (report.status, len(engine.ran)) == (RunStatus.SUCCEEDED, 3)
    assert len(watcher.of(EventKind.RETRY)) == 2


def test_an_insert_whose_outcome_is_unknown_is_not_repeated() -> None:
    engine = failing("INSERT", Unreachable("No answer."))
    report = runner(plan(step("01_a.sql", "INSERT INTO a VALUES (1)")), engine).run()
    assert len(engine.ran) == 1
    problem = report.steps[0].problem
    assert problem is not None
    assert problem.outcome_unknown
    assert "not known" in problem.message


def test_a_lost_session_begins_the_file_again_where_that_is_safe() -> None:
    lost = [True]

    def execute(sql: str, session: FakeSession) -> int:
        if sql.startswith("INSERT") and lost:
            lost.clear()
            raise session.lose()
        return 1

    engine = FakeEngine(execute)
    texts = ["USE SCHEMA x", make("t"), "INSERT INTO t VALUES (1)"]
    report = runner(plan(step("01_a.sql", ";".join(texts))), engine).run()
    assert report.status is RunStatus.SUCCEEDED
    assert engine.ran == [*texts, *texts]


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        (make("t"), True),
        (f"{make('t')}; INSERT INTO t VALUES (1)", True),
        ("INSERT INTO t VALUES (1)", False),
        ("INSERT OVERWRITE t SELECT * FROM s", True),
        ("INSERT OVERWRITE t SELECT * FROM t", False),
        (f"{make('t', 's')}; {make('s', 't')}", False),
        ("UPDATE t SET a = a + 1", False),
        ("DROP TABLE IF EXISTS t; CREATE TABLE t (a INT); INSERT INTO t VALUES (1)", True),
        ("CREATE TABLE IF NOT EXISTS t (a INT); INSERT INTO t VALUES (1)", False),
    ],
)
def test_which_files_are_safe_to_begin_again(text: str, safe: bool) -> None:
    assert (not required_checkpoints(file_of("01_a.sql", text))) is safe


def test_a_failed_optimize_is_a_warning() -> None:
    engine = failing("OPTIMIZE", Rejected("[NOT_SUPPORTED] no"))
    report = runner(plan(step("01_a.sql", f"{make('a')}; OPTIMIZE a")), engine, optimize=True).run()
    assert report.status is RunStatus.SUCCEEDED
    assert len(report.steps[0].warnings) == 2


def test_only_tables_are_counted_and_optimized() -> None:
    text = "CREATE OR REPLACE FUNCTION f(x INT) RETURNS INT RETURN x; CREATE SCHEMA IF NOT EXISTS main.s;"
    text += f"CREATE OR REPLACE VIEW v AS SELECT 1 AS a; {make('a')}; {make('b')}; DROP TABLE b"
    engine = FakeEngine()
    report = runner(
        plan(step("01_a.sql", text), step("02_b.sql", "DROP TABLE c")), engine, optimize=True
    ).run()
    found = [(table.table, table.view, table.rows) for table in report.tables]
    assert found == [("main.default.a", False, 1), ("main.default.v", True, None)]
    assert [sql for sql in engine.ran if sql.startswith("OPTIMIZE")] == ["OPTIMIZE `main`.`default`.`a`"]


def test_an_interruption_cancels_what_runs_and_resume_goes_on() -> None:
    begun = threading.Event()
    slow = [True]

    def execute(sql: str, session: FakeSession) -> int:
        if "slow" in sql and slow:
            begun.set()
            session.until_cancelled()
        return 1

    engine, record = FakeEngine(execute), MemoryRecord()
    made = plan(step("01_a.sql", make("a")), step("02_b.sql", make("slow")), step("03_c.sql", make("c")))
    first = runner(made, engine, record)
    threading.Thread(target=lambda: begun.wait(WAIT_S) and first.interrupt(), daemon=True).start()
    report = first.run()
    assert (report.status, report.exit_code) == (RunStatus.INTERRUPTED, 130)
    assert list(statuses(report).values()) == [StepStatus.DONE, StepStatus.INTERRUPTED, StepStatus.NOT_RUN]
    assert record.status == "interrupted"
    slow.clear()
    again = runner(made, engine, record, resume=True).run()
    assert list(statuses(again).values()) == [StepStatus.KEPT, StepStatus.DONE, StepStatus.DONE]
    assert again.workflow_run_id == report.workflow_run_id


class Graph:
    """Tables of a loop as one number each: the engine changes rows until it is as low as it gets."""

    def __init__(self, changed: Sequence[int | None], states: Sequence[str] | None = None) -> None:
        self.changed, self.states = list(changed), states
        self.measured = 0

    def fetch(self, sql: str) -> list[dict[str, Any]]:
        if sql.startswith("DESCRIBE"):
            return [{"col_name": "id", "data_type": "bigint"}, {"col_name": "v", "data_type": "bigint"}]
        if " u0" in sql:
            return [{"n": 3, "u0": 3, "u1": 1, "u2": 3}]
        if sql.startswith("SELECT (SELECT count(*)"):
            return [{"n": 3, "u": 3}]
        self.measured += 1
        state = self.states[self.measured - 1] if self.states else str(self.measured)
        return [{"changed": self.changed[self.measured - 1], "n": 3, "h": state}]


def loop_texts(count: int) -> list[str]:
    return [make(f"iter_{n}", f"iter_{n - 1}") for n in range(1, count + 1)]


def test_a_loop_goes_on_beyond_its_files_until_nothing_changes() -> None:
    graph, watcher = Graph([3, 2, 1, 0]), EventRecorder()
    engine = FakeEngine(on_fetch=graph.fetch)
    made = plan(loop_step("02_loop", loop_texts(2)), step("03_use.sql", make("used", "loop_final")))
    report = runner(made, engine, observer=watcher).run()
    assert report.status is RunStatus.SUCCEEDED
    assert report.steps[0].end is LoopEnd.CONVERGED
    assert [measure.changed for measure in report.steps[0].iterations] == [3, 2, 1, 0]
    assert engine.ran[-2:] == [
        "CREATE OR REPLACE TABLE `main`.`default`.`loop_final` AS SELECT * FROM `main`.`default`.`iter_4`",
        make("used", "loop_final"),
    ]
    assert [event.changed for event in watcher.of(EventKind.ITERATION_DONE)] == [3, 2, 1, 0]
    assert any("Key found" in event.text for event in watcher.of(EventKind.NOTICE))


def test_a_loop_that_does_not_converge() -> None:
    engine = FakeEngine(on_fetch=Graph([9] * 9).fetch)
    report = runner(
        plan(loop_step("02_loop", loop_texts(2)), step("03_c.sql", make("c"), "02_loop")),
        engine,
        max_iterations=4,
    ).run()
    outcome = report.steps[0]
    assert (outcome.end, len(outcome.iterations)) == (LoopEnd.NOT_CONVERGED, 4)
    assert "loop_final" not in " ".join(engine.ran)
    assert report.steps[1].status is StepStatus.NOT_RUN


def test_a_person_may_accept_a_loop_that_has_not_converged() -> None:
    engine = FakeEngine(on_fetch=Graph([9] * 9).fetch)
    made = plan(loop_step("02_loop", loop_texts(2)), step("03_c.sql", make("c"), "02_loop"))
    report = runner(made, engine, max_iterations=2, decide=go_on).run()
    assert (report.status, report.steps[1].status) == (RunStatus.FAILED, StepStatus.DONE)
    assert "`loop_final` AS SELECT * FROM `main`.`default`.`iter_2`" in engine.ran[-2]


def test_a_loop_that_oscillates() -> None:
    graph = Graph([4, 4, 4, 4, 4], ["a", "b", "c", "b", "c"])
    report = runner(plan(loop_step("02_loop", loop_texts(2))), FakeEngine(on_fetch=graph.fetch)).run()
    outcome = report.steps[0]
    assert (outcome.end, len(outcome.iterations)) == (LoopEnd.OSCILLATING, 4)
    assert outcome.problem is not None
    assert "iteration 2 again" in outcome.problem.message


@pytest.mark.parametrize("changed", [None, -1, 0.5, "many", float("nan")])
def test_a_measure_that_fails_is_no_convergence(changed: Any) -> None:
    graph = Graph([3, changed, 0])
    report = runner(plan(loop_step("02_loop", loop_texts(2))), FakeEngine(on_fetch=graph.fetch)).run()
    outcome = report.steps[0]
    assert outcome.end is LoopEnd.MEASURE_FAILED
    assert outcome.problem is not None
    assert outcome.problem.kind is Cause.MEASURE
    assert report.exit_code == 1


def test_a_convergence_query_that_fails_is_no_convergence() -> None:
    def fetch(sql: str) -> list[dict[str, Any]]:
        if "from nowhere" in sql:
            raise Rejected("[UNRESOLVED_COLUMN] x")
        return [{"n": 1, "h": "1", "col_name": "id", "data_type": "bigint"}]

    made = plan(loop_step("02_loop", loop_texts(2), convergence="SELECT x from nowhere_{iteration}"))
    report = runner(made, FakeEngine(on_fetch=fetch)).run()
    assert report.steps[0].end is LoopEnd.MEASURE_FAILED


def test_an_iteration_that_fails_names_its_file() -> None:
    def execute(sql: str, _session: FakeSession) -> int:
        if "TABLE iter_2 " in sql:
            raise Rejected("[DIVIDE_BY_ZERO] x")
        return 1

    engine = FakeEngine(execute, Graph([3, 2, 0]).fetch)
    report = runner(plan(loop_step("02_loop", loop_texts(3))), engine).run()
    outcome = report.steps[0]
    assert outcome.end is LoopEnd.FAILED
    assert outcome.problem is not None
    assert (outcome.problem.file, outcome.problem.kind) == ("02_loop_02.sql", Cause.DATA)


class Killed(BaseException):
    """The process ends here."""


def everything() -> Any:
    return plan(
        step("01_a.sql", make("a")),
        loop_step("02_loop", loop_texts(2), "01_a.sql"),
        step("03_b.sql", make("b", "loop_final"), "02_loop"),
    )


@pytest.mark.parametrize("at", range(1, 8))
@pytest.mark.parametrize("after", [False, True])
def test_resume_goes_on_at_the_first_step_not_on_record(at: int, after: bool) -> None:
    record, graph = MemoryRecord(), Graph([3, 2, 0, 0, 0])
    left = [at]

    def kill(_rows: Sequence[StepRow]) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    record.before_write = kill
    if after:
        record.before_write = lambda _rows: None
        writing = record.append

        def write_then_die(rows: Sequence[StepRow]) -> None:
            writing(rows)
            kill(rows)

        record.append = write_then_die  # type: ignore[method-assign]
    engine = FakeEngine(on_fetch=graph.fetch)
    try:
        report = runner(everything(), engine, record).run()
        assert at > 6
        return
    except Killed:
        done = record.done()
    graph.measured = sum("loop#" in name and not name.endswith("#0") for name in done)
    again = FakeEngine(on_fetch=graph.fetch)
    report = runner(everything(), again, record, resume=True).run()
    assert report.status is RunStatus.SUCCEEDED
    kept = [outcome.id for outcome in report.steps if outcome.status is StepStatus.KEPT]
    assert kept == [name.partition("#")[0] for name in done if name.endswith("#0")]
    assert sorted(set(record.done())) == sorted(record.done()), "nothing on record was done again"
    assert [measure.n for measure in report.steps[1].iterations] == [1, 2, 3]


def test_a_run_of_a_given_id_begins_or_goes_on_however_it_has_ended() -> None:
    record, made = MemoryRecord(), plan(step("01_a.sql", make("a")), step("02_b.sql", make("bad", "a")))
    failed = runner(made, failing("bad", Rejected("no")), record, run_id="mine").run()
    assert (failed.workflow_run_id, failed.status) == ("mine", RunStatus.FAILED)
    for wanted in ([StepStatus.KEPT, StepStatus.DONE], [StepStatus.KEPT, StepStatus.KEPT]):
        report = runner(made, FakeEngine(), record, run_id="mine").run()
        assert (report.workflow_run_id, report.status) == ("mine", RunStatus.SUCCEEDED)
        assert list(statuses(report).values()) == wanted


def test_a_changed_file_and_all_after_it_run_again_even_if_it_changes_back() -> None:
    record = MemoryRecord()
    old = [step("01_a.sql", make("a")), step("02_b.sql", make("b", "a")), step("03_c.sql", make("bad", "b"))]
    new = [step("01_a.sql", make("a", "other")), *old[1:]]
    runner(plan(*old), failing("bad", Rejected("no")), record).run()
    # the new text is begun, and the process dies before it is done
    dying = FakeEngine(lambda _sql, _session: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        runner(plan(*new), dying, record, resume=True).run()
    report = runner(plan(*old), FakeEngine(), record, resume=True).run()
    assert list(statuses(report).values()) == [StepStatus.DONE] * 3


def test_a_step_that_cannot_be_recorded_has_failed() -> None:
    record = MemoryRecord()

    def refuse(_rows: Sequence[StepRow]) -> None:
        raise Rejected("[PERMISSION_DENIED] no")

    record.before_write = refuse
    report = runner(plan(step("01_a.sql", make("a"))), FakeEngine(), record).run()
    assert report.steps[0].problem is not None
    assert "could not be recorded" in report.steps[0].problem.message


def test_events_come_one_at_a_time_and_are_json() -> None:
    inside = threading.Lock()

    def hook(event: WorkflowEvent) -> None:
        assert inside.acquire(blocking=False)
        event.to_dict()
        inside.release()

    watcher = EventRecorder(hook)
    runner(plan(*FOUR), FakeEngine(), observer=watcher).run()
    kinds = [event.kind for event in watcher.events]
    assert (kinds[0], kinds[-1]) == (EventKind.RUN_STARTED, EventKind.RUN_FINISHED)

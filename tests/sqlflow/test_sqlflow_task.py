"""A workflow as a task: what of it reaches ``rlm``, however it ends."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlflow_rig import FakeEngine, FakeSession, MemoryRecord, runner

from databricks_rlm_agent.errors import NotFound, Rejected
from databricks_rlm_agent.sqlflow.handover import Order, content_hash, for_agent
from databricks_rlm_agent.sqlflow.run import events
from databricks_rlm_agent.sqlflow.run import workflow as library
from databricks_rlm_agent.sqlflow.run.runner import Options, Runner
from databricks_rlm_agent.sqlflow.run.workflow import run_task
from databricks_rlm_agent.sqltext import errors as sqlerrors

FILES = {
    "01_a.sql": "CREATE OR REPLACE TABLE a AS SELECT 1 AS x",
    "02_b.sql": "SELECT 1;\nINSERT INTO b SELECT 1",
}


class Rlm:
    """What a task reports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.value: Any = None
        self.metrics: dict[str, object] = {}
        self.tables: list[str] = []
        self.lines: list[str] = []

    def path(self, path: str) -> str:
        return str(self.folder / path.lstrip("/"))

    def finish(self, value: Any) -> None:
        self.value = json.loads(json.dumps(value))

    def metric(self, name: str, value: object) -> None:
        self.metrics[name] = value

    def table(self, name: str) -> str:
        self.tables.append(name)
        return name

    def log(self, message: object) -> None:
        self.lines.append(str(message))


@pytest.fixture
def rlm(tmp_path: Path) -> Rlm:
    return Rlm(tmp_path)


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """Workflows are recorded in memory; the options that they are run with."""
    seen: list[Options] = []
    record = MemoryRecord()

    @contextmanager
    def prepared(plan: Any, engine: Any, *, options: Options, **others: Any) -> Iterator[Runner]:
        seen.append(options)
        chosen = {name: others[name] for name in ("observer", "decide")}
        yield runner(plan, engine, record, run_id=options.run_id, max_parallel=options.max_parallel, **chosen)

    monkeypatch.setattr(library, "prepared", prepared)
    return seen


def ordered(rlm: Rlm, files: dict[str, str] = FILES, **changes: Any) -> Order:
    folder = rlm.folder / "w"
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    known = {"name": "flow", "folder": "/w", "files": [*files], "sha256": content_hash(files)}
    return Order.of(known | {"run_id": "rlm-r1-flow", "catalog": "main", "schema": "s"} | changes)


def engine(on_execute: Callable[[str, FakeSession], int | None] = lambda _sql, _session: 1) -> FakeEngine:
    def fetch(sql: str) -> list[dict[str, Any]]:
        if "sql_workflow_runs" in sql:
            raise NotFound("[TABLE_OR_VIEW_NOT_FOUND] none")
        return [{"n": 1}]

    return FakeEngine(on_execute, fetch)


def test_success_is_reported_by_value_metrics_and_tables(
    rlm: Rlm, options: list[Options], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_task(rlm, ordered(rlm, max_parallel=3), engine()) is None
    assert rlm.value["status"] == "succeeded"
    assert rlm.value["folder"] == "/w"
    assert (rlm.metrics["steps_done"], rlm.metrics["steps"]) == (2, 2)
    assert "✓ 01_a" in capsys.readouterr().out
    assert (options[0].run_id, options[0].max_parallel) == ("rlm-r1-flow", 3)


def test_an_error_is_reported_with_file_line_and_hint(rlm: Rlm, options: list[Options]) -> None:
    def fails(sql: str, _session: FakeSession) -> int:
        if "INSERT" in sql:
            raise Rejected("[DIVIDE_BY_ZERO] Division by zero.")
        return 1

    reason = run_task(rlm, ordered(rlm), engine(fails))
    assert reason is not None
    assert reason.startswith("test failed, 1 of 2 steps done. 02_b: 02_b.sql:2: [DIVIDE_BY_ZERO]")
    assert "Look at the data" in reason
    (problem,) = rlm.value["problems"]
    assert (problem["file"], problem["line"], problem["statement"]) == (
        "02_b.sql",
        2,
        "INSERT INTO b SELECT 1",
    )
    assert any("02_b.sql:2" in line for line in rlm.lines)
    assert rlm.value["not_done"] == ["02_b"]
    # The next call goes on: what was done stays.
    assert run_task(rlm, ordered(rlm), engine()) is None
    assert rlm.value["steps"] == {"all": 2, "done": 1, "kept": 1}
    assert options[0].run_id == options[1].run_id


def test_one_session_is_used_by_one_file_at_a_time(rlm: Rlm, options: list[Options]) -> None:
    assert run_task(rlm, ordered(rlm), engine(), alone="No more.") is None
    assert options[0].max_parallel == 1
    assert rlm.value["notices"][0] == "Files run one at a time: No more."


def test_files_that_were_changed_after_publishing_are_not_run(rlm: Rlm, options: list[Options]) -> None:
    order = ordered(rlm)
    (rlm.folder / "w" / "01_a.sql").write_text("DROP TABLE a")
    assert "changed after publishing" in str(run_task(rlm, order, engine()))
    (rlm.folder / "w" / "01_a.sql").unlink()
    assert "cannot be read" in str(run_task(rlm, order, engine()))
    assert options == []


@pytest.mark.parametrize(
    ("on_record", "expected"),
    [
        ([], "rlm-r1-flow"),
        (["rlm-r1-flow"], "rlm-r1-flow"),
        (["rlm-r1-flow-3", "rlm-r1-flow"], "rlm-r1-flow-3"),
        (["rlm-r1-flow_2", "rlm-r1-flow-x"], "rlm-r1-flow"),
    ],
)
def test_it_goes_on_with_its_newest_beginning(
    rlm: Rlm, options: list[Options], on_record: list[str], expected: str
) -> None:
    rows = [{"workflow_run_id": run} for run in on_record]
    known = FakeEngine(on_fetch=lambda sql: rows if "sql_workflow_runs" in sql else [{"n": 1}])
    run_task(rlm, ordered(rlm), known)
    assert options[0].run_id == expected
    run_task(rlm, ordered(rlm, restart=7), known)
    assert options[1].run_id == "rlm-r1-flow-7"


def test_what_ends_the_program_ends_the_workflow_in_order(
    rlm: Rlm, options: list[Options], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "END_TIMEOUT_S", 60.0)  # the machine may be busy

    class TimeUp(BaseException):
        """As the harness raises it in the program's own thread."""

    running = threading.Event()

    def hangs(sql: str, session: FakeSession) -> int:
        if "INSERT" in sql:
            running.set()
            return session.until_cancelled()
        return 1

    def interrupted(_signal: int, _frame: object) -> None:
        raise TimeUp

    def alarm() -> None:
        assert running.wait(120)
        for _ in range(2):  # the harness is not content with one
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            time.sleep(0.05)

    before = signal.signal(signal.SIGUSR1, interrupted)
    alarming = threading.Thread(target=alarm)
    alarming.start()
    try:
        with pytest.raises(TimeUp):
            run_task(rlm, ordered(rlm), engine(hangs))
    finally:
        with contextlib.suppress(TimeUp):  # the second may come as late as this
            alarming.join()
        alarming.join()
        signal.signal(signal.SIGUSR1, before)
    assert rlm.value["status"] == "interrupted"
    assert rlm.value["steps"] == {"all": 2, "done": 1, "interrupted": 1}


def test_a_report_is_never_too_large(rlm: Rlm, options: list[Options]) -> None:
    files = {
        f"{n:02d}_{'x' * 150}.sql": f"CREATE OR REPLACE TABLE t{'y' * 200}_{n} AS SELECT 1 AS a"
        for n in range(300)
    }
    assert run_task(rlm, ordered(rlm, files), engine()) is None
    assert len(json.dumps(rlm.value)) <= events.MAX_BYTES
    assert rlm.value["left_out"]["tables"] > 0


@given(st.text())
def test_an_agent_reads_of_no_option(text: str) -> None:
    assert "--resume" not in for_agent(text + " run again with --resume " + text)


def test_hints_name_the_action() -> None:
    hints = [rule.hint for rule in (*sqlerrors._RULES, sqlerrors._OTHER)]
    assert [hint for hint in map(for_agent, hints) if "--" in hint] == []
    assert for_agent("Ended; run again with --resume.") == "Ended; call run_sql_workflow again."
    assert for_agent("Then run with --resume.") == "Then call run_sql_workflow again."
    assert for_agent("Run with --resume later.") == "Call run_sql_workflow again later."

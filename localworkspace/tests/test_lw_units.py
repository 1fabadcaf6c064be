"""Pure parts: the log's bounds, what a failure says, decisions about tasks, rules."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_workspace.errors import ApiError
from local_workspace.faults import FaultControl, FaultRule
from local_workspace.http import Call
from local_workspace.jobs import libraries, model
from local_workspace.jobs.model import Ending, Run, TaskRun
from local_workspace.jobs.process import LogWriter, explain, read_log, started_at
from local_workspace.layout import inside
from local_workspace.server import _listen
from local_workspace.services import statements
from local_workspace.services.statements import Statements
from local_workspace.signed import Signer


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40)), st.integers(min_value=1, max_value=30))
def test_the_log_keeps_the_last_bytes(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes], keep: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    log = LogWriter(folder, keep)
    for chunk in chunks:
        log.write(chunk)
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 2 * keep
    log.close()
    whole = b"".join(chunks)
    assert read_log(folder, keep) == (whole[-keep:].decode("utf-8", "replace"), len(whole) > keep)


def test_the_error_of_a_failed_process() -> None:
    trace = (
        'Traceback (most recent call last):\n  File "x.py", line 1\n    f()\n    ~^^\nmod.Error: bad: worse\n'
    )
    assert explain(1, "noise\n" + trace + "after\n") == ("mod.Error: bad: worse", trace + "after\n")
    chained = trace + "\nDuring handling of the above exception, another exception occurred:\n\n" + trace
    assert explain(1, "x\n" + chained)[1] == chained
    assert explain(3, trace)[0] == "SystemExit: 3"
    assert explain(1, "no trace")[0] == "SystemExit: 1"
    assert explain(-11, trace)[0].endswith("SIGSEGV (exit code 139)")
    assert explain(1, "Traceback (most recent call last):")[0]


def ended(result: str) -> Ending:
    return model.SUCCESS if result == "SUCCESS" else model.failed("RUN_EXECUTION_ERROR", "m")


def run_of(*results: str, stop: str | None = None, leaf_depends: bool = True) -> Run:
    tasks = tuple(
        TaskRun(
            run_id=n,
            task_key=str(n),
            spec={"depends_on": [{"task_key": str(n - 1)}] if n and leaf_depends else []},
            life="TERMINATED",
            ending=ended(result),
        )
        for n, result in enumerate(results)
    )
    return Run(run_id=9, job_id=9, name="r", run_type="SUBMIT_RUN", settings={}, tasks=tasks, start_time=1)


def test_the_ending_of_a_run() -> None:
    assert model.run_ending(run_of("SUCCESS", "SUCCESS")) == model.SUCCESS
    assert model.run_ending(run_of("FAILED", "SUCCESS")).result == "SUCCESS_WITH_FAILURES"
    failed = model.run_ending(run_of("SUCCESS", "FAILED"))
    assert (failed.life, failed.result, failed.message) == (
        "INTERNAL_ERROR",
        "FAILED",
        "Task 1 failed with message: m.",
    )
    late = run_of("SUCCESS")  # completion may win over a cancel
    assert model.run_ending(replace(late, stop="cancel")) == model.SUCCESS
    run = run_of("FAILED", leaf_depends=False)
    assert Run.from_json(run.to_json()) == run


def test_an_excluded_task_does_not_fail_its_run() -> None:
    first, second = run_of("SUCCESS", "SUCCESS").tasks
    handler = replace(
        second, life="BLOCKED", ending=None, spec={**second.spec, "run_if": "AT_LEAST_ONE_FAILED"}
    )
    fate = model.unblocked(handler, {"0": first})
    assert fate == model.EXCLUDED
    run = replace(run_of("SUCCESS"), tasks=(first, replace(handler, life="SKIPPED", ending=fate)))
    assert model.run_ending(run) == model.SUCCESS
    third = replace(second, life="BLOCKED", ending=None, spec={"depends_on": [{"task_key": "1"}]})
    assert model.unblocked(third, {"1": run.tasks[1]}) == model.EXCLUDED


def test_rules_match_by_every_field() -> None:
    rule = FaultRule(action="drop", method="post", path="^/a", sql="UPDATE .* x")
    assert rule.matches("POST", "/a/b", "UPDATE t\n SET x")
    assert not rule.matches("GET", "/a/b", "UPDATE t SET x")
    assert not rule.matches("POST", "/b/a", "UPDATE t SET x")
    assert not rule.matches("POST", "/a", None)
    control = FaultControl()
    control.add([FaultRule(action="drop", skip=1, times=1), FaultRule(action="hold", times=1)])
    assert [hit.action if (hit := control.next_fault("GET", "/", None)) else None for _ in range(3)] == [
        "hold",
        "drop",
        None,
    ]


@given(st.text(max_size=30))
def test_no_path_leaves_its_folder(tmp_path_factory: pytest.TempPathFactory, path: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    try:
        found = inside(folder, path)
    except (ApiError, ValueError, OSError):
        return
    assert found.is_relative_to(folder)
    assert ".." not in found.parts


def test_the_listener_lets_asyncio_send_at_once() -> None:
    with closing(_listen(0)) as listener:
        assert listener.proto == socket.IPPROTO_TCP  # what asyncio asks before it sets TCP_NODELAY
        assert listener.getsockname()[0] == "127.0.0.1"


def test_the_start_time_identifies_a_process() -> None:
    assert started_at(os.getpid()) == started_at(os.getpid()) is not None
    assert started_at(2**22 + 1) is None


class Session:
    """A session of an engine whose `close` fails, and perhaps its statement too."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def execute(self, text: str, parameters: Any, **options: Any) -> Any:
        import pyarrow as pa

        if self._error:
            raise self._error
        return SimpleNamespace(table=pa.table({"n": [1]}))

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        raise ConnectionError("the engine is gone")


@pytest.mark.parametrize(
    ("error", "state"), [(None, "SUCCEEDED"), (ValueError("no such table"), "FAILED")], ids=str
)
def test_a_session_that_cannot_be_closed_does_not_change_the_outcome(
    error: Exception | None, state: str
) -> None:
    engine: Any = SimpleNamespace(session=lambda catalog, schema: Session(error))
    served = Statements(engine, Signer("", "token"))
    body = {"warehouse_id": "local", "statement": "SELECT 1"}
    started = served.execute(Call(body={**body, "wait_timeout": "5s"}))
    found = served.get(Call(path={"id": started["statement_id"]}))
    assert found["status"]["state"] == state
    if error:
        assert found["status"]["error"]["message"] == "no such table"
    else:
        assert found["result"]["data_array"] == [["1"]]


@pytest.mark.parametrize("error", [None, ValueError("no such table")], ids=str)
def test_a_statement_that_has_ended_says_with_what(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poll may come between any two assignments of the thread that runs the statement."""
    polled = []

    class Polled(statements._Statement):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if "give_up" in vars(self):  # the last field: all are there
                polled.append(self.response())

    monkeypatch.setattr(statements, "_Statement", Polled)
    engine: Any = SimpleNamespace(session=lambda catalog, schema: Session(error))
    served = Statements(engine, Signer("", "token"))
    served.execute(Call(body={"warehouse_id": "local", "statement": "SELECT 1", "wait_timeout": "5s"}))
    states = [answer["status"]["state"] for answer in polled]
    assert {"PENDING", "RUNNING", "FAILED" if error else "SUCCEEDED"} == set(states)
    for answer in polled:
        state = answer["status"]["state"]
        assert ("manifest" in answer, "result" in answer) == (state == "SUCCEEDED",) * 2
        assert ("error" in answer["status"]) == (state == "FAILED")


def test_the_sdk_is_imported_in_part_and_whole_when_asked_for() -> None:
    program = (
        "import sys\n"
        "from local_workspace.services import defer_sdk_package\n"
        "defer_sdk_package()\n"
        "from databricks.sdk.service import workspace\n"
        "assert workspace.GetSecretResponse(key='k').as_dict() == {'key': 'k'}\n"
        "loaded = {name.rpartition('.')[2] for name in sys.modules if 'databricks.sdk.service.' in name}\n"
        "assert loaded == {'_internal', 'workspace'}, loaded\n"
        "from databricks.sdk import WorkspaceClient\n"
        "assert WorkspaceClient.__module__ == 'databricks.sdk'\n"
        "import databricks.sdk\n"
        "assert databricks.sdk.AccountClient\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_tasks_that_begin_together_note_the_same_libraries(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def note(_: int) -> None:
        for _ in range(50):
            together.wait(30)
            libraries.write_requirements(tmp_path / "environment", ["a==1", "b"])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(note, range(8)))
    assert [path.name for path in (tmp_path / "environment").iterdir()] == ["requirements.txt"]
    assert (tmp_path / "environment" / "requirements.txt").read_text() == "a==1\nb\n"

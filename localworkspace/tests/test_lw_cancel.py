"""Cancelling runs: what the Jobs API says, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import InvalidParameterValue
from databricks.sdk.service import jobs
from local_workspace import WorkspaceInfo, WorkspaceOptions, spawn
from lw_support import Programs, eventually, sdk

Life = jobs.RunLifeCycleState
Result = jobs.RunResultState
Code = jobs.TerminationCodeCode

WAITS = "import time; print('up', flush=True); time.sleep(300)"
# A daemon: in a session, and so a process group, of its own; it also ignores SIGTERM.
DAEMON = (
    "import subprocess, sys, time\n"
    "code = 'import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(300)'\n"
    "child = subprocess.Popen([sys.executable, '-c', code], start_new_session=True, stdout=subprocess.PIPE)\n"
    "child.stdout.readline()\n"
    "print(child.pid, flush=True)\n"
)


def ending(run: jobs.Run) -> tuple[object, object, object, bool | None]:
    assert run.state
    assert run.status
    assert run.status.termination_details
    return (
        run.state.life_cycle_state,
        run.state.result_state,
        run.status.termination_details.code,
        run.state.user_cancelled_or_timedout,
    )


CANCELED = (Life.TERMINATED, Result.CANCELED, Code.USER_CANCELED, True)
SUCCEEDED = (Life.TERMINATED, Result.SUCCESS, Code.SUCCESS, False)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def printed(client: WorkspaceClient, run_id: int) -> str:
    task = (client.jobs.get_run(run_id).tasks or [])[0].run_id
    return str(eventually(lambda: client.jobs.get_run_output(task or 0).logs, lambda logs: bool(logs)))


def test_cancel_of_a_queued_run(client: WorkspaceClient, programs: Programs) -> None:
    busy = [programs.submit(WAITS) for _ in range(2)]  # as many as there may be at once
    for run_id in busy:
        programs.running(run_id)
    queued = programs.submit("raise SystemExit('it ran')", key="queued")
    client.jobs.cancel_run(queued)
    run = programs.finish(queued)
    assert ending(run) == CANCELED
    assert run.tasks
    assert run.tasks[0].state
    assert run.tasks[0].state.result_state == Result.CANCELED
    assert client.jobs.get_run_output(run.tasks[0].run_id or 0).logs == ""
    for run_id in busy:
        client.jobs.cancel_run(run_id)
        client.jobs.cancel_run(run_id)  # twice is once
    assert [ending(programs.finish(run_id)) for run_id in busy] == [CANCELED, CANCELED]


def test_cancel_of_a_run_that_waits_for_its_job(client: WorkspaceClient, programs: Programs) -> None:
    path = programs.put(WAITS)
    task = jobs.Task(task_key="t", spark_python_task=jobs.SparkPythonTask(python_file=path))
    job_id = client.jobs.create(name="one-at-a-time", tasks=[task]).job_id
    assert job_id
    first, second = (client.jobs.run_now(job_id).run_id for _ in range(2))
    assert first
    assert second
    client.jobs.cancel_run(second)
    assert ending(programs.finish(second)) == CANCELED
    client.jobs.cancel_all_runs(job_id=job_id)
    assert ending(programs.finish(first)) == CANCELED


def test_cancel_of_a_finished_or_unknown_run(client: WorkspaceClient, programs: Programs) -> None:
    good = programs.finish(programs.submit("print('done')"))
    bad = programs.finish(programs.submit("raise ValueError"))
    for run in (good, bad):
        assert run.run_id
        client.jobs.cancel_run(run.run_id)
        assert client.jobs.get_run(run.run_id).as_dict() == run.as_dict()
    with pytest.raises(InvalidParameterValue, match=r"Run 4711 does not exist\."):
        client.jobs.cancel_run(4711)


def test_cancel_by_a_task_run_right_after_the_submit(client: WorkspaceClient, programs: Programs) -> None:
    """The process may be about to start just then: the run is over only when that is dead."""
    for _ in range(5):
        run_id = programs.submit(WAITS)
        task = (client.jobs.get_run(run_id).tasks or [])[0].run_id
        client.jobs.cancel_run(task or 0)
        run = programs.finish(run_id)
        assert ending(run) == CANCELED


def test_cancel_races_with_completion(client: WorkspaceClient, programs: Programs) -> None:
    """Either wins, and what is said agrees with itself; a run that succeeded was not cancelled."""
    found = []
    for delay in (0.0, 0.01, 0.03):
        run_id = programs.submit(f"print('up', flush=True); import time; time.sleep({delay})")
        printed(client, run_id)
        client.jobs.cancel_run(run_id)
        found.append(ending(programs.finish(run_id)))
    assert set(found) <= {CANCELED, SUCCEEDED}


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="daemons are found through /proc")
@pytest.mark.parametrize("how", ["cancel", "timeout", "success"])
def test_daemons_end_with_their_run(client: WorkspaceClient, programs: Programs, how: str) -> None:
    code = DAEMON if how == "success" else DAEMON + "time.sleep(300)\n"
    run_id = programs.submit(code, timeout_seconds=2 if how == "timeout" else None)
    daemon = int(printed(client, run_id))
    assert alive(daemon) or how == "success"
    if how == "cancel":
        client.jobs.cancel_run(run_id)
    run = programs.finish(run_id)
    assert not alive(daemon)
    expected = {"cancel": Result.CANCELED, "timeout": Result.TIMEDOUT, "success": Result.SUCCESS}
    assert ending(run)[1] == expected[how]
    if how == "timeout":  # "canceled by the platform, for example because the maximum duration was exceeded"
        assert ending(run)[2] == Code.CANCELED


def test_a_statement_of_a_cancelled_run_changes_nothing_afterwards(
    client: WorkspaceClient, programs: Programs
) -> None:
    client.statement_execution.execute_statement("CREATE TABLE main.default.slow (id BIGINT)", "local")
    run_id = programs.submit(
        "from pyspark.sql import SparkSession\n"
        "spark = SparkSession.builder.getOrCreate()\n"
        "print('up', flush=True)\n"
        "spark.sql('INSERT INTO main.default.slow SELECT count(*) FROM range(100000) a, range(1000000) b "
        "WHERE a.id * b.id % 7 = 3').collect()\n"
    )
    printed(client, run_id)
    client.jobs.cancel_run(run_id)
    assert ending(programs.finish(run_id)) == CANCELED
    answer = client.statement_execution.execute_statement("SELECT count(*) FROM main.default.slow", "local")
    assert answer.result
    assert answer.result.data_array == [["0"]]


def test_cancel_is_faulted_and_logged(
    client: WorkspaceClient, programs: Programs, info: WorkspaceInfo, http: requests.Session
) -> None:
    run_id = programs.submit(WAITS)
    programs.running(run_id)
    rules = [
        {"path": "runs/cancel$", "action": "drop", "after_effect": False},
        {"path": "runs/cancel$", "action": "status", "status": 500, "after_effect": True, "skip": 1},
    ]
    http.post(f"{info.host}/_local/faults", json={"rules": rules}).raise_for_status()
    body = {"run_id": run_id}
    with pytest.raises(requests.ConnectionError):
        http.post(f"{info.host}/api/2.2/jobs/runs/cancel", json=body)
    state = client.jobs.get_run(run_id).state
    assert state
    assert state.life_cycle_state == Life.RUNNING  # dropped before the effect
    http.post(f"{info.host}/api/2.2/jobs/runs/cancel", json=body)
    assert http.post(f"{info.host}/api/2.2/jobs/runs/cancel", json=body).status_code in {200, 500}
    assert ending(programs.finish(run_id)) == CANCELED
    log = http.get(f"{info.host}/_local/requests").json()["requests"]
    seen = [(entry["status"], entry["fault"]) for entry in log if entry["path"].endswith("runs/cancel")][-3:]
    assert seen[0] == (0, "drop")
    assert (500, "status") in seen


def test_cancel_that_a_stopping_server_had_begun(tmp_path: Path) -> None:
    """The intent is on disk: the run does not come back as lost."""
    with spawn(WorkspaceOptions(root=tmp_path)) as server:
        client = sdk(server.info)
        client.workspace.mkdirs("/w")
        program = tmp_path / "Workspace" / "w" / "p.py"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(
            "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint(1, flush=True)\ntime.sleep(300)\n"
        )
        python = jobs.SparkPythonTask(python_file="/Workspace/w/p.py")
        run_id = client.jobs.submit(tasks=[jobs.SubmitTask(task_key="t", spark_python_task=python)]).run_id
        assert run_id
        printed(client, run_id)
        client.jobs.cancel_run(run_id)
        os.kill(server.info.pid, signal.SIGKILL)
    with spawn(WorkspaceOptions(root=tmp_path)) as server:
        assert ending(sdk(server.info).jobs.get_run(run_id)) == CANCELED

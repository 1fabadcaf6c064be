"""Job runs, by the real SDK."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import InvalidParameterValue
from databricks.sdk.service import compute, jobs
from local_workspace import WorkspaceInfo
from lw_support import Programs, eventually

Life = jobs.RunLifeCycleState
Result = jobs.RunResultState
Code = jobs.TerminationCodeCode
Kind = jobs.TerminationTypeType


def details(run: jobs.Run) -> tuple[object, object, object, object]:
    assert run.state
    assert run.status
    assert run.status.termination_details
    ended = run.status.termination_details
    return run.state.life_cycle_state, run.state.result_state, ended.code, ended.type


def test_a_program_runs_and_its_output_is_kept(programs: Programs) -> None:
    run_id = programs.submit(
        "import sys; print('hello', sys.argv[1:]); print('err', file=sys.stderr)", "a b", "c"
    )
    run = programs.finish(run_id)
    assert details(run) == (Life.TERMINATED, Result.SUCCESS, Code.SUCCESS, Kind.SUCCESS)
    assert run.run_type == jobs.RunType.SUBMIT_RUN
    assert run.tasks
    assert run.tasks[0].run_id != run_id
    assert run.end_time
    assert run.start_time
    assert run.end_time >= run.start_time
    output = programs.output(run)
    assert output.logs is not None
    assert "hello ['a b', 'c']" in output.logs
    assert "err" in output.logs
    assert not output.logs_truncated
    assert output.error is None


def test_a_program_that_raises(programs: Programs) -> None:
    run = programs.finish(
        programs.submit("try:\n  {}['x']\nexcept KeyError as e:\n  raise ValueError('no good') from e")
    )
    assert details(run) == (Life.INTERNAL_ERROR, Result.FAILED, Code.RUN_EXECUTION_ERROR, Kind.CLIENT_ERROR)
    assert run.state
    assert run.state.state_message == (
        "Task main failed with message: Workload failed, see run output for details."
    )
    assert run.tasks
    assert run.tasks[0].state
    assert run.tasks[0].state.life_cycle_state == Life.TERMINATED
    assert run.tasks[0].state.state_message == "Workload failed, see run output for details"
    output = programs.output(run)
    assert output.error == "ValueError: no good"
    assert output.error_trace is not None
    assert output.error_trace.startswith("Traceback")
    assert "KeyError" in output.error_trace


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL (exit code 137)"),
    ],
)
def test_the_error_of_other_failures(programs: Programs, code: str, error: str) -> None:
    run = programs.finish(programs.submit(code))
    assert details(run)[1:3] == (Result.FAILED, Code.RUN_EXECUTION_ERROR)
    assert error in (programs.output(run).error or "")


def test_the_states_of_a_run_after_its_submit(programs: Programs) -> None:
    run_id = programs.submit("import time; time.sleep(0.5)")
    run = programs.running(run_id)
    assert run.state
    assert run.state.result_state is None
    assert run.end_time == 0
    done = programs.finish(run_id)
    assert done.tasks
    assert (done.tasks[0].execution_duration or 0) >= 450


def test_a_timeout_ends_a_program_that_ignores_signals(programs: Programs, info: WorkspaceInfo) -> None:
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *a: sys.exit(0))\n"
        "child = subprocess.Popen(['sleep', '300'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(300)\n"
    )
    run = programs.finish(programs.submit(code, timeout_seconds=1))
    assert details(run)[1] == Result.TIMEDOUT
    assert run.state
    assert run.state.user_cancelled_or_timedout
    child = int((programs.output(run).logs or "").split()[0])
    eventually(lambda: Path(f"/proc/{child}").exists() and _state(child) != "Z", lambda alive: not alive)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def test_a_run_wide_timeout(client: WorkspaceClient, programs: Programs) -> None:
    run_id = client.jobs.submit(
        tasks=[programs.task("import time; time.sleep(300)")], timeout_seconds=1
    ).run_id
    assert run_id
    run = programs.finish(run_id)
    assert details(run)[:2] == (Life.TERMINATED, Result.TIMEDOUT)
    assert run.run_name == "Untitled"


def test_cancel_is_asynchronous(client: WorkspaceClient, programs: Programs) -> None:
    run_id = programs.submit(
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *a: (time.sleep(0.7), exit(0)))\n"
        "print('up', flush=True)\ntime.sleep(300)\n"
    )
    task = programs.running(run_id).tasks or []
    assert task[0].run_id
    eventually(lambda: client.jobs.get_run_output(task[0].run_id or 0).logs, lambda logs: logs == "up\n")
    client.jobs.cancel_run(run_id)
    eventually(
        lambda: client.jobs.get_run(run_id).state,
        lambda state: state is not None and state.life_cycle_state == Life.TERMINATING,
        timeout_s=1,
    )
    run = programs.finish(run_id)
    assert details(run)[:3] == (Life.TERMINATED, Result.CANCELED, Code.USER_CANCELED)
    client.jobs.cancel_run(run_id)  # no effect on a run that is over
    assert details(client.jobs.get_run(run_id))[1] == Result.CANCELED


def test_tasks_wait_for_their_dependencies_and_a_failure_skips_them(
    client: WorkspaceClient, programs: Programs
) -> None:
    after = [jobs.TaskDependency(task_key="first")]
    run_id = client.jobs.submit(
        tasks=[
            programs.task("print('first')", key="first"),
            programs.task("raise SystemExit(1)", key="second", depends_on=after),
            programs.task("print('third')", key="third", depends_on=[jobs.TaskDependency(task_key="second")]),
            programs.task(
                "print('always')",
                key="always",
                depends_on=[jobs.TaskDependency(task_key="second")],
                run_if=jobs.RunIf.ALL_DONE,
            ),
        ]
    ).run_id
    assert run_id
    run = programs.finish(run_id)
    results = {task.task_key: task.state.result_state for task in run.tasks or [] if task.state}
    assert results == {
        "first": Result.SUCCESS,
        "second": Result.FAILED,
        "third": Result.UPSTREAM_FAILED,
        "always": Result.SUCCESS,
    }
    assert details(run)[1] == Result.FAILED
    ends = {task.task_key: task for task in run.tasks or []}
    assert (ends["second"].start_time or 0) >= (ends["first"].end_time or 0)
    with pytest.raises(InvalidParameterValue, match="multiple tasks is not supported"):
        client.jobs.get_run_output(run_id)
    assert client.jobs.get_run_output(ends["always"].run_id or 0).logs == "always\n"


def test_more_runs_than_processes_are_queued(client: WorkspaceClient, programs: Programs) -> None:
    ids = [programs.submit("import time; time.sleep(0.6)") for _ in range(4)]
    states = [client.jobs.get_run(run_id).status for run_id in ids]
    assert jobs.RunLifecycleStateV2State.QUEUED in {state.state for state in states if state}
    for run_id in ids:
        assert details(programs.finish(run_id))[1] == Result.SUCCESS
    last = client.jobs.get_run(ids[-1])
    assert (last.queue_duration or 0) > 0


def test_long_output_keeps_its_end(programs: Programs, info: WorkspaceInfo) -> None:
    code = (
        "import sys\n"
        "block = (b'x' * 1023 + b'\\n') * 1024\n"
        "for n in range(60): sys.stdout.buffer.write(block)\n"
        "sys.stdout.buffer.write(b'\\xff\\xfe the end\\n')\n"
    )
    run = programs.finish(programs.submit(code))
    output = programs.output(run)
    assert output.logs_truncated
    assert output.logs is not None
    assert output.logs.endswith("\ufffd\ufffd the end\n")
    assert len(output.logs) == 5 * 1024 * 1024
    assert run.tasks
    folder = Path(info.root) / ".workspace/runs" / str(run.tasks[0].run_id)
    assert sum(path.stat().st_size for path in folder.rglob("*")) <= 10 * 1024 * 1024
    assert not (folder / "work").exists()


def test_the_environment_of_a_job_is_clean(
    client: WorkspaceClient, programs: Programs, info: WorkspaceInfo
) -> None:
    client.secrets.create_scope("env-scope")
    client.secrets.put_secret("env-scope", "k", string_value="s3cret")
    cluster = compute.ClusterSpec(
        spark_version="17.3.x-scala2.13",
        num_workers=0,
        spark_env_vars={
            "API_KEY": "{{secrets/env-scope/k}}",
            "PLAIN": "p",
            "DATABRICKS_RUNTIME_VERSION": "17.3",
        },
    )
    code = "import json, os; print(json.dumps([dict(os.environ), os.getcwd()]))"
    run = programs.finish(programs.submit(code, new_cluster=cluster))
    env, cwd = json.loads(programs.output(run).logs or "")
    assert env["API_KEY"] == "s3cret"
    assert env["PLAIN"] == "p"
    assert env["DATABRICKS_HOST"] == info.host
    assert env["DATABRICKS_TOKEN"] == info.token
    address, _, token = info.spark_connect.partition("authorization=")
    assert env["SPARK_REMOTE"].startswith(address)
    assert token not in env["SPARK_REMOTE"]  # a job has one of its own
    assert env["RLM_VOLUMES_ROOT"] == f"{info.root}/Volumes"
    assert "DATABRICKS_RUNTIME_VERSION" not in env
    assert not {name for name in env if name.startswith(("PYTEST", "GOOGLE", "OPENAI"))}
    assert cwd.startswith(f"{info.root}/.workspace/runs/")
    missing = compute.ClusterSpec(spark_env_vars={"K": "{{secrets/env-scope/none}}"})
    refused = programs.finish(programs.submit(code, new_cluster=missing))
    assert details(refused)[1:3] == (Result.FAILED, Code.INVALID_CLUSTER_REQUEST)
    assert "env-scope" in (programs.output(refused).error or "")


@pytest.mark.parametrize(
    ("task", "code"),
    [
        (jobs.SubmitTask(task_key="t"), Code.INVALID_RUN_CONFIGURATION),
        (
            jobs.SubmitTask(
                task_key="t",
                spark_python_task=jobs.SparkPythonTask(python_file="/Volumes/main/default/files/none.py"),
            ),
            Code.RESOURCE_NOT_FOUND,
        ),
        (
            jobs.SubmitTask(task_key="t", spark_python_task=jobs.SparkPythonTask(python_file="/etc/passwd")),
            Code.INVALID_RUN_CONFIGURATION,
        ),
        (
            jobs.SubmitTask(
                task_key="t",
                spark_python_task=jobs.SparkPythonTask(python_file="/Volumes/../.workspace/token"),
            ),
            Code.INVALID_RUN_CONFIGURATION,
        ),
        (
            jobs.SubmitTask(task_key="t", notebook_task=jobs.NotebookTask(notebook_path="/x")),
            Code.FEATURE_DISABLED,
        ),
    ],
)
def test_a_task_without_runnable_code_fails(
    client: WorkspaceClient, programs: Programs, task: jobs.SubmitTask, code: Code
) -> None:
    run_id = client.jobs.submit(tasks=[task]).run_id
    assert run_id
    run = programs.finish(run_id)
    assert details(run)[:3] == (Life.INTERNAL_ERROR, Result.FAILED, code)
    assert programs.output(run).error


def test_a_wheel_task_runs_an_entry_point(client: WorkspaceClient, programs: Programs) -> None:
    def wheel(**fields: object) -> jobs.Run:
        task = jobs.SubmitTask(task_key="w", python_wheel_task=jobs.PythonWheelTask(**fields))  # type: ignore[arg-type]
        run_id = client.jobs.submit(tasks=[task]).run_id
        assert run_id
        return programs.finish(run_id)

    good = wheel(package_name="anyio", entry_point="get_all_backends")
    assert details(good)[1] == Result.SUCCESS  # no such entry point: the function of that name
    metadata = wheel(package_name="uvicorn", entry_point="uvicorn", named_parameters={"no-such-option": "1"})
    assert "no-such-option" in (programs.output(metadata).logs or "")
    none = wheel(package_name="no_such_package", entry_point="main")
    assert "ModuleNotFoundError" in (programs.output(none).error or "")


def test_a_child_left_behind_does_not_keep_the_run_open(programs: Programs) -> None:
    code = "import subprocess; print(subprocess.Popen(['sleep', '300']).pid, flush=True)"
    run = programs.finish(programs.submit(code))
    assert details(run)[1] == Result.SUCCESS
    child = int((programs.output(run).logs or "").strip())
    eventually(lambda: _state(child), lambda state: state == "Z")
    assert os.getpid() != child


def test_a_job_has_spark_over_the_tables_of_the_workspace(
    client: WorkspaceClient, programs: Programs
) -> None:
    code = (
        "from pyspark.sql import SparkSession\n"
        "spark = SparkSession.builder.getOrCreate()\n"
        "spark.sql('CREATE TABLE main.default.by_job AS SELECT id FROM range(10)')\n"
        "print(spark.table('main.default.by_job').count())\n"
    )
    run = programs.finish(programs.submit(code))
    assert (programs.output(run).logs or "").splitlines()[-1:] == ["10"]
    answer = client.statement_execution.execute_statement("SELECT sum(id) FROM main.default.by_job", "local")
    assert answer.result
    assert answer.result.data_array == [["45"]]

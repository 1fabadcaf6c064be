"""Job runs, by the real SDK."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import BadRequest, InvalidParameterValue, ResourceDoesNotExist
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


def test_one_run_per_idempotency_token(client: WorkspaceClient, programs: Programs) -> None:
    task = programs.task("print('once')")
    token = "t" * 64
    found: list[int | None] = []

    def submit() -> None:
        found.append(client.jobs.submit(tasks=[task], idempotency_token=token).run_id)

    threads = [threading.Thread(target=submit) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert len(set(found)) == 1
    run_id = found[0]
    assert run_id
    programs.finish(run_id)
    submit()
    assert found[-1] == run_id
    client.jobs.delete_run(run_id)
    with pytest.raises(InvalidParameterValue, match="was deleted"):
        submit()
    with pytest.raises(InvalidParameterValue, match="64 characters"):
        client.jobs.submit(tasks=[task], idempotency_token="t" * 65)


def test_malformed_submits_are_refused(client: WorkspaceClient, programs: Programs) -> None:
    with pytest.raises(ResourceDoesNotExist, match=r"Run 12345 does not exist\."):
        client.jobs.get_run(12345)
    with pytest.raises(InvalidParameterValue, match="does not exist"):
        client.jobs.cancel_run(12345)
    with pytest.raises(InvalidParameterValue, match="At least one task"):
        client.jobs.submit(tasks=[])
    with pytest.raises(InvalidParameterValue, match="Duplicate task_key"):
        client.jobs.submit(tasks=[programs.task("1"), programs.task("1")])
    with pytest.raises(InvalidParameterValue, match="cycle"):
        client.jobs.submit(
            tasks=[programs.task("1", key="a", depends_on=[jobs.TaskDependency(task_key="a")])]
        )
    run_id = programs.submit("import time; time.sleep(300)")
    with pytest.raises(BadRequest, match="cancel it first"):
        client.jobs.delete_run(run_id)
    client.jobs.cancel_run(run_id)
    programs.finish(run_id)


def test_runs_are_listed_in_pages_newest_first(
    client: WorkspaceClient, programs: Programs, info: WorkspaceInfo, http: requests.Session
) -> None:
    first = programs.finish(programs.submit("1"))
    ids = [programs.submit("1") for _ in range(5)]
    for run_id in ids:
        programs.finish(run_id)
    listed = [run.run_id for run in client.jobs.list_runs(limit=2, start_time_from=first.start_time)]
    assert listed[:5] == ids[::-1]
    assert listed[5] == first.run_id
    assert len(set(listed)) == len(listed)
    assert not [run for run in client.jobs.list_runs(active_only=True) if run.run_id in ids]
    one = list(client.jobs.list_runs(job_id=first.job_id, expand_tasks=True))
    assert [run.run_id for run in one] == [first.run_id]
    assert one[0].tasks
    base = f"{info.host}/api/2.1/jobs/runs/list"
    page = http.get(base, params={"limit": 2, "start_time_from": first.start_time}).json()
    assert page["has_more"]
    assert "prev_page_token" not in page
    second = http.get(base, params={"limit": 2, "page_token": page["next_page_token"]}).json()
    back = http.get(base, params={"limit": 2, "page_token": second["prev_page_token"]}).json()
    assert [run["run_id"] for run in back["runs"]] == [run["run_id"] for run in page["runs"]]
    assert "runs" not in http.get(base, params={"job_id": 5}).json()
    assert http.get(base, params={"limit": 26}).status_code == 400
    assert http.get(base, params={"active_only": "true", "completed_only": "true"}).status_code == 400


def test_saved_jobs(client: WorkspaceClient, programs: Programs) -> None:
    path = programs.put("import sys, time; print(sys.argv[1]); time.sleep(0.4)")
    task = jobs.Task(
        task_key="t",
        spark_python_task=jobs.SparkPythonTask(python_file=path, parameters=["{{job.parameters.who}}"]),
    )
    parameters = [jobs.JobParameterDefinition(name="who", default="nobody")]
    job_id = client.jobs.create(name="greeter", tasks=[task], parameters=parameters).job_id
    assert job_id
    job = client.jobs.get(job_id)
    assert job.settings
    assert job.settings.name == "greeter"
    assert job.settings.tasks
    assert [item.job_id for item in client.jobs.list(name="GREETER")] == [job_id]
    started = client.jobs.run_now(job_id, idempotency_token="now", job_parameters={"who": "you"})
    again = client.jobs.run_now(job_id, idempotency_token="now")
    assert started.run_id == again.run_id
    assert started.run_id
    queued = client.jobs.run_now(job_id).run_id  # max_concurrent_runs is 1, and API 2.2 queues
    skipped = client.jobs.run_now(job_id, queue=jobs.QueueSettings(enabled=False)).run_id
    assert queued
    assert skipped
    assert details(programs.finish(skipped))[:2] == (Life.SKIPPED, Result.MAXIMUM_CONCURRENT_RUNS_REACHED)
    first, second = programs.finish(started.run_id), programs.finish(queued)
    assert programs.output(first).logs == "you\n"
    assert programs.output(second).logs == "nobody\n"
    assert first.run_type == jobs.RunType.JOB_RUN
    assert (second.number_in_job or 0) > (first.number_in_job or 0)
    assert second.tasks
    assert first.end_time
    assert (second.tasks[0].start_time or 0) >= first.end_time
    client.jobs.update(job_id, new_settings=jobs.JobSettings(name="renamed"))
    assert client.jobs.get(job_id).settings.name == "renamed"  # type: ignore[union-attr]
    client.jobs.delete(job_id)
    with pytest.raises(ResourceDoesNotExist, match="does not exist"):
        client.jobs.get(job_id)


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

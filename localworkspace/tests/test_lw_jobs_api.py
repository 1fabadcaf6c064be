"""The Jobs API around the runs: tokens, refusals, listings and saved jobs, by the real SDK."""

from __future__ import annotations

import threading

import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import BadRequest, InvalidParameterValue, ResourceDoesNotExist
from databricks.sdk.service import jobs
from local_workspace import WorkspaceInfo
from lw_support import Programs


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
    state = programs.finish(skipped).state
    assert state
    assert state.life_cycle_state == jobs.RunLifeCycleState.SKIPPED
    assert state.result_state == jobs.RunResultState.MAXIMUM_CONCURRENT_RUNS_REACHED
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


def test_a_job_whose_permissions_are_refused_is_not_made(client: WorkspaceClient) -> None:
    owners = [
        jobs.JobAccessControlRequest(user_name=name, permission_level=jobs.JobPermissionLevel.IS_OWNER)
        for name in ("one", "two")
    ]
    with pytest.raises(InvalidParameterValue, match="exactly one owner"):
        client.jobs.create(name="of two owners", access_control_list=owners)
    assert list(client.jobs.list(name="of two owners")) == []

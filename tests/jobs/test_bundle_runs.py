"""Both jobs of the bundle, created and run on the local workspace with the wheel that would be deployed."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.core import Config
from databricks.sdk.service.jobs import Run, RunLifecycleStateV2State
from local_workspace import WorkspaceInfo, WorkspaceOptions, spawn

from databricks_rlm_agent.app import App
from databricks_rlm_agent.runs.fsm import State
from databricks_rlm_agent.runs.run import new_run
from databricks_rlm_agent.settings import from_environment

Bundle = dict[str, Any]
SCRIPT = {
    "planner": [
        [{"call": "run_python", "args": {"code": "rlm.finish({'two': 1 + 1})", "purpose": "Add"}}],
        [{"call": "finish", "args": {"answer": "Two.", "evidence": "iteration 1"}}],
    ]
}
WHEEL = "/Volumes/main/rlm/artifacts/wheels"


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[WorkspaceInfo]:
    with spawn(WorkspaceOptions(root=tmp_path / "root")) as spawned:
        yield spawned.info


@pytest.fixture
def client(workspace: WorkspaceInfo) -> WorkspaceClient:
    config = Config(host=workspace.host, token=workspace.token, auth_type="pat", retry_timeout_seconds=60)
    return WorkspaceClient(config=config)


@pytest.fixture
def prod(bundle: Callable[..., Bundle], workspace: WorkspaceInfo, tmp_path: Path) -> Bundle:
    script = tmp_path / "script.json"
    script.write_text(json.dumps(SCRIPT))
    return bundle(
        "prod", warehouse_http_path=workspace.http_path, model=f"scripted:{script}", service_principal="p"
    )


@pytest.fixture
def app(prod: Bundle, workspace: WorkspaceInfo) -> Iterator[App]:
    app = App(
        settings=from_environment(_environment(prod)), environ={}, host=workspace.host, token=workspace.token
    )
    app.init()
    yield app
    app.close()


def test_the_deployed_jobs_do_their_work(
    prod: Bundle, app: App, client: WorkspaceClient, workspace: WorkspaceInfo, wheel: Path, root: Path
) -> None:
    _put_key(client, prod)
    control = prod["resources"]["jobs"]["control_plane"]
    client.files.upload(f"{WHEEL}/{wheel.name}", io.BytesIO(wheel.read_bytes()))
    control["tasks"][0]["libraries"][0] = {
        "whl": f"{WHEEL}/{wheel.name}"
    }  # the CLI does this for ../dist/*.whl
    run = new_run("What is one and one?", run_id="r1", clock=app.clock)
    app.store.insert([run])

    finished = _run_now(client, control, python_params=["--until-idle"])

    assert _code(finished) == "SUCCESS", _logs(client, finished)
    done = app.store.get("r1")
    assert done.fsm_state is State.SUCCEEDED
    looked = _run_now(client, control, python_params=["doctor"])
    assert _code(looked) == "SUCCESS", _logs(client, looked)
    assert "✓ volume" in _logs(client, looked)
    assert done.outcome.answer == "Two."
    (request,) = app.ledger.requests("r1")

    _upload_harness(workspace, root)
    executor = prod["resources"]["jobs"]["executor"]
    executor["tasks"][0]["spark_python_task"]["python_file"] = "/Workspace/files/executor_harness/main.py"
    folder = app.settings.namespace.attempt_dir("r1", 1, 1)
    manifest = app.tick.advancer.publisher.intent(run.key)
    assert manifest is not None
    parameters = {
        "run_id": "r1",
        "iteration": "1",
        "attempt": "1",
        "manifest": f"{folder}/manifest.json",
        "request_sha256": manifest.request.sha256(),
    }
    repeated = _run_now(client, executor, job_parameters=parameters)
    assert _code(repeated) == "SUCCESS", _logs(client, repeated)
    assert "not run again" in _logs(client, repeated)
    assert request["databricks_run_id"] != repeated.run_id
    assert len(app.ledger.results("r1")) == 1


def test_the_control_plane_does_not_start_without_its_key(
    prod: Bundle, app: App, client: WorkspaceClient
) -> None:
    control = prod["resources"]["jobs"]["control_plane"]
    del control["tasks"][0]["libraries"]
    finished = _run_now(client, control, python_params=["--until-idle"])
    assert _code(finished) == "INVALID_CLUSTER_REQUEST"


def test_a_control_plane_without_tables_fails_its_job(
    prod: Bundle, client: WorkspaceClient, workspace: WorkspaceInfo
) -> None:
    _put_key(client, prod)
    control = prod["resources"]["jobs"]["control_plane"]
    del control["tasks"][0]["libraries"]
    finished = _run_now(client, control, python_params=["--until-idle"])
    assert _code(finished) == "RUN_EXECUTION_ERROR"
    assert "rlm-agent init" in _logs(client, finished)
    looked = _run_now(client, control, python_params=["doctor"])
    assert _code(looked) == "RUN_EXECUTION_ERROR"
    assert "✗ tables" in _logs(client, looked)


def _environment(bundle: Bundle) -> dict[str, str]:
    cluster = bundle["resources"]["jobs"]["control_plane"]["job_clusters"][0]["new_cluster"]
    environ: dict[str, str] = cluster["spark_env_vars"]
    return environ


def _put_key(client: WorkspaceClient, bundle: Bundle) -> None:
    scope = bundle["resources"]["secret_scopes"]["model_keys"]["name"]
    client.secrets.create_scope(scope)
    client.secrets.put_secret(scope, "google-api-key", string_value="not-a-real-key")


def _upload_harness(workspace: WorkspaceInfo, root: Path) -> None:
    folder = Path(workspace.root) / "Workspace" / "files" / "executor_harness"
    shutil.copytree(root / "executor_harness", folder, ignore=shutil.ignore_patterns("__pycache__"))


def _run_now(client: WorkspaceClient, settings: dict[str, Any], **given: Any) -> Run:
    created: Any = client.api_client.do("POST", "/api/2.2/jobs/create", body=settings)
    run_id = client.jobs.run_now(created["job_id"], **given).run_id
    assert run_id is not None
    deadline = time.monotonic() + 400
    while True:
        run = client.jobs.get_run(run_id)
        if run.status is not None and run.status.state is RunLifecycleStateV2State.TERMINATED:
            return run
        assert time.monotonic() < deadline, f"still {run.status}"
        time.sleep(0.1)


def _code(run: Run) -> str | None:
    details = run.status.termination_details if run.status else None
    return details.code.value if details and details.code else None


def _logs(client: WorkspaceClient, run: Run) -> str:
    assert run.tasks
    assert run.tasks[0].run_id is not None
    output = client.jobs.get_run_output(run.tasks[0].run_id)
    return f"{output.error or ''}\n{output.logs or ''}"

"""The server as a process: start, restart, kill, two on one root, the death of whoever started it."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from databricks.sdk.errors import NotFound
from databricks.sdk.service import jobs
from databricks.sdk.service.catalog import VolumeType
from local_workspace import WorkspaceError, WorkspaceOptions, running, spawn
from lw_support import Programs, eventually, sdk

MODULE = [sys.executable, "-m", "local_workspace"]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_state_survives_a_restart(tmp_path: Path, how: signal.Signals) -> None:
    options = WorkspaceOptions(root=tmp_path / "w")
    sleeper = "import subprocess as s; p = s.Popen(['sleep', '300']); print(p.pid, flush=True); p.wait()"
    with spawn(options) as first:
        client = sdk(first.info)
        client.volumes.create("main", "default", "files", VolumeType.MANAGED, comment="kept")
        programs = Programs(client, options.root, "restart")
        client.secrets.create_scope("s")
        client.secrets.put_secret("s", "k", string_value="plain-value")
        job_id = client.jobs.create(name="kept").job_id or 0
        done = client.jobs.submit(tasks=[programs.task("print('kept')")], idempotency_token="t").run_id or 0
        programs.finish(done)
        active = programs.submit(sleeper)
        task = (programs.running(active).tasks or [])[0].run_id or 0
        eventually(lambda: client.jobs.get_run_output(task).logs, bool)
        child = int(client.jobs.get_run_output(task).logs or "")
        first.process.send_signal(how)
        assert first.process.wait(60) == (0 if how == signal.SIGTERM else -signal.SIGKILL)
        if how == signal.SIGTERM:
            assert not alive(child)
        assert running(options.root) is None
    stored = b"".join(path.read_bytes() for path in (options.root / ".workspace").glob("state.db*"))
    assert b"plain-value" not in stored
    assert (options.root / ".workspace").stat().st_mode & 0o777 == 0o700
    with spawn(options) as second:
        assert second.info.token == first.info.token
        assert running(options.root) == second.info
        client = sdk(second.info)
        programs = Programs(client, options.root, "restart")
        assert programs.output(client.jobs.get_run(done)).logs == "kept\n"
        again = client.jobs.submit(tasks=[programs.task("print('not again')")], idempotency_token="t").run_id
        assert again == done
        lost = client.jobs.get_run(active)
        assert lost.state
        assert lost.state.life_cycle_state == jobs.RunLifeCycleState.INTERNAL_ERROR
        assert lost.status
        assert lost.status.termination_details
        assert lost.status.termination_details.code == jobs.TerminationCodeCode.DRIVER_ERROR
        assert lost.status.termination_details.type == jobs.TerminationTypeType.CLOUD_FAILURE
        assert lost.end_time
        eventually(lambda: alive(child), lambda there: not there)
        assert base64.b64decode(client.secrets.get_secret("s", "k").value or "") == b"plain-value"
        assert client.jobs.get(job_id).settings
        assert client.volumes.read("main.default.files").comment == "kept"
        assert (client.jobs.submit(tasks=[programs.task("1")]).run_id or 0) > active


def test_a_second_server_on_one_root_is_refused(tmp_path: Path) -> None:
    options = WorkspaceOptions(root=tmp_path / "w")
    with spawn(options), pytest.raises(WorkspaceError, match="another local workspace already serves"):
        spawn(options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "gpt-5"], "scripted:FILE only"),
        (["--model", "scripted:/no/such/file"], "cannot be read"),
        (["--catalog", "../x"], "letters, digits"),
        (["--engine", "spark"], "spark"),
        (["--port", "1"], "port 1"),
    ],
)
def test_the_error_of_a_server_that_cannot_start(tmp_path: Path, arguments: list[str], message: str) -> None:
    if arguments == ["--port", "1"] and os.geteuid() == 0:
        pytest.skip("root may use any port")
    done = subprocess.run(
        [*MODULE, "--root", str(tmp_path / "w"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_engine_that_is_not_installed(tmp_path: Path) -> None:
    hide = "import sys\nfor name in ('grpc', 'pyspark', 'pysail'):\n    sys.modules[name] = None\n"
    (tmp_path / "sitecustomize.py").write_text(hide)
    done = subprocess.run(
        [*MODULE, "--root", str(tmp_path / "w")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "pip install 'rlm-local-workspace[sail]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="choose another --root"):
        spawn(WorkspaceOptions(root=tmp_path / "file"))


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    starter = (
        "import os, pathlib, sys, time\n"
        "from local_workspace import spawn\n"
        "from local_workspace import WorkspaceOptions\n"
        "print(spawn(WorkspaceOptions(root=pathlib.Path(sys.argv[1]))).info.to_json(), flush=True)\n"
        "time.sleep(300)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", starter, str(tmp_path / "w")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        described = json.loads(process.stdout.readline())
        assert set(described) >= {"host", "token", "http_path", "root", "pid"}
        assert alive(described["pid"])
        process.kill()
        process.wait()
        eventually(lambda: alive(described["pid"]), lambda there: not there)


def test_plain_output_and_an_end_by_interrupt(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*MODULE, "--root", str(tmp_path / "w"), "--catalog", "main", "--catalog", "dev"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        assert any(line.strip().startswith("DATABRICKS_HOST=http://127.0.0.1:") for line in lines)
        info = running(tmp_path / "w")
        assert info is not None
        client = sdk(info)
        assert {item.name for item in client.catalogs.list()} == {"main", "dev"}
        # Without --allow-faults there is no fault control, and without --model no endpoint.
        with pytest.raises(NotFound):
            client.api_client.do("GET", "/_local/requests")
        with pytest.raises(NotFound, match="--model"):
            client.serving_endpoints.query("m", messages=[])
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0

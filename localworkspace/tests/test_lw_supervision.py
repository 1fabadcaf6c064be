"""Nothing gets stuck or leaks: daemons, keys of the starter, damaged files, a lost engine."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.service import jobs
from local_workspace import WorkspaceError, WorkspaceInfo, WorkspaceOptions, spawn
from local_workspace.state import Database
from lw_support import Programs, eventually, sdk

LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux only")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def printed(client: WorkspaceClient, run_id: int, good: Callable[[str], bool] = bool) -> str:
    task = (client.jobs.get_run(run_id).tasks or [])[0].run_id or 0
    return str(eventually(lambda: client.jobs.get_run_output(task).logs or "", good))


# --- daemons

_CLEARED = """
import os, sys, time
reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        program = "import os, time; os.write({}, str(os.getpid()).encode()); time.sleep(300)".format(writer)
        os.set_inheritable(writer, True)
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", program], {})
    os._exit(0)
print(os.read(reader, 20).decode(), flush=True)
"""


@LINUX
@pytest.mark.fault("A19")
@pytest.mark.parametrize("how", ["cancel", "success", "killed"])
def test_a_daemon_with_a_cleared_environment_ends_with_its_job(
    client: WorkspaceClient, programs: Programs, how: str
) -> None:
    rest = {"cancel": "time.sleep(300)", "success": "", "killed": "os.kill(os.getpid(), 9)"}
    run_id = programs.submit(_CLEARED + rest[how])
    daemon = int(printed(client, run_id, lambda logs: logs.endswith("\n")))
    if how == "cancel":
        assert alive(daemon)
        client.jobs.cancel_run(run_id)
    run = programs.finish(run_id)
    assert not alive(daemon)
    assert run.state
    results = jobs.RunResultState
    expected = {"cancel": results.CANCELED, "success": results.SUCCESS, "killed": results.FAILED}
    assert run.state.result_state == expected[how]
    if how == "killed":
        assert "SIGKILL" in (programs.output(run).error or "")


@LINUX
@pytest.mark.fault("A19")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_daemons_end_with_the_server(tmp_path: Path, how: signal.Signals) -> None:
    with spawn(WorkspaceOptions(root=tmp_path / "w")) as server:
        client = sdk(server.info)
        program = tmp_path / "w" / "Workspace" / "p.py"
        program.write_text(_CLEARED + "time.sleep(300)")
        python = jobs.SparkPythonTask(python_file="/Workspace/p.py")
        task = jobs.SubmitTask(task_key="t", spark_python_task=python)
        run_id = client.jobs.submit(tasks=[task]).run_id or 0
        daemon = int(printed(client, run_id, lambda logs: logs.endswith("\n")))
        assert alive(daemon)
        server.process.send_signal(how)
        server.process.wait(60)
        eventually(lambda: alive(daemon), lambda there: not there)


# --- the keys of whoever started the server

_STARTER = """
import subprocess, sys
command = [sys.executable, "-m", "local_workspace", *sys.argv[1:], "--json"]
server = subprocess.Popen(command, stdin=subprocess.PIPE)
sys.stdin.read()
server.terminate()
server.wait()
"""
# What a hostile job would try, on every process of the machine that it can name.
_LOOK = """
import glob, sys
found = []
for path in glob.glob("/proc/[0-9]*/environ"):
    try:
        if b"canary" + b"-5f3a" in open(path, "rb").read():
            found.append(path)
    except OSError:
        pass
print("looked", found)
"""


@LINUX
@pytest.mark.fault("B2")
def test_a_job_cannot_read_the_keys_of_who_started_the_server(tmp_path: Path) -> None:
    root = tmp_path / "w"
    starter = subprocess.Popen(
        [sys.executable, "-c", _STARTER, "--root", str(root)],
        env={**os.environ, "OPENAI_API_KEY": "canary" + "-5f3a"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert starter.stdout is not None
        info = WorkspaceInfo.from_json(starter.stdout.readline())
        assert b"canary" not in Path(f"/proc/{info.pid}/environ").read_bytes()
        client = sdk(info)
        (root / "Workspace" / "look.py").write_text(_LOOK)
        python = jobs.SparkPythonTask(python_file="/Workspace/look.py")
        task = jobs.SubmitTask(task_key="t", spark_python_task=python)
        run_id = client.jobs.submit(tasks=[task]).run_id or 0
        assert printed(client, run_id, lambda logs: logs.endswith("\n")) == "looked []\n"
    finally:
        starter.communicate(timeout=60)


# --- damaged files


@pytest.mark.fault("A17")
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("token", b"", "is empty"),
        ("token", b"\xff\xfe\x00", "holds no token"),
        ("token", b"two words", "holds no token"),
        ("state.db", b"", "is damaged"),
        ("state.db", b"\0" * 8192, "is damaged"),
        ("state.db", b"no database " * 400, "is damaged"),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    private = tmp_path / "w" / ".workspace"
    private.mkdir(parents=True)
    (private / name).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", "local_workspace", "--root", str(tmp_path / "w")],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"{private / name} {said}" in done.stderr
    assert "delete the file" in done.stderr or "move it" in done.stderr
    assert (private / name).read_bytes() == content  # nothing is thrown away


@pytest.mark.fault("A17")
def test_records_that_are_damaged_later_are_named(tmp_path: Path) -> None:
    from local_workspace.http import api_error

    database = Database(tmp_path / "state.db")
    database.close()
    file = tmp_path / "state.db"
    file.write_bytes(file.read_bytes()[:4096] + b"\xff" * (file.stat().st_size - 4096))
    with pytest.raises((WorkspaceError, sqlite3.DatabaseError), match=r"state\.db is damaged"):
        Database(file).rows("SELECT last FROM ids")
    told = api_error(sqlite3.DatabaseError(f"{file} is damaged"))
    assert (told.status, told.message) == (500, f"{file} is damaged")


# --- the engine of a running workspace


@LINUX
@pytest.mark.fault("A1")
def test_the_engine_of_a_running_workspace_is_killed(tmp_path: Path) -> None:
    with spawn(WorkspaceOptions(root=tmp_path / "w")) as server:
        client = sdk(server.info)
        execute = client.statement_execution.execute_statement
        execute("CREATE TABLE main.default.t AS SELECT 7 AS n", "local")
        program = tmp_path / "w" / "Workspace" / "p.py"
        program.write_text(
            "from pyspark.sql import SparkSession\nimport time\nspark = SparkSession.builder.getOrCreate()\n"
            "print(spark.range(3).count(), flush=True)\ntime.sleep(300)\n"
        )
        python = jobs.SparkPythonTask(python_file="/Workspace/p.py")
        task = jobs.SubmitTask(task_key="t", spark_python_task=python)
        run_id = client.jobs.submit(tasks=[task]).run_id or 0
        printed(client, run_id)
        os.kill(engine_of(server.info.pid), signal.SIGKILL)
        run = eventually(lambda: client.jobs.get_run(run_id), lambda run: bool(run.end_time))
        assert run.status.termination_details.type == jobs.TerminationTypeType.CLOUD_FAILURE
        assert run.state.life_cycle_state == jobs.RunLifeCycleState.INTERNAL_ERROR
        answer = execute("SELECT n FROM main.default.t", "local")
        assert answer.result
        assert answer.result.data_array == [["7"]]


def engine_of(server: int) -> int:
    """The engine is the server's only child that runs the whole time."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        command = (path.parent / "cmdline").read_bytes() if int(fields[1]) == server else b""
        if command and b"keeper.py" not in command:
            found.append(int(path.parent.name))
    assert len(found) == 1
    return found[0]


@pytest.mark.fault("A20")
def test_a_stop_is_bounded_and_says_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from local_workspace import server

    codes: list[int] = []
    monkeypatch.setattr(server, "_QUIET_END_S", 0.0)
    monkeypatch.setattr(server, "END_S", 0.0)
    monkeypatch.setattr(server.os, "_exit", codes.append)
    server._End().begin()
    eventually(lambda: codes, bool)
    said = capsys.readouterr().err
    assert "it waits for: " in said
    assert "has not stopped within" in said
    assert codes == [1]


# --- clients that go away

_HEAVY = "SELECT count(*) AS n FROM range(1000000) a, range(1000000) b WHERE a.id * b.id % 7 = 3"
_CLIENT = f"""
import sys
from databricks import sql
host, path, token = sys.argv[1:]
connection = sql.connect(server_hostname="127.0.0.1", http_path=path, access_token=token,
                         _connection_uri=host + path, enable_telemetry=False)
cursor = connection.cursor()
print("up", flush=True)
cursor.execute({_HEAVY!r})
"""
_REST_CLIENT = f"""
import sys, requests
host, path, token = sys.argv[1:]
print("up", flush=True)
requests.post(host + "/api/2.0/sql/statements", headers={{"Authorization": "Bearer " + token}},
              json={{"warehouse_id": "local", "statement": {_HEAVY!r}, "wait_timeout": "50s"}})
"""


@LINUX
@pytest.mark.fault("A20")
@pytest.mark.parametrize("program", [_CLIENT, _REST_CLIENT], ids=["thrift", "rest"])
def test_a_statement_ends_with_its_client(tmp_path: Path, program: str) -> None:
    with spawn(WorkspaceOptions(root=tmp_path / "w")) as server:
        info = server.info
        engine = engine_of(info.pid)
        arguments = [sys.executable, "-c", program, info.host, info.http_path, info.token]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as dying:
            assert dying.stdout
            dying.stdout.readline()
            eventually(lambda: busy(engine), bool)
            dying.kill()
        # Others are answered, meanwhile and then; nothing computes for who has gone.
        execute = sdk(info).statement_execution.execute_statement
        assert execute("SELECT 1", "local").result
        eventually(lambda: alive(engine) and busy(engine), lambda there: not there)
        assert execute("SELECT 1", "local").result
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 0


def busy(pid: int) -> bool:
    """Whether a process computes, judged by a second of it."""
    from local_workspace.engine.servers import processor_seconds

    before = processor_seconds(pid) or 0.0
    time.sleep(1)
    return (processor_seconds(pid) or before) - before > 0.1

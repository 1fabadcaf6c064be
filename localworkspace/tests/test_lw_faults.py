"""The fault control, with the real SDK as the victim."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import InternalError, NotFound
from local_workspace import WorkspaceInfo
from lw_support import VOLUME, Programs, eventually

SUBMIT = "/jobs/runs/submit"


class Control:
    """The `/_local` API."""

    def __init__(self, http: requests.Session, host: str) -> None:
        self._http, self._base = http, f"{host}/_local"

    def add(self, **rule: Any) -> None:
        assert self._http.post(f"{self._base}/faults", json=rule).status_code == 200

    def held(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._http.get(f"{self._base}/held").json()["held"]
        return found

    def release(self, number: int, **body: Any) -> int:
        return self._http.post(f"{self._base}/held/{number}/release", json=body).status_code

    def requests(self, path: str) -> list[dict[str, Any]]:
        log = self._http.get(f"{self._base}/requests").json()["requests"]
        return [entry for entry in log if path in entry["path"]]


@pytest.fixture
def control(http: requests.Session, info: WorkspaceInfo) -> Control:
    http.delete(f"{info.host}/_local/requests")
    return Control(http, info.host)


def runs_named(client: WorkspaceClient, name: str) -> list[int]:
    return [run.run_id or 0 for run in client.jobs.list_runs() if run.run_name == name]


@pytest.mark.parametrize("action", ["drop", "status"])
@pytest.mark.parametrize("after_effect", [False, True])
@pytest.mark.parametrize("token", [False, True])
def test_a_faulted_submit_is_sent_again(
    client: WorkspaceClient,
    programs: Programs,
    control: Control,
    action: str,
    after_effect: bool,
    token: bool,
) -> None:
    rule = {"method": "POST", "path": SUBMIT, "action": action, "after_effect": after_effect}
    control.add(**rule, status=503, retry_after=0, times=1)
    name = f"faulted-{action}-{after_effect}-{token}"
    once = name if token else None
    run_id = client.jobs.submit(run_name=name, tasks=[programs.task("1")], idempotency_token=once).run_id
    assert run_id
    assert [entry["status"] for entry in control.requests(SUBMIT)] == [0 if action == "drop" else 503, 200]
    # Without a token the effect happens twice: what the SDK's retry does to whoever forgets it.
    runs = runs_named(client, name)
    assert len(runs) == (2 if after_effect and not token else 1)
    for each in runs:
        programs.finish(each)


def test_a_plain_500_is_not_retried(client: WorkspaceClient, programs: Programs, control: Control) -> None:
    control.add(method="POST", path=SUBMIT, action="status", status=500, after_effect=True)
    with pytest.raises(InternalError):
        client.jobs.submit(run_name="lost reply", tasks=[programs.task("1")])
    (run_id,) = runs_named(client, "lost reply")
    programs.finish(run_id)


@pytest.mark.parametrize("after_effect", [False, True])
def test_a_request_is_held_and_its_client_may_die_meanwhile(
    client: WorkspaceClient,
    http: requests.Session,
    info: WorkspaceInfo,
    control: Control,
    after_effect: bool,
) -> None:
    path = f"{VOLUME}/held-{after_effect}.txt"
    control.add(method="PUT", path="held-", action="hold", after_effect=after_effect)
    url = f"{info.host}/api/2.0/fs/files{path}?overwrite=false"
    with pytest.raises(requests.Timeout):
        requests.put(url, data=b"late", headers=dict(http.headers), timeout=0.3)
    (held,) = control.held()
    assert held["after_effect"] is after_effect
    if after_effect:
        assert client.files.get_metadata(path).content_length == 4
    else:
        with pytest.raises(NotFound):
            client.files.get_metadata(path)
    assert control.release(held["id"]) == 200
    eventually(lambda: control.requests("held-"), lambda entries: any(e["method"] == "PUT" for e in entries))
    assert client.files.get_metadata(path).content_length == 4  # the effect takes place all the same
    assert control.held() == []
    assert control.release(held["id"]) == 404


def test_a_held_request_can_be_cut(client: WorkspaceClient, control: Control) -> None:
    control.add(method="PUT", path="cut", action="hold")
    done = threading.Event()

    def upload() -> None:
        client.files.upload(f"{VOLUME}/cut.txt", io.BytesIO(b"x"), overwrite=True)
        done.set()

    thread = threading.Thread(target=upload)
    thread.start()
    (held,) = eventually(control.held, bool)
    assert not done.is_set()
    control.release(held["id"], drop=True)
    thread.join(120)
    assert done.is_set()  # the SDK has sent it again
    faults = [entry["fault"] for entry in control.requests("cut.txt") if entry["method"] == "PUT"]
    assert faults == ["hold", None]


def test_skip_times_and_sql(
    client: WorkspaceClient, http: requests.Session, info: WorkspaceInfo, control: Control
) -> None:
    control.add(sql="FROM +range", action="status", status=500, skip=1, times=2)

    def ask(text: str) -> str:
        try:
            client.statement_execution.execute_statement(text, "local")
        except InternalError:
            return "fault"
        return "ok"

    assert ask("SELECT 1") == "ok"
    assert [ask("SELECT * FROM range(1)") for _ in range(4)] == ["ok", "fault", "fault", "ok"]
    assert control.requests("/statements")[0]["sql"] == "SELECT 1"
    (rule,) = http.get(f"{info.host}/_local/faults").json()["rules"]
    assert (rule["seen"], rule["fired"]) == (4, 2)
    assert http.delete(f"{info.host}/_local/faults").json() == {"rules": []}


def test_the_thrift_service_is_faulted_by_its_sql(info: WorkspaceInfo, control: Control) -> None:
    from databricks import sql

    with sql.connect(
        server_hostname="127.0.0.1",
        http_path=info.http_path,
        access_token=info.token,
        _connection_uri=f"{info.host}{info.http_path}",
        enable_telemetry=False,
    ) as connection:
        cursor = connection.cursor()
        control.add(sql="AS faulty", action="drop")
        control.add(sql="AS slow", action="delay", delay_s=0.2, after_effect=True)
        cursor.execute("SELECT 1 AS fine")
        assert [tuple(row) for row in cursor.fetchall()] == [(1,)]
        cursor.execute("SELECT 1 AS faulty")  # the connector 4.9 sends it again, whatever it is
        cursor.execute("SELECT 1 AS slow")
        assert [tuple(row) for row in cursor.fetchall()] == [(1,)]
        cursor.close()
    entries = control.requests(info.http_path)
    assert [e["status"] for e in entries if e["sql"] == "SELECT 1 AS faulty"] == [0, 200]
    logged = {entry["sql"]: entry for entry in entries}
    assert logged["SELECT 1 AS slow"]["duration_ms"] >= 200
    assert "PyDatabricksSqlConnector" in logged["SELECT 1 AS fine"]["client"]


@pytest.mark.parametrize(
    "rule",
    [
        {"action": "explode"},
        {"action": "drop", "path": "("},
        {"action": "drop", "color": "red"},
        {"action": "status", "status": "many"},
    ],
)
def test_a_malformed_rule_is_refused(
    http: requests.Session, info: WorkspaceInfo, rule: dict[str, Any]
) -> None:
    reply = http.post(f"{info.host}/_local/faults", json=rule)
    assert (reply.status_code, reply.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")

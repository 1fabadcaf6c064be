"""Every kind of request under every fault of the network, through the real clients."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from remote_rig import VOLUME, Clients, Server

from databricks_rlm_agent.databricks.errors import CONNECTIONS
from databricks_rlm_agent.errors import AlreadyExists, NotFound, Rejected, Throttled, Unreachable
from databricks_rlm_agent.retry import REQUESTS, STATEMENTS
from databricks_rlm_agent.runs.run import DELETED

_PASSING = {
    "500": {"action": "status", "status": 500},
    "502": {"action": "status", "status": 502},
    "503": {"action": "status", "status": 503},
    "503 after the effect": {"action": "status", "status": 503, "after_effect": True},
    "504": {"action": "status", "status": 504},
    "504 after the effect": {"action": "status", "status": 504, "after_effect": True},
    "429": {"action": "status", "status": 429},
    "dropped": {"action": "drop"},
    "dropped after the effect": {"action": "drop", "after_effect": True},
}
_PROGRAM = {"task_key": "main", "spark_python_task": {"python_file": f"{VOLUME}/program.py"}}


def submit(clients: Clients, token: str | None = None) -> int:
    return clients.jobs.submit({"idempotency_token": token or uuid.uuid4().hex, "tasks": [_PROGRAM]})


def put(clients: Clients) -> None:
    clients.volume.put(f"{VOLUME}/{uuid.uuid4().hex}", b"x", overwrite=False)


def sql(clients: Clients) -> Any:
    return clients.warehouse.fetch("SELECT 1 AS one")


# What is asked, and the path that it goes to
_REQUESTS: dict[str, tuple[str, Callable[[Clients], Any]]] = {
    "submit": ("runs/submit", submit),
    "get": ("runs/get$", lambda clients: clients.jobs.verdict(submit(clients))),
    "cancel": ("runs/cancel", lambda clients: clients.jobs.cancel(submit(clients))),
    "put": ("fs/files", put),
    "read": ("fs/files", lambda clients: clients.volume.get(f"{VOLUME}/program.py")),
    "head": ("fs/files", lambda clients: clients.volume.look(f"{VOLUME}/program.py")),
    "list": ("fs/directories", lambda clients: clients.volume.list(VOLUME)),
    "sql": ("sql/1.0/warehouses", sql),
}


@pytest.mark.fault("A14")
def test_a_token_whose_job_run_was_deleted_tells_so(clients: Clients) -> None:
    job_run_id = submit(clients, token="used")
    while not clients.jobs.verdict(job_run_id).over:
        time.sleep(0.1)
    clients.workspace.call("delete", lambda client: client.jobs.delete_run(job_run_id))
    assert submit(clients, token="used") == DELETED
    with pytest.raises(NotFound):
        clients.jobs.verdict(DELETED)


@pytest.mark.parametrize("fault", _PASSING)
@pytest.mark.parametrize("kind", _REQUESTS)
def test_a_passing_fault_costs_one_more_request(
    clients: Clients, server: Server, kind: str, fault: str
) -> None:
    path, ask = _REQUESTS[kind]
    if kind == "sql":
        sql(clients)  # a session to lose
    server.fault(path, **_PASSING[fault])
    if kind == "put" and _PASSING[fault].get("after_effect"):
        with pytest.raises(AlreadyExists):  # which the caller takes for its own, after a look
            ask(clients)
    else:
        ask(clients)
    assert len(server.sent(path)) == 2
    assert len(clients.waits) == 1


@pytest.mark.parametrize("fault", _PASSING)
def test_a_session_is_opened_again_too(clients: Clients, server: Server, fault: str) -> None:
    server.fault("sql/1.0/warehouses", **_PASSING[fault])
    assert [dict(row) for row in sql(clients)] == [{"one": 1}]
    assert len(clients.waits) == 1


@pytest.mark.parametrize("kind", _REQUESTS)
def test_a_late_answer_is_waited_for(clients: Clients, server: Server, kind: str) -> None:
    path, ask = _REQUESTS[kind]
    server.fault(path, action="delay", delay_s=0.2)
    ask(clients)
    assert clients.waits == []


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("kind", _REQUESTS)
def test_retry_after_is_kept(clients: Clients, server: Server, kind: str, status: int) -> None:
    path, ask = _REQUESTS[kind]
    if kind == "sql":
        sql(clients)
    server.fault(path, action="status", status=status, retry_after=7)
    ask(clients)
    assert clients.waits == [7.0]
    server.fault(path, action="status", status=status, retry_after=120)
    with pytest.raises(Throttled) as raised:
        ask(clients)
    assert raised.value.retry_after == 120
    assert len(server.sent(path)) == 1
    assert clients.waits == [7.0]  # longer than our patience: for the loop to wait


@pytest.mark.parametrize("kind", _REQUESTS)
def test_patience_ends(clients: Clients, server: Server, kind: str) -> None:
    path, ask = _REQUESTS[kind]
    policy = STATEMENTS if kind == "sql" else REQUESTS
    if kind == "sql":
        sql(clients)
    server.fault(path, action="status", status=504, times=100)
    with pytest.raises(Unreachable):
        ask(clients)
    assert len(server.sent(path)) == policy.attempts
    assert len(clients.waits) == policy.attempts - 1
    assert max(clients.waits) <= policy.max_wait_s


def test_one_token_one_run_whatever_is_lost(clients: Clients, server: Server) -> None:
    token = uuid.uuid4().hex
    server.fault("runs/submit", action="drop", after_effect=True, times=4)
    first = submit(clients, token)
    assert len(server.sent("runs/submit")) == 5
    assert submit(clients, token) == first


def test_what_is_refused_is_not_sent_again(clients: Clients, server: Server) -> None:
    server.calm()
    with pytest.raises(Rejected):
        clients.warehouse.fetch("SELEKT 1")
    with pytest.raises(Rejected):
        clients.jobs.submit({"idempotency_token": "x" * 65, "tasks": [_PROGRAM]})
    assert len(server.sent("runs/submit")) == 1
    assert clients.waits == []


def test_queries_and_statements_are_repeated(clients: Clients, server: Server) -> None:
    assert [dict(row) for row in clients.warehouse.fetch("SELECT 1 AS one")] == [{"one": 1}]
    for statement in (clients.warehouse.fetch, clients.warehouse.execute):
        server.fault("sql/1.0/warehouses", action="drop", times=2)
        statement("SELECT 1 AS one")
        assert len(server.sent("sql/1.0/warehouses")) == 3
    assert len(clients.waits) == 4


@pytest.mark.parametrize("kind", ["engine's session", "execute_once"])
def test_a_statement_of_others_is_sent_once(
    clients: Clients, server: Server, kind: str, request: pytest.FixtureRequest
) -> None:
    """The connector would send it again after a lost answer, whatever the statement does."""
    session = clients.engine.session()
    request.addfinalizer(session.close)
    send = session.execute if kind == "engine's session" else clients.warehouse.execute_once
    clients.warehouse.execute("CREATE OR REPLACE TABLE main.default.once (n INT) USING DELTA")
    server.fault("sql/1.0/warehouses", action="drop", after_effect=True)
    with pytest.raises(Unreachable):
        send("INSERT INTO main.default.once VALUES (1)")
    assert len(server.sent("sql/1.0/warehouses")) == 1
    assert [dict(row) for row in clients.warehouse.fetch("SELECT n FROM main.default.once")] == [{"n": 1}]


def test_reading_past_the_end_of_a_file(clients: Clients) -> None:
    assert clients.volume.get(f"{VOLUME}/program.py", offset=1000, length=5) == b""
    assert clients.waits == []


def test_an_answer_that_cannot_be_read_is_a_passing_fault(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = clients.workspace.access.client
    monkeypatch.setattr(client.api_client, "do", lambda *_args, **_more: {"status": "odd", "run_id": {}})
    with pytest.raises(Unreachable, match="cannot be read"):
        clients.jobs.verdict(1)
    with pytest.raises(Unreachable, match="names no run"):
        submit(clients)


def test_many_threads_share_one_client(clients: Clients, server: Server) -> None:
    """A tenth of the requests fail; everything is written, and nothing is written twice."""
    server.calm()
    paths = [f"{VOLUME}/many/{number}" for number in range(CONNECTIONS * 4)]
    clients.volume.put(f"{VOLUME}/many/first", b"", overwrite=True)
    server.fault("fs/files", action="status", status=503, times=len(paths) // 10)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(lambda path: clients.volume.put(path, path.encode(), overwrite=False), paths))
    assert len(server.sent("fs/files")) == len(paths) + len(paths) // 10
    assert {entry.path for entry in clients.volume.list(f"{VOLUME}/many")} >= set(paths)


def test_the_pool_holds_as_many_connections_as_there_are_threads(clients: Clients) -> None:
    """The SDK sizes the pool of https only; plain http is for the local workspace, and grows by itself."""
    session = clients.workspace.access.client.api_client._api_client._session
    adapter: Any = session.get_adapter("https://example")
    assert (adapter._pool_maxsize, adapter._pool_block) == (CONNECTIONS, True)


def test_nobody_sleeps_but_us(clients: Clients, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def awake(_seconds: float) -> None:
        raise AssertionError("slept")

    sql(clients)
    monkeypatch.setattr(time, "sleep", awake)
    for path, ask in (_REQUESTS["head"], _REQUESTS["sql"]):
        server.fault(path, action="status", status=503)
        ask(clients)

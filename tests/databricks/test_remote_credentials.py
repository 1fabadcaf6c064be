"""Tokens that expire while we run, permissions that are missing, and who is told what."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from local_workspace import WorkspaceInfo, WorkspaceOptions, spawn
from local_workspace.layout import Layout
from remote_rig import VOLUME, Clients, Server

from databricks_rlm_agent.errors import Forbidden, NeverReached, Unauthorized, Unreachable

Connect = Callable[..., Clients]
Profile = Callable[[str], str]
_ASK: dict[str, Callable[[Clients], Any]] = {
    "fs/files": lambda clients: clients.volume.get(f"{VOLUME}/program.py"),
    "fs/directories": lambda clients: clients.volume.list(VOLUME),
    "Me": lambda clients: clients.workspace.identity(),
    "sql/1.0/warehouses": lambda clients: clients.warehouse.fetch("SELECT 1"),
}


@pytest.mark.parametrize("path", _ASK)
def test_an_expired_token_is_read_anew(
    connect: Connect, profile: Profile, info: WorkspaceInfo, path: str
) -> None:
    clients = connect(profile=profile("dapi-expired"))
    before = clients.workspace.access
    profile(info.token)
    _ASK[path](clients)
    renewed = clients.workspace.access
    assert renewed is not before
    _ASK[path](clients)
    assert clients.workspace.access is renewed
    assert clients.waits == []


@pytest.mark.parametrize("path", _ASK)
def test_a_refusal_in_the_midst_of_a_session(
    connect: Connect, profile: Profile, server: Server, info: WorkspaceInfo, path: str
) -> None:
    clients = connect(profile=profile(info.token))
    _ASK[path](clients)
    server.fault(path, action="status", status=401)
    _ASK[path](clients)
    assert server.sent(path)[:2] == [401, 200]


@pytest.mark.parametrize("path", _ASK)
def test_a_token_that_stays_refused_is_tried_twice(
    connect: Connect, profile: Profile, server: Server, info: WorkspaceInfo, path: str
) -> None:
    clients = connect(profile=profile(info.token))
    assert clients.workspace.access
    server.fault(path, action="status", status=401, times=100)
    with pytest.raises(Unauthorized) as raised:
        _ASK[path](clients)
    assert type(raised.value) is Unauthorized
    assert server.sent(path) == [401, 401]
    assert clients.waits == []


@pytest.mark.parametrize("path", _ASK)
def test_a_token_given_by_hand_is_refused_at_once(
    connect: Connect, server: Server, info: WorkspaceInfo, path: str
) -> None:
    with pytest.raises(Unauthorized):
        _ASK[path](connect(host=info.host, token="dapi-typo"))
    server.fault(path, action="status", status=401, times=100)
    with pytest.raises(Unauthorized):
        _ASK[path](connect(host=info.host, token=info.token))
    assert server.sent(path) == [401]


def test_many_threads_read_anew_once(
    connect: Connect, profile: Profile, server: Server, info: WorkspaceInfo
) -> None:
    clients = connect(profile=profile("dapi-expired"))
    threads, seen = 16, set()
    start = threading.Barrier(threads)
    assert clients.workspace.access
    profile(info.token)
    server.fault("fs/files", action="delay", delay_s=0.2, times=threads)  # all of them are refused at once

    def read(_number: int) -> None:
        start.wait()
        clients.volume.get(f"{VOLUME}/program.py")
        seen.add(id(clients.workspace.access))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, range(threads)))
    assert len(seen) == 1
    discoveries = len(server.sent("well-known"))
    server.calm()
    assert connect(profile="p").workspace.access  # what one reading costs, and the first contact
    assert 0 < discoveries <= len(server.sent("well-known"))


def test_what_cannot_be_read_anew_is_the_first_refusal(
    connect: Connect, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = connect(profile=profile("dapi-expired"))
    assert clients.workspace.access
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", "/nowhere")
    with pytest.raises(Unauthorized, match="Invalid access token"):
        clients.workspace.identity()


@pytest.mark.parametrize("path", [path for path in _ASK if path != "sql/1.0/warehouses"])
def test_a_missing_permission_is_not_a_matter_of_tokens(
    connect: Connect, profile: Profile, server: Server, info: WorkspaceInfo, path: str
) -> None:
    clients = connect(profile=profile(info.token))
    access = clients.workspace.access
    server.fault(path, action="status", status=403, times=10)
    with pytest.raises(Forbidden):
        _ASK[path](clients)
    assert server.sent(path) == [403]
    assert clients.workspace.access is access


def test_a_token_is_replaced_while_the_server_is_away(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server comes back with another token and without our session: the next call finds its way."""
    file, root = tmp_path / "databrickscfg", tmp_path / "root"
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(file))
    with spawn(WorkspaceOptions(root=root)) as first:
        info = first.info
        file.write_text(f"[p]\nhost = {info.host}\ntoken = {info.token}\n")
        clients = connect(profile="p")
        clients.warehouse.fetch("SELECT 1")
    (Layout(root=root).private / "token").write_text("dapi-new")
    file.write_text(f"[p]\nhost = {info.host}\ntoken = dapi-new\n")
    with pytest.raises(Unreachable):
        clients.warehouse.execute_once("SELECT 1")
    with spawn(WorkspaceOptions(root=root, port=int(info.host.rpartition(":")[2]))):
        assert [dict(row) for row in clients.warehouse.fetch("SELECT 2 AS n")] == [{"n": 2}]
        assert clients.workspace.bearer() == "dapi-new"
        assert clients.workspace.identity()


def test_a_host_that_does_not_answer_is_told_soon(connect: Connect) -> None:
    """The SDK would look for its metadata for five minutes first."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        clients = connect(host=f"http://127.0.0.1:{closed.getsockname()[1]}", token="x")
        with pytest.raises(NeverReached, match="Connection refused"):
            clients.workspace.identity()

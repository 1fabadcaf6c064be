"""Files and directories, by the real SDK and by plain HTTP."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import threading
from pathlib import Path

import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import AlreadyExists, BadRequest, NotFound
from local_workspace import WorkspaceInfo
from local_workspace.layout import Layout
from lw_support import VOLUME


def read(client: WorkspaceClient, path: str) -> bytes:
    contents = client.files.download(path).contents
    assert contents is not None
    with contents:
        return contents.read()


def test_a_file_comes_back_as_it_was_put(client: WorkspaceClient, info: WorkspaceInfo) -> None:
    path = f"{VOLUME}/deep/er/\u00fc name.bin"
    client.files.upload(path, io.BytesIO(b"\x00\xff" * 100), overwrite=True)
    assert read(client, path) == b"\x00\xff" * 100
    assert (Path(info.root) / path.lstrip("/")).read_bytes() == b"\x00\xff" * 100
    meta = client.files.get_metadata(path)
    assert meta.content_length == 200
    assert meta.content_type == "application/octet-stream"
    assert meta.last_modified
    client.files.upload(path, io.BytesIO(b""), overwrite=True)
    assert read(client, path) == b""
    client.files.delete(path)
    for call in (client.files.get_metadata, client.files.delete, client.files.download):
        with pytest.raises(NotFound):
            call(path)


def test_a_large_file_streams_both_ways(client: WorkspaceClient, tmp_path: Path) -> None:
    # 60 MB: beyond the SDK's limit for one piece, so that it first tries its multi-part upload.
    block = bytes(range(256)) * 4096
    source = tmp_path / "source.bin"
    with source.open("wb") as file:
        for _ in range(60):
            file.write(block)
    client.files.upload_from(f"{VOLUME}/large.bin", str(source), overwrite=True)
    client.files.download_to(f"{VOLUME}/large.bin", str(tmp_path / "target.bin"))
    assert (tmp_path / "target.bin").read_bytes() == source.read_bytes()
    client.files.delete(f"{VOLUME}/large.bin")


def test_one_of_many_writers_wins_when_none_may_overwrite(
    client: WorkspaceClient, http: requests.Session, info: WorkspaceInfo
) -> None:
    url = f"{info.host}/api/2.0/fs/files{VOLUME}/manifest.json"
    statuses: list[tuple[int, int]] = []

    def put(number: int) -> None:
        body = str(number).encode() * 1000
        headers = dict(http.headers)
        reply = requests.put(url, params={"overwrite": "false"}, data=body, headers=headers, timeout=30)
        statuses.append((reply.status_code, number))

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(status for status, _ in statuses) == [204] + [409] * 7
    winner = next(number for status, number in statuses if status == 204)
    assert read(client, f"{VOLUME}/manifest.json") == str(winner).encode() * 1000
    with pytest.raises(AlreadyExists, match="already exists"):
        client.files.upload(f"{VOLUME}/manifest.json", io.BytesIO(b"x"), overwrite=False)
    assert not list((Path(info.root) / ".workspace/uploads").iterdir())


@pytest.mark.parametrize(
    ("header", "status", "body"),
    [
        ("bytes=0-3", 206, b"0123"),
        ("bytes=4-", 206, b"456789"),
        ("bytes=-2", 206, b"89"),
        ("bytes=8-99", 206, b"89"),
        ("bytes=10-", 416, None),
        ("bytes=0-" + "9" * 5000, 206, b"0123456789"),
        (None, 200, b"0123456789"),
    ],
)
def test_ranges(
    client: WorkspaceClient,
    http: requests.Session,
    info: WorkspaceInfo,
    header: str | None,
    status: int,
    body: bytes | None,
) -> None:
    client.files.upload(f"{VOLUME}/range.txt", io.BytesIO(b"0123456789"), overwrite=True)
    headers = {"Range": header} if header else {}
    reply = http.get(f"{info.host}/api/2.0/fs/files{VOLUME}/range.txt", headers=headers)
    assert reply.status_code == status
    if body is not None:
        assert reply.content == body
    if status == 206:
        assert reply.headers["content-range"].endswith("/10")


def test_directories(client: WorkspaceClient) -> None:
    base = f"{VOLUME}/tree"
    client.files.create_directory(f"{base}/a/b")
    client.files.create_directory(f"{base}/a/b")
    client.files.upload(f"{base}/f.txt", io.BytesIO(b"abc"), overwrite=True)
    entries = {entry.name: entry for entry in client.files.list_directory_contents(base)}
    assert set(entries) == {"a", "f.txt"}
    assert entries["a"].is_directory
    assert entries["f.txt"].file_size == 3
    assert entries["f.txt"].path == f"{base}/f.txt"
    assert (entries["f.txt"].last_modified or 0) > 1_600_000_000_000
    paged = [entry.name for entry in client.files.list_directory_contents(base, page_size=1)]
    assert paged == ["a", "f.txt"]
    assert list(client.files.list_directory_contents(f"{base}/a/b")) == []
    client.files.get_directory_metadata(f"{base}/a")
    with pytest.raises(BadRequest, match="not empty"):
        client.files.delete_directory(f"{base}/a")
    client.files.delete_directory(f"{base}/a/b")
    with pytest.raises(NotFound):
        list(client.files.list_directory_contents(f"{base}/a/b"))
    with pytest.raises(AlreadyExists):
        client.files.create_directory(f"{base}/f.txt")
    with pytest.raises(AlreadyExists):
        client.files.upload(f"{base}/f.txt/below", io.BytesIO(b""))
    with pytest.raises(AlreadyExists):
        client.files.upload(f"{base}/a", io.BytesIO(b""), overwrite=True)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/Volumes/main/default/files/%2e%2e/%2e%2e/x", 400),
        ("/Volumes/main/default/none/x", 404),
        ("/Volumes/main/default", 400),
        ("/Volumes/main/default/files", 400),
        ("/etc/passwd", 400),
        ("/Volumes/main/default/files/a%00b", 400),
        ("/Volumes/../.workspace/token/x/y", 400),
    ],
)
def test_malformed_paths_are_refused(
    http: requests.Session, info: WorkspaceInfo, path: str, status: int
) -> None:
    request = requests.Request("PUT", f"{info.host}/api/2.0/fs/files", data=b"x", headers=dict(http.headers))
    prepared = request.prepare()
    prepared.url = f"{info.host}/api/2.0/fs/files{path}"  # requests would tidy it up
    assert http.send(prepared).status_code == status


@pytest.mark.fault("A13")
@pytest.mark.parametrize("kind", ["fifo", "socket", "link", "device"])
def test_only_regular_files_are_read_and_nobody_waits(
    http: requests.Session, info: WorkspaceInfo, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "elsewhere").write_text("untouched")
    place = Path(info.root) / VOLUME.lstrip("/") / f"not_regular_{kind}"
    with contextlib.ExitStack() as stack:
        if kind == "fifo":
            os.mkfifo(place)
        elif kind == "socket":
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(os.path.relpath(place))  # a socket's path has a limit
        else:
            # A link to the inside: one that leads out is refused before it is looked at.
            target = place.with_name("target")
            target.write_text("inside")
            place.symlink_to(target if kind == "link" else "/dev/zero")
        url = f"{info.host}/api/2.0/fs/files{VOLUME}/{place.name}"
        answers = [http.get(url, timeout=60) for _ in range(3)]
        assert {answer.status_code for answer in answers} == {403 if kind == "device" else 400}
        if kind != "device":
            assert "not a regular file" in answers[0].json()["message"]
        assert http.head(url, timeout=60).status_code in {400, 403}
        put = http.put(f"{url}?overwrite=true", data=b"new", timeout=60)
        if kind in {"fifo", "socket"}:
            assert put.status_code == 204
            assert http.get(url, timeout=60).content == b"new"


@pytest.mark.fault("A13")
def test_a_pipe_in_dbfs_or_among_workspace_files_blocks_nobody(
    http: requests.Session, info: WorkspaceInfo
) -> None:
    http.post(f"{info.host}/api/2.0/dbfs/mkdirs", json={"path": "/pipes"}).raise_for_status()
    os.mkfifo(Layout(root=Path(info.root)).dbfs / "pipes" / "pipe")
    url = f"{info.host}/api/2.0/dbfs/read"
    answer = http.get(url, params={"path": "dbfs:/pipes/pipe"}, timeout=60)
    assert (answer.status_code, "not a regular file" in answer.json()["message"]) == (400, True)
    folder = Path(info.root) / "Workspace" / "Shared" / "pipes"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "pipe")
    url = f"{info.host}/api/2.0/workspace"
    listed = http.get(f"{url}/list", params={"path": "/Shared/pipes"}, timeout=60).json()["objects"]
    assert [item["object_type"] for item in listed] == ["FILE"]
    exported = http.get(f"{url}/export", params={"path": "/Shared/pipes/pipe"}, timeout=60)
    assert exported.status_code == 400


def test_a_link_out_of_the_volume_is_refused(
    http: requests.Session, info: WorkspaceInfo, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("s")
    (Path(info.root) / VOLUME.lstrip("/") / "link").symlink_to(tmp_path)
    assert http.get(f"{info.host}/api/2.0/fs/files{VOLUME}/link/secret").status_code == 403

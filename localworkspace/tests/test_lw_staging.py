"""PUT, GET and REMOVE by the unmodified connector, into Volumes and stages."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from databricks import sql
from local_workspace import WorkspaceInfo
from local_workspace.engine import EngineError
from local_workspace.options import USER
from local_workspace.warehouse.service import Transfer, is_transfer, read

VOLUME = "/Volumes/main/default/files"


@pytest.fixture
def cursor(info: WorkspaceInfo, tmp_path: Path) -> Iterator[Any]:
    with (
        sql.connect(
            server_hostname="127.0.0.1",
            http_path=info.http_path,
            access_token=info.token,
            _connection_uri=info.host + info.http_path,
            staging_allowed_local_path=str(tmp_path),
            enable_telemetry=False,
            _retry_stop_after_attempts_count=1,
        ) as connection,
        connection.cursor() as cursor,
    ):
        yield cursor


@pytest.mark.parametrize("remote", [f"{VOLUME}/staged/a b.csv", f"stage://tmp/{USER}/deep/a.csv"])
def test_a_file_goes_there_and_back_and_away(cursor: Any, tmp_path: Path, remote: str) -> None:
    (tmp_path / "here").write_bytes(b"1,\xff")
    cursor.execute(f"PUT '{tmp_path}/here' INTO '{remote}' OVERWRITE")
    with pytest.raises(sql.exc.ServerOperationError, match="FILE_IN_STAGING_PATH_ALREADY_EXISTS"):
        cursor.execute(f"-- again\nPUT '{tmp_path}/here' INTO '{remote}'")
    cursor.execute(f"GET '{remote}' TO '{tmp_path}/back'")
    assert (tmp_path / "back").read_bytes() == b"1,\xff"
    cursor.execute(f"REMOVE '{remote}'")
    with pytest.raises(sql.exc.OperationalError, match="unsuccessful: 404"):
        cursor.execute(f"GET '{remote}' TO '{tmp_path}/back'")


def test_a_stream_is_put(cursor: Any, info: WorkspaceInfo) -> None:
    cursor.execute(
        f"PUT '__input_stream__' INTO '{VOLUME}/streamed' OVERWRITE", input_stream=io.BytesIO(b"here")
    )
    assert Path(info.root, VOLUME.lstrip("/"), "streamed").read_bytes() == b"here"


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("GET 'stage://tmp/somebody@else/x' TO '/tmp/x'", "PERMISSION_DENIED"),
        (f"PUT '' INTO '{VOLUME}/x' OVERWRITE", "EMPTY_LOCAL_FILE_IN_STAGING_ACCESS_QUERY"),
        ("PUT 'x' INTO 's3://bucket/x'", "INVALID_STAGING_PATH_IN_STAGING_ACCESS_QUERY"),
        (f"REMOVE '{VOLUME}/../x'", "INVALID_STAGING_PATH_IN_STAGING_ACCESS_QUERY"),
        (f"GET 'stage://tmp/{USER}/../../token' TO '/tmp/x'", "INVALID_STAGING_PATH_IN_STAGING_ACCESS_QUERY"),
        ("REMOVE '/Volumes/nope/a/b/x'", "NOT_FOUND: Catalog 'nope'"),
        ("REMOVE '/Volumes/main/nope/b/x'", "NOT_FOUND: Schema 'main.nope'"),
        ("REMOVE '/Volumes/main/default/nope/x'", "NOT_FOUND: Volume 'main.default.nope'"),
        (rf"PUT 'x' INTO '{VOLUME}/\ud800'", "INVALID_STAGING_PATH_IN_STAGING_ACCESS_QUERY"),
        (f"PUT 'x' INTO '{VOLUME}/{'x' * 300}'", "INVALID_STAGING_PATH_IN_STAGING_ACCESS_QUERY"),
        (f"PUT 'x' '{VOLUME}/x'", "PARSE_SYNTAX_ERROR"),
    ],
)
def test_what_is_wrong_is_said(cursor: Any, statement: str, problem: str) -> None:
    with pytest.raises(sql.exc.ServerOperationError, match=problem):
        cursor.execute(statement)


def test_reading() -> None:
    assert is_transfer("/* x */ put 'a' into 'b'")
    assert not is_transfer("SELECT 'PUT a'")
    for start in (
        " ",
        "/**/",
        "--\n",
    ):  # a statement may begin with many, and the server answers others meanwhile
        assert not is_transfer(start * 2000 + "SELECT 1")
    wanted = Transfer(operation="PUT", remote="b", local="it's", overwrite=True)
    assert read(r"put 'it\'s' into 'b' overwrite") == wanted
    with pytest.raises(EngineError):
        read("GET 'b'")

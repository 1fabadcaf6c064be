"""Bodies, names and headers that nobody would send: a 4xx of one line, never a traceback, never a hang."""

from __future__ import annotations

import json
import re
import socket
import struct
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import local_workspace
import pytest
import requests
from databricks.sql.thrift_api.TCLIService import TCLIService, ttypes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from local_workspace import WorkspaceInfo
from lw_routes import ROUTES
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.transport.TTransport import TMemoryBuffer

# A failing example is printed with its seed: `@reproduce_failure(…)`.
TRIES = settings(
    max_examples=400, deadline=None, print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
_SOURCE = Path(local_workspace.__file__).parent
# Every field that a service asks for by name.
FIELDS = sorted(
    {
        name
        for path in _SOURCE.rglob("*.py")
        for name in re.findall(
            r"""(?:get|text|number|value|flag|content|upload)\((?:request, )?["'](\w+)["']""",
            path.read_text(),
        )
    }
)
_TEXTS = st.one_of(
    st.sampled_from(
        ["local", "main", "default", "main.default.files", "/Volumes/main/default/files/x", "1", "SELECT 1"]
    ),
    st.sampled_from(
        ["", "\0", "\ud800", "x" * 300, "/" * 5000, "é" * 200, "../..", "9" * 400, "1e999", "true"]
    ),
    st.text(max_size=20),
)
_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), _TEXTS,
)  # fmt: skip
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
    ),
    max_leaves=8,
)
_BODIES = st.dictionaries(st.sampled_from(FIELDS), _VALUES, max_size=8)


def one_line(reply: requests.Response) -> None:
    assert reply.status_code < 500, (reply.status_code, reply.text[:500])
    if reply.status_code >= 400 and reply.text and "json" in reply.headers.get("content-type", ""):
        document = reply.json()
        message = document["error_description" if "error" in document else "message"]  # of OAuth
        assert "\n" not in message
        assert "Traceback" not in message


@pytest.mark.fault("B7")
@TRIES
@given(
    route=st.sampled_from(ROUTES),
    name=_TEXTS,
    body=_BODIES,
    query=st.dictionaries(st.sampled_from(FIELDS), _TEXTS, max_size=3),
)
def test_rest(
    info: WorkspaceInfo,
    http: requests.Session,
    route: tuple[str, str],
    name: str,
    body: Any,
    query: dict[str, str],
) -> None:
    method, path = route
    plain = name.encode("utf-8", "surrogateescape" if name.isascii() else "replace")
    path = re.sub(r"\{\w+:int\}", "1", path)
    path = re.sub(r"\{[^}]*\}", lambda _: quote(plain, safe="/") or "x", path)
    asked = {key: value.encode("utf-8", "replace") for key, value in query.items()}
    data = json.dumps(body).encode()
    one_line(http.request(method, info.host + path, params=asked, data=data, timeout=120))


def _call(method: str, request: Any) -> bytes:
    buffer = TMemoryBuffer()
    getattr(TCLIService.Client(TBinaryProtocol(buffer)), f"send_{method}")(request)
    content: bytes = buffer.getvalue()
    return content


_SESSION = ttypes.TSessionHandle(
    sessionId=ttypes.THandleIdentifier(guid=b"0" * 16, secret=b"0" * 16), serverProtocolVersion=1
)
_CALLS = [
    _call("OpenSession", ttypes.TOpenSessionReq(client_protocol=1)),
    _call("OpenSession", ttypes.TOpenSessionReq(initialNamespace=ttypes.TNamespace(catalogName="x" * 300))),
    _call("ExecuteStatement", ttypes.TExecuteStatementReq(sessionHandle=_SESSION, statement="SELECT 1")),
    _call("CloseSession", ttypes.TCloseSessionReq(sessionHandle=_SESSION)),
    _call("GetTables", ttypes.TGetTablesReq(sessionHandle=_SESSION, tableName="%")),
]


@pytest.mark.fault("B7")
@TRIES
@given(data=st.data())
def test_thrift(info: WorkspaceInfo, http: requests.Session, data: st.DataObject) -> None:
    body = bytearray(data.draw(st.one_of(st.sampled_from(_CALLS), st.binary(max_size=60))))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    reply = http.post(info.host + info.http_path, data=bytes(body), timeout=120)
    one_line(reply)
    assert "\n" not in reply.headers.get("x-thriftserver-error-message", "")


@pytest.mark.fault("B7")
@pytest.mark.parametrize("depth", [5_000, 200_000])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_json_that_is_nested_deep(
    info: WorkspaceInfo, http: requests.Session, depth: int, opening: str
) -> None:
    closing = "]" if opening == "[" else "}"
    text = f'{{"tasks": {opening * depth}1{closing * depth}}}'
    for path in ("/api/2.2/jobs/runs/submit", "/api/2.0/sql/statements", "/api/2.0/secrets/put"):
        reply = http.post(info.host + path, data=text, timeout=120)
        assert reply.status_code == 400
        one_line(reply)


@pytest.mark.fault("B7")
def test_names_that_are_too_long(info: WorkspaceInfo, http: requests.Session) -> None:
    long = "n" * 3_000
    replies = [
        http.put(f"{info.host}/api/2.0/fs/files/Volumes/main/default/files/{long}", data=b"x", timeout=60),
        http.get(f"{info.host}/api/2.0/fs/files/Volumes/main/default/files/{long}", timeout=60),
        http.put(f"{info.host}/api/2.0/fs/directories/Volumes/main/default/files/{long}", timeout=60),
        http.get(f"{info.host}/api/2.1/unity-catalog/tables/main.default.{long}", timeout=60),
        http.post(
            f"{info.host}/api/2.1/unity-catalog/schemas",
            json={"name": long, "catalog_name": "main"},
            timeout=60,
        ),
        http.post(f"{info.host}/api/2.0/workspace/mkdirs", json={"path": f"/w/{long}"}, timeout=60),
    ]
    for reply in replies:
        assert 400 <= reply.status_code < 500, reply.url[:80]
        one_line(reply)


@pytest.mark.fault("B7")
def test_headers_that_are_too_large(info: WorkspaceInfo) -> None:
    address = urlsplit(info.host)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=60) as connection:
        connection.sendall(b"GET /api/2.0/preview/scim/v2/Me HTTP/1.1\r\nx-large: " + b"h" * 66_000)
        reply = connection.recv(4096).decode()
    assert reply.startswith("HTTP/1.1 4")
    assert "Traceback" not in reply


@pytest.mark.fault("B7")
def test_lengths_that_lie(info: WorkspaceInfo, http: requests.Session) -> None:
    """A Thrift list or text that says it has two thousand million elements."""
    for kind in (11, 15):  # string, list
        field = struct.pack("!bh", kind, 1) + (b"\x0b" if kind == 15 else b"") + struct.pack("!i", 2**31 - 1)
        body = struct.pack("!Ii", 0x80010001, 11) + b"OpenSession" + struct.pack("!i", 1)
        body += struct.pack("!bh", 12, 1) + field
        reply = http.post(info.host + info.http_path, data=body, timeout=60)
        assert reply.status_code == 400
        one_line(reply)

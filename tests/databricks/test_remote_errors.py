"""What vendors raise, and what we call it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from databricks.sdk.errors.parser import _Parser
from databricks.sql import exc

from databricks_rlm_agent.databricks.errors import (
    NoRetries,
    classify_sdk,
    classify_sql,
    sdk_errors,
    sql_errors,
)
from databricks_rlm_agent.databricks.sql import WarehouseSession
from databricks_rlm_agent.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    NotFound,
    Rejected,
    RemoteError,
    Throttled,
    Unauthorized,
    Unreachable,
)

# status, error_code, message, Retry-After, and our error
_REPLIES: list[tuple[int, str | None, str, str | None, type[RemoteError]]] = [
    (401, "UNAUTHENTICATED", "Token is expired.", None, Unauthorized),
    (401, None, "<html>", None, Unauthorized),
    (403, "403", "Invalid access token.", None, Unauthorized),
    (403, "PERMISSION_DENIED", "Invalid access token.", None, Unauthorized),
    (403, "403", "Invalid Token", None, Unauthorized),
    (403, None, "", None, Unauthorized),
    (403, "PERMISSION_DENIED", "User does not have USE SCHEMA on Schema 'main.x'.", None, Forbidden),
    (403, "PERMISSION_DENIED", "x does not have Manage permissions on the access token t", None, Forbidden),
    (404, "RESOURCE_DOES_NOT_EXIST", "No such file.", None, NotFound),
    (400, "INVALID_PARAMETER_VALUE", "Run 5 does not exist.", None, NotFound),
    (400, "INVALID_PARAMETER_VALUE", "No.", None, Rejected),
    (409, "ALREADY_EXISTS", "There.", None, AlreadyExists),
    (413, "PAYLOAD_TOO_LARGE", "Too large.", None, Rejected),
    (416, "INVALID_RANGE", "Range.", None, Rejected),
    (429, "REQUEST_LIMIT_EXCEEDED", "Slow.", "12", Throttled),
    (429, "RESOURCE_EXHAUSTED", "Slow.", None, Throttled),
    (500, "INTERNAL_ERROR", "Oh.", None, Unreachable),
    (501, "NOT_IMPLEMENTED", "Never.", None, Rejected),
    (502, None, "<html>bad gateway</html>", None, Unreachable),
    (503, "TEMPORARILY_UNAVAILABLE", "Later.", None, Unreachable),
    (503, "TEMPORARILY_UNAVAILABLE", "Later.", "12", Throttled),
    (504, "DEADLINE_EXCEEDED", "Late.", None, Unreachable),
]


def reply(status: int, code: str | None, message: str, retry_after: str | None) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.reason = {401: "Unauthorized", 403: "Forbidden", 502: "Bad Gateway"}.get(status, "Reason")
    response.request = requests.Request("GET", "https://example/api/2.2/jobs/runs/get").prepare()
    if code is not None:
        response._content = json.dumps({"error_code": code, "message": message}).encode()
    else:
        response._content = message.encode()
    if retry_after is not None:
        response.headers["Retry-After"] = retry_after
    return response


@pytest.mark.parametrize(("status", "code", "message", "retry_after", "kind"), _REPLIES)
def test_replies(
    status: int, code: str | None, message: str, retry_after: str | None, kind: type[RemoteError]
) -> None:
    error: Any = _Parser().get_api_error(reply(status, code, message, retry_after))
    mapped = classify_sdk(error, where="here")
    assert type(mapped) is kind
    if isinstance(mapped, Throttled) and retry_after:
        assert mapped.retry_after == 12


@pytest.mark.parametrize("error", [requests.ConnectionError("x"), requests.Timeout("x"), TimeoutError("x")])
def test_no_answer(error: Exception) -> None:
    assert type(classify_sdk(error, where="here")) is Unreachable


def test_the_sdk_is_stopped_before_its_first_pause() -> None:
    def as_the_sdk_does() -> None:
        try:
            raise requests.ConnectionError("reset")
        except requests.ConnectionError:
            NoRetries().sleep(1)

    with pytest.raises(Unreachable, match="reset") as raised, sdk_errors("here"):
        as_the_sdk_does()
    assert raised.value.where == "here"


def test_a_fault_of_our_own_is_not_dressed_up() -> None:
    with pytest.raises(ZeroDivisionError), sdk_errors("here"):
        raise ZeroDivisionError
    with pytest.raises(NotFound), sdk_errors("here"):
        raise NotFound("There is none.")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[DELTA_CONCURRENT_APPEND.ROW_LEVEL_CHANGES] x", Conflict),
        ("[TABLE_OR_VIEW_NOT_FOUND] x", NotFound),
        ("[ENGINE_UNAVAILABLE] The engine does not answer: refused SQLSTATE: 08006", Unreachable),
        ("[SOME_CONDITION] The connection broke. SQLSTATE: 08S01", Unreachable),
        ("[PARSE_SYNTAX_ERROR] near 'x_UNAVAILABLE]' SQLSTATE: 42601", Rejected),
        ("[INSUFFICIENT_PERMISSIONS] Insufficient privileges: SELECT", Forbidden),
        ("PERMISSION_DENIED: User does not have SELECT", Forbidden),
        ("Invalid access token", Unauthorized),
        ("[PARSE_SYNTAX_ERROR] Syntax error at or near '403'", Rejected),
        ("[UNRESOLVED_COLUMN] A column with name `unauthorized` cannot be resolved", Rejected),
    ],
)
def test_statements(text: str, kind: type[RemoteError]) -> None:
    assert type(classify_sql(text, where="here")) is kind


def request_error(code: int, cause: str = "") -> Exception:
    from databricks.sql import exc

    context = {"http-code": code, "original-exception": cause}
    return exc.RequestError(f"Error during request to server: {cause}", context)


@pytest.mark.parametrize(
    ("error", "pause", "kind"),
    [
        (request_error(401), None, Unauthorized),
        (request_error(403), None, Unauthorized),
        (request_error(403, "PERMISSION_DENIED: no CAN USE"), None, Forbidden),
        (request_error(403, "Invalid access token"), None, Unauthorized),
        (request_error(429), None, Throttled),
        (request_error(429), 4.0, Throttled),
        (request_error(503), 4.0, Throttled),
        (request_error(503), None, Unreachable),
        (request_error(500), None, Unreachable),
        (ConnectionResetError("x"), 4.0, Unreachable),
    ],
)
def test_requests_to_the_warehouse(error: Exception, pause: float | None, kind: type[RemoteError]) -> None:
    with pytest.raises(RemoteError) as raised, sql_errors("here", lambda: pause):
        raise error
    assert type(raised.value) is kind
    assert getattr(raised.value, "retry_after", pause) == pause


class LostCursor:
    """A cursor whose server was replaced while its statement ran."""

    rowcount = -1

    def __init__(self, text: str) -> None:
        self.text = text

    def __enter__(self) -> LostCursor:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def execute(self, *_arguments: object) -> None:
        raise exc.DatabaseError(self.text)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("handle", ["SessionHandle", "OperationHandle"])
def test_a_handle_that_the_server_has_forgotten_is_a_lost_session(handle: str) -> None:
    connection = SimpleNamespace(cursor=lambda **_: LostCursor(f"Invalid {handle}: {handle} [1]"))
    session = WarehouseSession(connection, where="here")
    with pytest.raises(Unreachable, match="session is gone"):
        session.fetch("SELECT 1")
    assert not session.alive

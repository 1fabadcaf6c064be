"""SQL Statement Execution API, and the one SQL warehouse."""

from __future__ import annotations

import re
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from databricks.sdk.service import sql as shapes
from starlette.responses import Response
from starlette.routing import Route

from local_workspace import threads
from local_workspace.engine import Engine, EngineError, EngineSession
from local_workspace.errors import ApiError, invalid, missing
from local_workspace.http import Call, Connection, Json, route
from local_workspace.options import HTTP_PATH, USER, WAREHOUSE_ID
from local_workspace.services.statement_results import Delivery, Result, parameters_of
from local_workspace.signed import Signer
from local_workspace.warehouse.sessions import Sessions, UnknownHandleError, WarehouseSession
from local_workspace.workspace import Workspace

_KEPT = 100
_BASE = "/api/2.0/sql"
_FINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "CLOSED"})


@dataclass(kw_only=True, eq=False)
class _Statement:
    id: str
    request: Json
    wanted: Delivery
    parameters: dict[str, Any] | list[Any] | None
    state: str = "PENDING"
    error: str | None = None
    sqlstate: str | None = None
    result: Result | None = None
    session: EngineSession | None = None
    done: threading.Event = field(default_factory=threading.Event)
    give_up: Callable[[], None] | None = None

    def orphaned(self, _connection: Connection) -> None:
        """Give up what nobody can ask for: the client has gone before it was told the id."""
        if self.give_up is not None:
            self.give_up()

    def response(self) -> Json:
        """The reply; result data is in it once the statement has succeeded."""
        state = self.state  # which is set last: what belongs to it is there
        status = shapes.StatementStatus(state=shapes.StatementState(state), sql_state=self.sqlstate)
        if state == "FAILED":
            code = shapes.ServiceErrorCode.BAD_REQUEST
            status.error = shapes.ServiceError(error_code=code, message=self.error)
        response = shapes.StatementResponse(statement_id=self.id, status=status).as_dict()
        return {**response, **self.finished().describe()} if state == "SUCCEEDED" else response

    def finished(self) -> Result:
        """Its result. Raises ApiError (404) where there is none."""
        if self.result is None:
            raise missing(f"The statement {self.id} has no result: it is {self.state}")
        return self.result


class Statements:
    """Runs statements, in the session they name or one of their own; keeps the latest results for a while."""

    def __init__(self, engine: Engine, signer: Signer) -> None:
        self._engine, self._signer = engine, signer
        self._sessions = Sessions(engine)
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Statement] = OrderedDict()

    def open_session(self, call: Call) -> Json:
        """Open a session with settings, in a catalog and a schema. Raises ApiError (400)."""
        _require_warehouse(call.text("warehouse_id"))
        settings = call.body.get("session_confs") or {}
        if not isinstance(settings, dict):
            raise invalid("session_confs must be an object")
        try:
            session = self._sessions.open(*_place(call), settings)
        except EngineError as error:
            raise ApiError(400, "BAD_REQUEST", error.message) from error
        return {"session_id": str(uuid.UUID(bytes=session.id))}

    def close_session(self, call: Call) -> None:
        """End a session, and what runs in it. Raises ApiError (404)."""
        self._sessions.close(self._session(call.text("id")))

    def _session(self, identity: str) -> WarehouseSession:
        try:
            return self._sessions.find(uuid.UUID(identity).bytes)
        except (ValueError, UnknownHandleError):
            raise missing(f"The session {identity} does not exist, or has ended") from None

    def execute(self, call: Call) -> Json:
        """Run a statement; wait for it for the time of `wait_timeout`."""
        _require_warehouse(call.text("warehouse_id"))
        call.text("statement")
        wanted, parameters = Delivery.of(call.body), parameters_of(call.body.get("parameters"))
        _place(call)
        if call.body.get("session_id"):
            self._session(call.text("session_id"))
        wait_s = _seconds(call.body.get("wait_timeout") or "10s")
        statement = _Statement(id=str(uuid.uuid4()), request=call.body, wanted=wanted, parameters=parameters)
        with self._lock:
            self._known[statement.id] = statement
            ended = [each.id for each in self._known.values() if each.done.is_set()]
            for old in ended[: max(0, len(self._known) - _KEPT)]:
                del self._known[old]
        statement.give_up = partial(self._cancel, statement)
        if call.connection is not None:
            call.connection.work.add(statement)
        threads.begin("statement", self._run, statement)
        if not statement.done.wait(wait_s) and call.body.get("on_wait_timeout") == "CANCEL":
            self._cancel(statement)
        statement.give_up = None
        return statement.response()

    def get(self, call: Call) -> Json:
        """The state of a statement, with its first chunk when there is one."""
        return self._find(call).response()

    def chunk(self, call: Call) -> shapes.ResultData:
        """A further chunk of a result."""
        return self._find(call).finished().chunk(call.number("index"))

    def data(self, call: Call) -> Response:
        """Return the bytes behind the link to a chunk."""
        data = self._find(call).finished().file(call.number("index"))
        return Response(data, media_type="application/octet-stream")

    def close(self, call: Call) -> None:
        """Forget a statement and its result; stop it if it runs."""
        statement = self._find(call)
        self._cancel(statement)
        with self._lock:
            self._known.pop(statement.id, None)

    def cancel(self, call: Call) -> None:
        """Interrupt a statement."""
        self._cancel(self._find(call))

    def _find(self, call: Call) -> _Statement:
        with self._lock:
            found = self._known.get(call.text("id"))
        if found is None:
            raise missing(f"The statement {call.text('id')} was not found")
        return found

    def _cancel(self, statement: _Statement) -> None:
        with self._lock:
            if statement.state in _FINAL:
                return
            statement.state = "CANCELED"
            session = statement.session
        if session is not None:
            session.cancel()
        statement.done.set()

    def _run(self, statement: _Statement) -> None:
        request = statement.request
        named, own = request.get("session_id"), None
        try:
            if not named:
                own = self._engine.session(catalog=request.get("catalog"), schema=request.get("schema"))
            self._evaluate(statement, own or self._session(str(named)).engine)
        except Exception as error:  # noqa: BLE001 - whatever the engine reports is the statement's error
            self._fail(statement, getattr(error, "message", str(error)), getattr(error, "sqlstate", None))
        finally:
            statement.done.set()
        try:
            if own is not None:
                own.close()
        except Exception as error:  # noqa: BLE001 - the statement's outcome is decided already
            threads.say(f"A session could not be closed: {error}")

    def _evaluate(self, statement: _Statement, session: EngineSession) -> None:
        with self._lock:
            if statement.state == "CANCELED":
                return
            statement.state, statement.session = "RUNNING", session
        request = statement.request
        table = session.execute(
            request["statement"],
            statement.parameters,
            cancelled=lambda: statement.state == "CANCELED",
        ).table
        path = f"{_BASE}/statements/{statement.id}/result/chunks"
        result = Result(table, statement.wanted, path, self._signer)
        with self._lock:
            if statement.state != "CANCELED":
                statement.result, statement.state = result, "SUCCEEDED"

    def _fail(self, statement: _Statement, message: str, sqlstate: str | None) -> None:
        with self._lock:
            if statement.state not in _FINAL:
                statement.sqlstate, statement.error, statement.state = sqlstate, message, "FAILED"


def _place(call: Call) -> tuple[str | None, str | None]:
    """Return catalog and schema, if there are any. Raises ApiError."""
    catalog, schema = (call.text(key) if call.body.get(key) else None for key in ("catalog", "schema"))
    return catalog, schema


def _seconds(text: object) -> float:
    """`0s`, or `5s` to `50s`. Raises ApiError."""
    if not re.fullmatch(r"0s|[5-9]s|[1-4][0-9]s|50s", str(text)):
        raise invalid(f"wait_timeout must be 0s or from 5s to 50s, got {text!r}")
    return float(str(text)[:-1])


def _require_warehouse(warehouse_id: str) -> None:
    """Raise ApiError (404) unless it is our one warehouse."""
    if warehouse_id != WAREHOUSE_ID:
        raise missing(
            f"SQL warehouse {warehouse_id} does not exist; the local workspace has {WAREHOUSE_ID!r}"
        )


def _warehouse(host: str) -> shapes.EndpointInfo:
    address = urlsplit(host)
    return shapes.EndpointInfo(
        id=WAREHOUSE_ID,
        name="Local warehouse",
        state=shapes.State.RUNNING,
        cluster_size="2X-Small",
        warehouse_type=shapes.EndpointInfoWarehouseType.PRO,
        enable_serverless_compute=True,
        auto_stop_mins=0,
        min_num_clusters=1,
        max_num_clusters=1,
        num_clusters=1,
        creator_name=USER,
        health=shapes.EndpointHealth(status=shapes.Status.HEALTHY),
        odbc_params=shapes.OdbcParams(
            hostname=address.hostname, port=address.port, path=HTTP_PATH, protocol=address.scheme
        ),
    )


def routes(workspace: Workspace) -> list[Route]:
    """The routes of `/api/2.0/sql` (the Thrift service is elsewhere)."""
    host = workspace.info.host
    statements = Statements(workspace.engine, Signer(host, workspace.info.token))
    base, all_warehouses = _BASE, shapes.ListWarehousesResponse(warehouses=[_warehouse(host)])

    def get_warehouse(call: Call) -> shapes.EndpointInfo:
        _require_warehouse(call.text("id"))
        return _warehouse(host)

    def start_or_stop(call: Call) -> None:
        _require_warehouse(call.text("id"))  # it always runs

    return [
        route("POST", f"{base}/statements", statements.execute),
        route("POST", f"{base}/statements/", statements.execute),
        route("GET", f"{base}/statements/{{id}}", statements.get),
        route("POST", f"{base}/statements/{{id}}/cancel", statements.cancel),
        route("GET", f"{base}/statements/{{id}}/result/chunks/{{index:int}}", statements.chunk),
        route("GET", f"{base}/statements/{{id}}/result/chunks/{{index:int}}/data", statements.data),
        route("DELETE", f"{base}/statements/{{id}}", statements.close),
        route("POST", f"{base}/sessions", statements.open_session),
        route("DELETE", f"{base}/sessions/{{id}}", statements.close_session),
        route("GET", f"{base}/warehouses", lambda _call: all_warehouses),
        route("GET", f"{base}/warehouses/{{id}}", get_warehouse),
        route("POST", f"{base}/warehouses/{{id}}/start", start_or_stop),
        route("POST", f"{base}/warehouses/{{id}}/stop", start_or_stop),
    ]

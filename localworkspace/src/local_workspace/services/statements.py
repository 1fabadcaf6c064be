"""SQL Statement Execution API, and the one SQL warehouse."""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from starlette.routing import Route

from local_workspace.errors import ApiError, invalid, missing
from local_workspace.options import HTTP_PATH, WAREHOUSE_ID
from local_workspace.seam import SqlEngine
from local_workspace.services.identity import USER
from local_workspace.services.sqlvalues import bound, columns, rows
from local_workspace.web import Call, Json, route

_KEPT = 100
_CHUNK_ROWS = 10_000
_FINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "CLOSED"})


@dataclass(kw_only=True)
class _Statement:
    id: str
    request: Json
    state: str = "PENDING"
    error: Json | None = None
    sqlstate: str | None = None
    schema: list[Json] = field(default_factory=list)
    rows: list[list[str | None]] = field(default_factory=list)
    truncated: bool = False
    session: Any = None
    done: threading.Event = field(default_factory=threading.Event)

    def document(self) -> Json:
        """The reply; result data is in it once the statement has succeeded."""
        status: Json = {"state": self.state}
        if self.error:
            status |= {"error": self.error} | ({"sql_state": self.sqlstate} if self.sqlstate else {})
        reply: Json = {"statement_id": self.id, "status": status}
        if self.state == "SUCCEEDED":
            reply |= {"manifest": self._manifest(), "result": self.chunk(0)}
        return reply

    def _starts(self) -> list[int]:
        return list(range(0, len(self.rows), _CHUNK_ROWS)) or [0]

    def _manifest(self) -> Json:
        starts = self._starts()
        return {
            "format": "JSON_ARRAY",
            "schema": {"column_count": len(self.schema), "columns": self.schema},
            "total_chunk_count": len(starts) if self.rows else 0,
            "total_row_count": len(self.rows),
            "truncated": self.truncated,
            "chunks": [
                {"chunk_index": i, "row_offset": at, "row_count": len(self.rows[at : at + _CHUNK_ROWS])}
                for i, at in enumerate(starts)
            ],
        }

    def chunk(self, index: int) -> Json:
        """One chunk of the rows. Raises ApiError (400)."""
        starts = self._starts()
        if not 0 <= index < len(starts):
            raise invalid(f"chunk_index {index} does not exist: the result has {len(starts)} chunks")
        data = self.rows[starts[index] : starts[index] + _CHUNK_ROWS]
        reply: Json = {"chunk_index": index, "row_offset": starts[index], "row_count": len(data)}
        reply |= {"data_array": data} if data else {}
        if index + 1 < len(starts):
            link = f"/api/2.0/sql/statements/{self.id}/result/chunks/{index + 1}"
            reply |= {"next_chunk_index": index + 1, "next_chunk_internal_link": link}
        return reply


class Statements:
    """Runs statements, each in a session of its own, and keeps the latest results for a while."""

    def __init__(self, engine: SqlEngine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Statement] = OrderedDict()

    def execute(self, call: Call) -> Json:
        """Run a statement; wait for it as long as `wait_timeout` says."""
        require_warehouse(call.text("warehouse_id"))
        call.text("statement")
        if (call.body.get("format") or "JSON_ARRAY") != "JSON_ARRAY":
            raise invalid("The local workspace returns the format JSON_ARRAY only")
        if (call.body.get("disposition") or "INLINE") != "INLINE":
            raise invalid("The local workspace returns the disposition INLINE only")
        wait_s = _seconds(call.body.get("wait_timeout") or "10s")
        statement = _Statement(id=str(uuid.uuid4()), request=call.body)
        with self._lock:
            self._known[statement.id] = statement
            while len(self._known) > _KEPT and next(iter(self._known.values())).done.is_set():
                self._known.popitem(last=False)
        worker = threading.Thread(target=self._run, args=(statement,), name="statement", daemon=True)
        worker.start()
        if not statement.done.wait(wait_s) and call.body.get("on_wait_timeout") == "CANCEL":
            self._cancel(statement)
        return statement.document()

    def get(self, call: Call) -> Json:
        """The state of a statement, with its first chunk when there is one."""
        return self._find(call).document()

    def chunk(self, call: Call) -> Json:
        """A further chunk of a result."""
        return self._find(call).chunk(call.number("index"))

    def cancel(self, call: Call) -> Json:
        """Interrupt a statement."""
        self._cancel(self._find(call))
        return {}

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
        try:
            session = self._engine.session(catalog=request.get("catalog"), schema=request.get("schema"))
            try:
                self._evaluate(statement, session)
            finally:
                session.close()
        except ApiError as problem:
            self._fail(statement, problem.message, None)
        except Exception as error:  # noqa: BLE001 - whatever the engine says is the statement's error
            self._fail(statement, getattr(error, "message", str(error)), getattr(error, "sqlstate", None))
        finally:
            statement.done.set()

    def _evaluate(self, statement: _Statement, session: Any) -> None:
        with self._lock:
            if statement.state == "CANCELED":
                return
            statement.state, statement.session = "RUNNING", session
        request = statement.request
        table = session.execute(request["statement"], bound(request.get("parameters"))).table
        limit = int(request.get("row_limit") or 0)
        shown = table.slice(0, limit) if limit else table
        data = rows(shown)
        with self._lock:
            if statement.state == "CANCELED":
                return
            statement.schema, statement.rows = columns(table.schema), data
            statement.truncated = len(data) < table.num_rows
            statement.state = "SUCCEEDED"

    def _fail(self, statement: _Statement, message: str, sqlstate: str | None) -> None:
        with self._lock:
            if statement.state != "CANCELED":
                statement.state, statement.sqlstate = "FAILED", sqlstate
                statement.error = {"error_code": "BAD_REQUEST", "message": message}


def _seconds(text: str) -> float:
    """`0s`, or `5s` to `50s`. Raises ApiError."""
    number = text.removesuffix("s")
    if not text.endswith("s") or not number.isdigit() or not (number == "0" or 5 <= int(number) <= 50):
        raise invalid(f"wait_timeout must be 0s or from 5s to 50s, got {text!r}")
    return float(number)


def require_warehouse(warehouse_id: str) -> None:
    """Raises ApiError (404) unless it is our one warehouse."""
    if warehouse_id != WAREHOUSE_ID:
        raise missing(
            f"SQL warehouse {warehouse_id} does not exist; the local workspace has {WAREHOUSE_ID!r}"
        )


def _warehouse(host: str) -> Json:
    address, _, port = host.removeprefix("http://").partition(":")
    return {
        "id": WAREHOUSE_ID,
        "name": "Local warehouse",
        "state": "RUNNING",
        "cluster_size": "2X-Small",
        "warehouse_type": "PRO",
        "enable_serverless_compute": True,
        "auto_stop_mins": 0,
        "min_num_clusters": 1,
        "max_num_clusters": 1,
        "num_clusters": 1,
        "creator_name": USER,
        "health": {"status": "HEALTHY"},
        "odbc_params": {"hostname": address, "port": int(port or 80), "path": HTTP_PATH, "protocol": "http"},
    }


def routes(engine: SqlEngine, host: str) -> list[Route]:
    """The routes of `/api/2.0/sql` (the Thrift service is elsewhere)."""
    statements = Statements(engine)
    base = "/api/2.0/sql"

    def one(call: Call) -> Json:
        require_warehouse(call.text("id"))
        return _warehouse(host)

    def nothing(call: Call) -> Json:
        require_warehouse(call.text("id"))
        return {}

    return [
        route("POST", f"{base}/statements", statements.execute),
        route("POST", f"{base}/statements/", statements.execute),
        route("GET", f"{base}/statements/{{id}}", statements.get),
        route("POST", f"{base}/statements/{{id}}/cancel", statements.cancel),
        route("GET", f"{base}/statements/{{id}}/result/chunks/{{index:int}}", statements.chunk),
        route("GET", f"{base}/warehouses", lambda _call: {"warehouses": [_warehouse(host)]}),
        route("GET", f"{base}/warehouses/{{id}}", one),
        route("POST", f"{base}/warehouses/{{id}}/start", nothing),  # it always runs
        route("POST", f"{base}/warehouses/{{id}}/stop", nothing),
    ]

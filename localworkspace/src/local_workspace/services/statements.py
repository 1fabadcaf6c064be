"""SQL Statement Execution API, and the one SQL warehouse."""

from __future__ import annotations

import datetime
import decimal
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from databricks.sdk.service import sql as shapes
from starlette.routing import Route

from local_workspace import threads
from local_workspace.engine import Engine, EngineSession
from local_workspace.engine.texts import interval_name, is_interval, readable, text_of
from local_workspace.errors import invalid, missing
from local_workspace.http import Call, Connection, Json, route
from local_workspace.options import HTTP_PATH, USER, WAREHOUSE_ID
from local_workspace.workspace import Workspace

_KEPT = 100
_CHUNK_ROWS = 10_000
_FINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "CLOSED"})


@dataclass(kw_only=True, eq=False)
class _Statement:
    id: str
    request: Json
    state: str = "PENDING"
    error: str | None = None
    sqlstate: str | None = None
    columns: list[shapes.ColumnInfo] = field(default_factory=list)
    rows: list[list[str | None]] = field(default_factory=list)
    truncated: bool = False
    session: EngineSession | None = None
    done: threading.Event = field(default_factory=threading.Event)
    give_up: Callable[[], None] | None = None

    def orphaned(self, _connection: Connection) -> None:
        """Give up what nobody can ask for: the client has gone before it was told the id."""
        if self.give_up is not None:
            self.give_up()

    def response(self) -> shapes.StatementResponse:
        """The reply; result data is in it once the statement has succeeded."""
        status = shapes.StatementStatus(state=shapes.StatementState(self.state), sql_state=self.sqlstate)
        if self.error is not None:
            code = shapes.ServiceErrorCode.BAD_REQUEST
            status.error = shapes.ServiceError(error_code=code, message=self.error)
        response = shapes.StatementResponse(statement_id=self.id, status=status)
        if self.state == "SUCCEEDED":
            response.manifest, response.result = self._manifest(), self.chunk(0)
        return response

    def _starts(self) -> list[int]:
        return list(range(0, len(self.rows), _CHUNK_ROWS)) or [0]

    def _manifest(self) -> shapes.ResultManifest:
        starts = self._starts()
        return shapes.ResultManifest(
            format=shapes.Format.JSON_ARRAY,
            schema=shapes.ResultSchema(column_count=len(self.columns), columns=self.columns),
            total_chunk_count=len(starts) if self.rows else 0,
            total_row_count=len(self.rows),
            truncated=self.truncated,
            chunks=[
                shapes.BaseChunkInfo(
                    chunk_index=index, row_offset=at, row_count=len(self.rows[at : at + _CHUNK_ROWS])
                )
                for index, at in enumerate(starts)
            ],
        )

    def chunk(self, index: int) -> shapes.ResultData:
        """One chunk of the rows. Raises ApiError (400)."""
        starts = self._starts()
        if not 0 <= index < len(starts):
            raise invalid(f"chunk_index {index} does not exist: the result has {len(starts)} chunks")
        rows = self.rows[starts[index] : starts[index] + _CHUNK_ROWS]
        # The SDK's type leaves out that a value may be NULL.
        values: Any = rows
        chunk = shapes.ResultData(
            chunk_index=index, row_offset=starts[index], row_count=len(rows), data_array=values
        )
        if index + 1 < len(starts):
            chunk.next_chunk_index = index + 1
            chunk.next_chunk_internal_link = f"/api/2.0/sql/statements/{self.id}/result/chunks/{index + 1}"
        return chunk


class Statements:
    """Runs statements, each in a session of its own, and keeps the latest results for a while."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Statement] = OrderedDict()

    def execute(self, call: Call) -> shapes.StatementResponse:
        """Run a statement; wait for it for the time of `wait_timeout`."""
        _require_warehouse(call.text("warehouse_id"))
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
        statement.give_up = partial(self._cancel, statement)
        if call.connection is not None:
            call.connection.work.add(statement)
        threads.begin("statement", self._run, statement)
        if not statement.done.wait(wait_s) and call.body.get("on_wait_timeout") == "CANCEL":
            self._cancel(statement)
        statement.give_up = None
        return statement.response()

    def get(self, call: Call) -> shapes.StatementResponse:
        """The state of a statement, with its first chunk when there is one."""
        return self._find(call).response()

    def chunk(self, call: Call) -> shapes.ResultData:
        """A further chunk of a result."""
        return self._find(call).chunk(call.number("index"))

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
        session = None
        try:
            session = self._engine.session(catalog=request.get("catalog"), schema=request.get("schema"))
            self._evaluate(statement, session)
        except Exception as error:  # noqa: BLE001 - whatever the engine reports is the statement's error
            self._fail(statement, getattr(error, "message", str(error)), getattr(error, "sqlstate", None))
        finally:
            statement.done.set()
        try:
            if session is not None:
                session.close()
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
            _parameters_of(request.get("parameters")),
            cancelled=lambda: statement.state == "CANCELED",
        ).table
        limit = int(request.get("row_limit") or 0)
        rows = _rows_of(table.slice(0, limit) if limit else table)
        rows = _within(rows, int(request.get("byte_limit") or 0))
        columns = _columns_of(table.schema)
        with self._lock:
            if statement.state == "CANCELED":
                return
            statement.columns, statement.rows = columns, rows
            statement.truncated = len(rows) < table.num_rows
            statement.state = "SUCCEEDED"

    def _fail(self, statement: _Statement, message: str, sqlstate: str | None) -> None:
        with self._lock:
            if statement.state not in _FINAL:
                statement.state, statement.sqlstate, statement.error = "FAILED", sqlstate, message


def _within(rows: list[list[str | None]], limit: int) -> list[list[str | None]]:
    """The first rows whose values have at most `limit` bytes; all where it is 0."""
    if not limit:
        return rows
    total = 0
    for index, row in enumerate(rows):
        total += sum(len(value.encode()) for value in row if value is not None)
        if total > limit:
            return rows[:index]
    return rows


def _seconds(text: str) -> float:
    """`0s`, or `5s` to `50s`. Raises ApiError."""
    number = text.removesuffix("s")
    if not text.endswith("s") or not number.isdigit() or not (number == "0" or 5 <= int(number) <= 50):
        raise invalid(f"wait_timeout must be 0s or from 5s to 50s, got {text!r}")
    return float(number)


# --- values: parameters from text, columns and rows as JSON_ARRAY has them

_READERS: dict[str, Callable[[str], Any]] = {
    "STRING": str,
    "BOOLEAN": lambda text: {"true": True, "false": False}[text.lower()],
    "DOUBLE": float,
    "FLOAT": float,
    "DECIMAL": decimal.Decimal,
    "DATE": datetime.date.fromisoformat,
    "TIMESTAMP": datetime.datetime.fromisoformat,
    "TIMESTAMP_NTZ": datetime.datetime.fromisoformat,
    "VOID": lambda _text: None,
    **dict.fromkeys(("INT", "BIGINT", "LONG", "SMALLINT", "SHORT", "TINYINT", "BYTE"), int),
}


def _parameters_of(parameters: Any) -> dict[str, Any] | None:
    """Named parameters as Python values. Raises ApiError (400) for what cannot be read."""
    if not parameters:
        return None
    values: dict[str, Any] = {}
    for item in parameters:
        kind = str(item.get("type") or "STRING").upper()
        reader = _READERS.get(kind.partition("(")[0])
        if reader is None:
            raise invalid(f"Parameter {item.get('name')}: unknown type {kind}")
        text = item.get("value")
        try:
            values[str(item["name"])] = None if text is None else reader(str(text))
        except (KeyError, ValueError, ArithmeticError):
            raise invalid(f"Parameter {item.get('name')}: {text!r} is not a {kind}") from None
    return values


# By Arrow's name: the type's text in SQL, and the API's name where that is another.
_TYPES = {
    "int8": ("TINYINT", "BYTE"), "int16": ("SMALLINT", "SHORT"), "int32": ("INT", "INT"),
    "int64": ("BIGINT", "LONG"), "float": ("FLOAT", "FLOAT"), "double": ("DOUBLE", "DOUBLE"),
    "bool": ("BOOLEAN", "BOOLEAN"), "string": ("STRING", "STRING"), "large_string": ("STRING", "STRING"),
    "string_view": ("STRING", "STRING"), "binary": ("BINARY", "BINARY"), "large_binary": ("BINARY", "BINARY"),
    "date32[day]": ("DATE", "DATE"), "null": ("VOID", "NULL"),
}  # fmt: skip


def _columns_of(schema: Any) -> list[shapes.ColumnInfo]:
    """Column descriptions for an Arrow schema."""
    columns = []
    for position, column in enumerate(schema):
        text, name = _type(column.type)
        exact = name == "DECIMAL"
        columns.append(
            shapes.ColumnInfo(
                name=column.name,
                position=position,
                type_text=text,
                type_name=shapes.ColumnInfoTypeName(name),
                type_precision=column.type.precision if exact else None,
                type_scale=column.type.scale if exact else None,
                type_interval_type=interval_name(column.type) if name == "INTERVAL" else None,
            )
        )
    return columns


def _type(kind: Any) -> tuple[str, str]:
    """The text of an Arrow type in SQL, and its name in the API (databricks-sdk, sql.ColumnInfoTypeName)."""
    import pyarrow.types as is_a

    if is_a.is_timestamp(kind):
        return "TIMESTAMP" if kind.tz else "TIMESTAMP_NTZ", "TIMESTAMP"
    if is_a.is_decimal(kind):
        return f"DECIMAL({kind.precision},{kind.scale})", "DECIMAL"
    if is_a.is_map(kind):
        return f"MAP<{_type(kind.key_type)[0]}, {_type(kind.item_type)[0]}>", "MAP"
    if is_a.is_struct(kind):
        return f"STRUCT<{', '.join(f'{item.name}: {_type(item.type)[0]}' for item in kind)}>", "STRUCT"
    if is_a.is_nested(kind):
        return f"ARRAY<{_type(kind.value_type)[0]}>", "ARRAY"
    if is_interval(kind):
        return f"INTERVAL {interval_name(kind)}", "INTERVAL"
    return _TYPES.get(str(kind)) or (str(kind).upper(), "USER_DEFINED_TYPE")


def _rows_of(table: Any) -> list[list[str | None]]:
    """All values of an Arrow table as strings, NULL as None."""
    columns = [
        [text_of(value, field.type) for value in column.to_pylist()]
        for column, field in zip(readable(table).itercolumns(), table.schema, strict=True)
    ]
    return [list(row) for row in zip(*columns, strict=True)] if columns else []


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
    statements, host = Statements(workspace.engine), workspace.info.host
    base = "/api/2.0/sql"

    def list_warehouses(_call: Call) -> shapes.ListWarehousesResponse:
        return shapes.ListWarehousesResponse(warehouses=[_warehouse(host)])

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
        route("GET", f"{base}/warehouses", list_warehouses),
        route("GET", f"{base}/warehouses/{{id}}", get_warehouse),
        route("POST", f"{base}/warehouses/{{id}}/start", start_or_stop),
        route("POST", f"{base}/warehouses/{{id}}/stop", start_or_stop),
    ]

"""Sessions of the warehouse, and their operations: statements that run, results, errors."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
from databricks.sql.thrift_api.TCLIService import ttypes as t

from local_workspace.engine import Engine, EngineError, EngineSession, StatementResult
from local_workspace.engine.texts import presentable
from local_workspace.http import Connection

from . import messages

# A Databricks SQL warehouse ends a session that nobody used for so long; nothing here is billed by the hour.
IDLE_SECONDS = 8 * 3600.0
STATEMENT_THREADS = 64

SUCCESS = t.TStatus(statusCode=t.TStatusCode.SUCCESS_STATUS)

# Settings of the protocol, which the connector sends with every session.
_OF_THE_PROTOCOL = "spark.thriftserver."

# What an operation does; its argument tells whether the operation has been cancelled meanwhile.
Run = Callable[[Callable[[], bool]], StatementResult]


class UnknownHandleError(Exception):
    """A session or operation handle that this server never gave out, or has closed."""


class Operation:
    """One statement: running, or finished with a result or an error."""

    def __init__(self, session: WarehouseSession, run: Run, executor: Executor) -> None:
        self.id = uuid.uuid4().bytes
        self.session = session
        self.offset = 0
        self.lz4 = False
        self.staging = False  # whether its row tells the client to move a file
        self.cancelled = False
        self._connection: Connection | None = None
        self._future: Future[StatementResult] = executor.submit(run, lambda: self.cancelled)

    def asked_by(self, connection: Connection | None) -> None:
        """Note by which connection the client has asked last."""
        self._connection = connection
        if connection is not None:
            connection.work.add(self)

    def orphaned(self, connection: Connection) -> None:
        """Stop what nobody waits for any more, unless the client has asked by another connection since."""
        if connection is self._connection:
            self.cancel()

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for the end; return whether it has come."""
        try:
            self._future.exception(timeout=seconds)
        except TimeoutError:
            return False
        return True

    @property
    def error(self) -> EngineError | None:
        """Its error; None when it has not failed, or not yet."""
        error = self._future.exception() if self._future.done() else None
        if error is None or isinstance(error, EngineError):
            return error
        text = f"{type(error).__name__}: {error}"
        return EngineError.of("INTERNAL_ERROR", f"The local workspace failed: {text}", "XX000")

    @property
    def result(self) -> StatementResult | None:
        """The result of a statement that succeeded."""
        return self._future.result() if self._future.done() and self._future.exception() is None else None

    def cancel(self) -> None:
        """Stop the statement if it still runs."""
        if not self._future.done():
            self.cancelled = True
            self.session.engine.cancel()

    # --- Thrift's answers about it

    def status(self) -> Any:
        """Return its state; an error travels here, so that the connector raises ServerOperationError."""
        states = t.TOperationState
        status = t.TGetOperationStatusResp(
            status=SUCCESS, operationState=states.RUNNING_STATE, hasResultSet=True
        )
        error, result = self.error, self.result
        if error is not None:
            status.operationState = states.CANCELED_STATE if self.cancelled else states.ERROR_STATE
            status.sqlState = error.sqlstate
            status.errorMessage = status.displayMessage = status.diagnosticInfo = error.message
        elif result is not None:
            status.operationState = states.FINISHED_STATE
            status.numModifiedRows = result.affected_rows
        return status

    def metadata(self) -> Any:
        """Return the columns of its result; none while there is none."""
        result = self.result
        schema = presentable(result.table).schema if result is not None else pa.schema([])
        return t.TGetResultSetMetadataResp(
            status=SUCCESS,
            schema=messages.hive_schema(schema),
            resultFormat=t.TSparkRowSetType.ARROW_BASED_SET,
            lz4Compressed=self.lz4,
            arrowSchema=schema.serialize().to_pybytes(),
            isStagingOperation=self.staging,
        )

    def page(self, max_rows: int | None, max_bytes: int | None) -> Any:
        """Return the next rows of the result that it has."""
        result = self.result
        assert result is not None  # callers have looked
        table = presentable(result.table)
        rows = messages.page_rows(table, self.offset, max_rows, max_bytes)
        page = messages.row_set(table, self.offset, rows, compress=self.lz4)
        self.offset += rows
        more = self.offset < table.num_rows
        return t.TFetchResultsResp(status=SUCCESS, hasMoreRows=more, results=page)


class WarehouseSession:
    """One connection's session."""

    def __init__(self, engine: EngineSession, now: float) -> None:
        self.id = uuid.uuid4().bytes
        self.engine = engine
        self.used = now
        self.operations: dict[bytes, Operation] = {}


class Sessions:
    """All open sessions. Safe for threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._statements = ThreadPoolExecutor(STATEMENT_THREADS, thread_name_prefix="warehouse-statement")
        self._sessions: dict[bytes, WarehouseSession] = {}
        self._guard = threading.Lock()

    def open(
        self, catalog: str | None, schema: str | None, configuration: Mapping[str, str] | None = None
    ) -> WarehouseSession:
        """A new session; raises `EngineError` when the catalog or a parameter does not exist."""
        self._expire()
        engine = self._engine.session(catalog=catalog, schema=schema)
        try:
            for key, value in (configuration or {}).items():
                if not key.startswith(_OF_THE_PROTOCOL):
                    engine.execute(f"SET {key} = {value}")
        except BaseException:
            engine.close()
            raise
        session = WarehouseSession(engine, time.monotonic())
        with self._guard:
            self._sessions[session.id] = session
        return session

    def get(self, handle: Any) -> WarehouseSession:
        """The session of a Thrift handle; raises `UnknownHandleError`."""
        return self.find(handle.sessionId.guid)

    def find(self, guid: bytes) -> WarehouseSession:
        """Return a session, which is used now. Raises `UnknownHandleError`."""
        session = self._sessions.get(guid)
        if session is None:
            raise UnknownHandleError(f"Invalid SessionHandle: SessionHandle [{_text(guid)}]")
        session.used = time.monotonic()
        return session

    def close(self, session: WarehouseSession) -> None:
        """End a session and what runs in it."""
        with self._guard:
            self._sessions.pop(session.id, None)
        self._end(session)

    def start(self, session: WarehouseSession, run: Run) -> Operation:
        """Run a function in a thread as an operation of the session."""
        operation = Operation(session, run, self._statements)
        session.operations[operation.id] = operation
        return operation

    def operation(self, handle: Any) -> Operation:
        """The operation of a Thrift handle; raises `UnknownHandleError`."""
        guid = handle.operationId.guid
        for session in list(self._sessions.values()):
            if guid in session.operations:
                session.used = time.monotonic()
                return session.operations[guid]
        raise UnknownHandleError(f"Invalid OperationHandle: OperationHandle [{_text(guid)}]")

    def close_operation(self, operation: Operation) -> None:
        """Forget an operation; stops it when it still runs."""
        operation.cancel()
        operation.session.operations.pop(operation.id, None)

    def _expire(self) -> None:
        oldest = time.monotonic() - IDLE_SECONDS
        with self._guard:
            idle = [session for session in self._sessions.values() if session.used < oldest]
            for session in idle:
                del self._sessions[session.id]
        for session in idle:
            self._end(session)

    def _end(self, session: WarehouseSession) -> None:
        for operation in list(session.operations.values()):
            self.close_operation(operation)
        session.engine.close()


def _text(guid: bytes | None) -> str:
    return str(uuid.UUID(bytes=guid)) if guid and len(guid) == 16 else repr(guid)

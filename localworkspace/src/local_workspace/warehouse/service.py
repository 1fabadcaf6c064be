"""The calls of the TCLIService: sessions, statements, results, metadata.

Method names are Thrift's. What is sent and expected was read from databricks-sql-connector 4.9
(`backend/thrift_backend.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from local_workspace.engine import Engine, EngineError, StatementResult

from . import results
from .sessions import Operation, Sessions, UnknownHandleError

# A statement shorter than this comes back in the first answer; a longer one is polled for. The connector
# polls without a pause and holds its lock meanwhile: the wait at a poll is short enough for a cancel.
FIRST_WAIT_SECONDS = 1.0
POLL_WAIT_SECONDS = 0.2
_STATEMENT_THREADS = 64


class GoneError(Exception):
    """A session or operation to close that is not there; travels as HTTP 404."""


class ThriftService:
    """The handler object that `TCLIService.Processor` calls. Safe for threads."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        statements = ThreadPoolExecutor(_STATEMENT_THREADS, thread_name_prefix="warehouse-statement")
        self._tree = engine.catalog
        self._sessions = Sessions(engine, statements, clock)

    # --- sessions

    def OpenSession(self, req: Any) -> Any:  # noqa: N802 - Thrift's name
        """Open a session in the initial catalog and schema, if given."""
        t = _ttypes()
        namespace = req.initialNamespace
        try:
            session = self._sessions.open(
                namespace.catalogName if namespace else None, namespace.schemaName if namespace else None
            )
        except EngineError as error:
            return t.TOpenSessionResp(status=_failed(error), serverProtocolVersion=_version())
        identifier = t.THandleIdentifier(guid=session.id, secret=session.id)
        return t.TOpenSessionResp(
            status=_success(),
            serverProtocolVersion=_version(),
            sessionHandle=t.TSessionHandle(sessionId=identifier, serverProtocolVersion=_version()),
            configuration={},
            initialNamespace=namespace,
            canUseMultipleCatalogs=True,
        )

    def CloseSession(self, req: Any) -> Any:  # noqa: N802
        """End a session; raises `GoneError` when there is none."""
        try:
            self._sessions.close(req.sessionHandle)
        except UnknownHandleError as error:
            raise GoneError(str(error)) from error
        return _ttypes().TCloseSessionResp(status=_success())

    def GetInfo(self, req: Any) -> Any:  # noqa: N802
        """Name and version of the server."""
        t = _ttypes()
        known = {
            t.TGetInfoType.CLI_SERVER_NAME: "Spark SQL",
            t.TGetInfoType.CLI_DBMS_NAME: "Spark SQL",
            t.TGetInfoType.CLI_DBMS_VER: "4.0.0",
        }
        return t.TGetInfoResp(
            status=_success(), infoValue=t.TGetInfoValue(stringValue=known.get(req.infoType, ""))
        )

    # --- statements

    def ExecuteStatement(self, req: Any) -> Any:  # noqa: N802
        """Run a statement; small results come with the answer."""

        def start() -> Operation:
            session = self._sessions.get(req.sessionHandle)
            literals = results.literals_of(req.parameters)
            return self._sessions.start(
                session, lambda: _limited(session.engine.execute(req.statement, literals), req.resultRowLimit)
            )

        return self._started(
            req, start, _ttypes().TExecuteStatementResp, lz4=bool(req.canDecompressLZ4Result)
        )

    def GetOperationStatus(self, req: Any) -> Any:  # noqa: N802
        """The state of a statement."""
        try:
            operation = self._sessions.operation(req.operationHandle)
        except UnknownHandleError as error:
            return _ttypes().TGetOperationStatusResp(status=_invalid(error))
        operation.wait(POLL_WAIT_SECONDS)
        return _status(operation)

    def CancelOperation(self, req: Any) -> Any:  # noqa: N802
        """Interrupt a statement. Of one that has ended, nothing is left to cancel."""
        t = _ttypes()
        try:
            self._sessions.operation(req.operationHandle).cancel()
        except UnknownHandleError as error:
            return t.TCancelOperationResp(status=_invalid(error))
        return t.TCancelOperationResp(status=_success())

    def CloseOperation(self, req: Any) -> Any:  # noqa: N802
        """Forget a statement and its result; raises `GoneError` when there is none."""
        try:
            self._sessions.close_operation(self._sessions.operation(req.operationHandle))
        except UnknownHandleError as error:
            raise GoneError(str(error)) from error
        return _ttypes().TCloseOperationResp(status=_success())

    def GetResultSetMetadata(self, req: Any) -> Any:  # noqa: N802
        """The columns of a result."""
        try:
            return _metadata(self._sessions.operation(req.operationHandle))
        except UnknownHandleError as error:
            return _ttypes().TGetResultSetMetadataResp(status=_invalid(error))

    def FetchResults(self, req: Any) -> Any:  # noqa: N802
        """The next rows of a result."""
        try:
            operation = self._sessions.operation(req.operationHandle)
        except UnknownHandleError as error:
            return _ttypes().TFetchResultsResp(status=_invalid(error))
        operation.wait(FIRST_WAIT_SECONDS)
        if operation.result is None:
            return _ttypes().TFetchResultsResp(status=_failed(operation.error or _not_ready()))
        page = _page(operation, req.maxRows, req.maxBytes)
        if req.includeResultSetMetadata:
            page.resultSetMetadata = _metadata(operation)
        return page

    # --- metadata

    def GetCatalogs(self, req: Any) -> Any:  # noqa: N802
        """List catalogs."""
        return self._listing(req, _ttypes().TGetCatalogsResp, lambda: results.list_catalogs(self._tree))

    def GetSchemas(self, req: Any) -> Any:  # noqa: N802
        """List schemas."""
        return self._listing(
            req,
            _ttypes().TGetSchemasResp,
            lambda: results.list_schemas(self._tree, req.catalogName, req.schemaName),
        )

    def GetTables(self, req: Any) -> Any:  # noqa: N802
        """List tables and views."""
        return self._listing(
            req,
            _ttypes().TGetTablesResp,
            lambda: results.list_tables(
                self._tree, req.catalogName, req.schemaName, req.tableName, req.tableTypes
            ),
        )

    def GetColumns(self, req: Any) -> Any:  # noqa: N802
        """List columns."""
        return self._listing(
            req,
            _ttypes().TGetColumnsResp,
            lambda: results.list_columns(
                self._tree, req.catalogName, req.schemaName, req.tableName, req.columnName
            ),
        )

    def _listing(self, req: Any, response: Any, rows: Callable[[], Any]) -> Any:
        def start() -> Operation:
            session = self._sessions.get(req.sessionHandle)
            return self._sessions.start(session, lambda: StatementResult(table=rows()))

        return self._started(req, start, response, lz4=False)

    def _started(self, req: Any, start: Callable[[], Operation], response: Any, *, lz4: bool) -> Any:
        """Start an operation, and answer with as much of its result as is asked for and there already."""
        try:
            operation = start()
        except UnknownHandleError as error:
            return response(status=_invalid(error))
        except EngineError as error:
            return response(status=_failed(error))
        operation.options = lz4
        answer = response(status=_success(), operationHandle=_handle(operation))
        direct = req.getDirectResults
        if direct is not None:
            operation.wait(FIRST_WAIT_SECONDS)
            answer.directResults = self._direct(operation, direct)
        return answer

    def _direct(self, operation: Operation, wanted: Any) -> Any:
        t = _ttypes()
        direct = t.TSparkDirectResults(operationStatus=_status(operation))
        if operation.result is None:
            if operation.error is not None:
                self._sessions.close_operation(operation)
            return direct
        direct.resultSetMetadata = _metadata(operation)
        direct.resultSet = _page(operation, wanted.maxRows, wanted.maxBytes)
        if not direct.resultSet.hasMoreRows:
            self._sessions.close_operation(operation)
            direct.closeOperation = t.TCloseOperationResp(status=_success())
        return direct


def _ttypes() -> Any:
    from databricks.sql.thrift_api.TCLIService import ttypes

    return ttypes


def _version() -> Any:
    return _ttypes().TProtocolVersion.SPARK_CLI_SERVICE_PROTOCOL_V7


def _success() -> Any:
    t = _ttypes()
    return t.TStatus(statusCode=t.TStatusCode.SUCCESS_STATUS)


def _failed(error: EngineError) -> Any:
    t = _ttypes()
    return t.TStatus(
        statusCode=t.TStatusCode.ERROR_STATUS, sqlState=error.sqlstate, errorMessage=error.message
    )


def _invalid(error: UnknownHandleError) -> Any:
    t = _ttypes()
    return t.TStatus(statusCode=t.TStatusCode.INVALID_HANDLE_STATUS, errorMessage=str(error))


def _not_ready() -> EngineError:
    return EngineError.of("OPERATION_NOT_READY", "The statement has no result yet.", "HY010")


def _handle(operation: Operation) -> Any:
    t = _ttypes()
    return t.TOperationHandle(
        operationId=t.THandleIdentifier(guid=operation.id, secret=operation.id),
        operationType=t.TOperationType.EXECUTE_STATEMENT,
        hasResultSet=True,
    )


def _status(operation: Operation) -> Any:
    """The state of an operation; an error travels here, so that the connector raises ServerOperationError."""
    t = _ttypes()
    states = t.TOperationState
    status = t.TGetOperationStatusResp(
        status=_success(), operationState=states.RUNNING_STATE, hasResultSet=True
    )
    error, result = operation.error, operation.result
    if error is not None:
        status.operationState = states.CANCELED_STATE if operation.cancelled else states.ERROR_STATE
        status.sqlState, status.errorMessage, status.displayMessage = (
            error.sqlstate,
            error.message,
            error.message,
        )
        status.diagnosticInfo = error.message
    elif result is not None:
        status.operationState = states.FINISHED_STATE
        status.numModifiedRows = result.affected_rows
    return status


def _metadata(operation: Operation) -> Any:
    import pyarrow as pa

    t = _ttypes()
    result = operation.result
    schema = results.presentable(result.table).schema if result is not None else pa.schema([])
    return t.TGetResultSetMetadataResp(
        status=_success(),
        schema=results.hive_schema(schema),
        resultFormat=t.TSparkRowSetType.ARROW_BASED_SET,
        lz4Compressed=bool(operation.options),
        arrowSchema=schema.serialize().to_pybytes(),
        isStagingOperation=False,
    )


def _page(operation: Operation, max_rows: int | None, max_bytes: int | None) -> Any:
    result = operation.result
    assert result is not None  # callers have looked
    table = results.presentable(result.table)
    rows = results.page_rows(table, operation.offset, max_rows, max_bytes)
    page = results.row_set(table, operation.offset, rows, lz4=bool(operation.options))
    operation.offset += rows
    more = operation.offset < table.num_rows
    return _ttypes().TFetchResultsResp(status=_success(), hasMoreRows=more, results=page)


def _limited(result: StatementResult, limit: int | None) -> StatementResult:
    if not limit or limit <= 0:
        return result
    return StatementResult(table=result.table.slice(0, limit), affected_rows=result.affected_rows)

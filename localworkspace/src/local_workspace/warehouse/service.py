"""Databricks' Thrift service over HTTP: the route, the binary protocol, and the calls of the TCLIService.

Method names are Thrift's. What is sent and expected was read from databricks-sql-connector 4.9
(`backend/thrift_backend.py`).
"""

from __future__ import annotations

import asyncio
import functools
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from databricks.sql.thrift_api.TCLIService import ttypes as t
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local_workspace.engine import Engine, EngineError, StatementResult
from local_workspace.engine.literals import GAP
from local_workspace.engine.show import rows_of, strings
from local_workspace.engine.statements import Reader, Statement
from local_workspace.errors import ApiError
from local_workspace.http import api_error, connection_of
from local_workspace.layout import Layout, inside
from local_workspace.options import USER, WAREHOUSE_ID
from local_workspace.signed import Signer
from local_workspace.workspace import Workspace

from . import messages
from .messages import NoCallError, answer
from .sessions import SUCCESS, Operation, Sessions, UnknownHandleError

# A statement shorter than this comes back in the first answer; a longer one is polled for. The connector
# polls without a pause and holds its lock meanwhile: the wait at a poll is short enough for a cancel.
FIRST_WAIT_SECONDS = 1.0
POLL_WAIT_SECONDS = 0.2
# Requests wait here for their statement (a second at most), so a cancel always finds a free thread.
_REQUEST_THREADS = 64
_VERSION = t.TProtocolVersion.SPARK_CLI_SERVICE_PROTOCOL_V7

_TRANSFER = re.compile(rf"{GAP}(?:PUT|GET|REMOVE)\s", re.DOTALL | re.IGNORECASE)
_METHODS = {"PUT": "PUT", "GET": "GET", "REMOVE": "DELETE"}
_KINDS = ("Catalog", "Schema", "Volume")

Method = Callable[[Any, Any], Any]


def _reports_errors(response: Any) -> Callable[[Method], Method]:
    """Make a method return `response` with the error's status where it raises one."""

    def decorate(method: Method) -> Method:
        @functools.wraps(method)
        def call(self: Any, req: Any) -> Any:
            try:
                return method(self, req)
            except UnknownHandleError as error:
                code = t.TStatusCode.INVALID_HANDLE_STATUS
                return response(status=t.TStatus(statusCode=code, errorMessage=str(error)))
            except EngineError as error:
                code = t.TStatusCode.ERROR_STATUS
                status = t.TStatus(statusCode=code, sqlState=error.sqlstate, errorMessage=error.message)
                return response(status=status)

        return call

    return decorate


class ThriftService:
    """The handler object that `TCLIService.Processor` calls. Safe for threads."""

    def __init__(self, engine: Engine, transfers: Transfers | None = None) -> None:
        self._tree = engine.catalog
        self._transfers = transfers
        # Of the thread that answers: the `connection` of its request.
        self.caller = threading.local()
        self._sessions = Sessions(engine)

    # --- sessions

    @_reports_errors(functools.partial(t.TOpenSessionResp, serverProtocolVersion=_VERSION))
    def OpenSession(self, req: Any) -> Any:  # noqa: N802 - Thrift's name
        """Open a session with the configuration, and in the initial catalog and schema, that are given."""
        namespace = req.initialNamespace
        session = self._sessions.open(
            namespace.catalogName if namespace else None,
            namespace.schemaName if namespace else None,
            req.configuration or {},
        )
        identifier = t.THandleIdentifier(guid=session.id, secret=session.id)
        return t.TOpenSessionResp(
            status=SUCCESS,
            serverProtocolVersion=_VERSION,
            sessionHandle=t.TSessionHandle(sessionId=identifier, serverProtocolVersion=_VERSION),
            configuration={},
            initialNamespace=namespace,
            canUseMultipleCatalogs=True,
        )

    def CloseSession(self, req: Any) -> Any:  # noqa: N802
        """End a session; raises `UnknownHandleError` when there is none."""
        self._sessions.close(self._sessions.get(req.sessionHandle))
        return t.TCloseSessionResp(status=SUCCESS)

    def GetInfo(self, req: Any) -> Any:  # noqa: N802
        """Name and version of the server."""
        kind = t.TGetInfoType
        known = {
            kind.CLI_SERVER_NAME: "Spark SQL",
            kind.CLI_DBMS_NAME: "Spark SQL",
            kind.CLI_DBMS_VER: "4.0.0",
        }
        value = t.TGetInfoValue(stringValue=known.get(req.infoType, ""))
        return t.TGetInfoResp(status=SUCCESS, infoValue=value)

    # --- statements

    @_reports_errors(t.TExecuteStatementResp)
    def ExecuteStatement(self, req: Any) -> Any:  # noqa: N802
        """Run a statement; small results come with the answer."""
        session = self._sessions.get(req.sessionHandle)
        literals = messages.literals_of(req.parameters)
        transfers = self._transfers if is_transfer(req.statement) else None

        def run(cancelled: Callable[[], bool]) -> StatementResult:
            if transfers is not None:
                return transfers.answer(req.statement)
            timeout = int(req.queryTimeout or 0)
            result = session.engine.execute(req.statement, literals, cancelled=cancelled, timeout=timeout)
            if (limit := req.resultRowLimit or 0) > 0:
                result = replace(result, table=result.table.slice(0, limit))
            types = req.useArrowNativeTypes
            return result if types is None else messages.suited(result, types)

        operation = self._sessions.start(session, run)
        operation.staging = transfers is not None
        operation.lz4 = bool(req.canDecompressLZ4Result)
        return self._started(req, operation, t.TExecuteStatementResp)

    @_reports_errors(t.TGetOperationStatusResp)
    def GetOperationStatus(self, req: Any) -> Any:  # noqa: N802
        """The state of a statement."""
        operation = self._sessions.operation(req.operationHandle)
        operation.asked_by(self.caller.connection)
        operation.wait(POLL_WAIT_SECONDS)
        return operation.status()

    @_reports_errors(t.TCancelOperationResp)
    def CancelOperation(self, req: Any) -> Any:  # noqa: N802
        """Interrupt a statement. Of one that has ended, nothing is left to cancel."""
        self._sessions.operation(req.operationHandle).cancel()
        return t.TCancelOperationResp(status=SUCCESS)

    def CloseOperation(self, req: Any) -> Any:  # noqa: N802
        """Forget a statement and its result; raises `UnknownHandleError` when there is none."""
        self._sessions.close_operation(self._sessions.operation(req.operationHandle))
        return t.TCloseOperationResp(status=SUCCESS)

    @_reports_errors(t.TGetResultSetMetadataResp)
    def GetResultSetMetadata(self, req: Any) -> Any:  # noqa: N802
        """The columns of a result."""
        return self._sessions.operation(req.operationHandle).metadata()

    @_reports_errors(t.TFetchResultsResp)
    def FetchResults(self, req: Any) -> Any:  # noqa: N802
        """The next rows of a result."""
        operation = self._sessions.operation(req.operationHandle)
        operation.asked_by(self.caller.connection)
        operation.wait(FIRST_WAIT_SECONDS)
        if operation.result is None:
            raise operation.error or EngineError.of(
                "OPERATION_NOT_READY", "The statement has no result yet.", "HY010"
            )
        page = operation.page(req.maxRows, req.maxBytes)
        if req.includeResultSetMetadata:
            page.resultSetMetadata = operation.metadata()
        return page

    # --- metadata

    @_reports_errors(t.TGetCatalogsResp)
    def GetCatalogs(self, req: Any) -> Any:  # noqa: N802
        """List catalogs."""
        return self._listing(req, t.TGetCatalogsResp, messages.list_catalogs)

    @_reports_errors(t.TGetSchemasResp)
    def GetSchemas(self, req: Any) -> Any:  # noqa: N802
        """List schemas."""
        return self._listing(req, t.TGetSchemasResp, messages.list_schemas, req.catalogName, req.schemaName)

    @_reports_errors(t.TGetTablesResp)
    def GetTables(self, req: Any) -> Any:  # noqa: N802
        """List tables and views."""
        patterns = (req.catalogName, req.schemaName, req.tableName)
        return self._listing(req, t.TGetTablesResp, messages.list_tables, *patterns, req.tableTypes)

    @_reports_errors(t.TGetColumnsResp)
    def GetColumns(self, req: Any) -> Any:  # noqa: N802
        """List columns."""
        patterns = (req.catalogName, req.schemaName, req.tableName, req.columnName)
        return self._listing(req, t.TGetColumnsResp, messages.list_columns, *patterns)

    def _listing(self, req: Any, response: Any, rows: Callable[..., Any], *patterns: Any) -> Any:
        session = self._sessions.get(req.sessionHandle)
        operation = self._sessions.start(session, lambda _: rows(self._tree, *patterns))
        return self._started(req, operation, response)

    def _started(self, req: Any, operation: Operation, response: Any) -> Any:
        """Answer with as much of the operation's result as is asked for and there already."""
        operation.asked_by(self.caller.connection)
        handle = t.TOperationHandle(
            operationId=t.THandleIdentifier(guid=operation.id, secret=operation.id),
            operationType=t.TOperationType.EXECUTE_STATEMENT,
            hasResultSet=True,
        )
        answer = response(status=SUCCESS, operationHandle=handle)
        if req.getDirectResults is not None:
            operation.wait(FIRST_WAIT_SECONDS)
            answer.directResults = self._direct(operation, req.getDirectResults)
        return answer

    def _direct(self, operation: Operation, wanted: Any) -> Any:
        direct = t.TSparkDirectResults(operationStatus=operation.status())
        if operation.result is None:
            if operation.error is not None:
                self._sessions.close_operation(operation)
            return direct
        direct.resultSetMetadata = operation.metadata()
        direct.resultSet = operation.page(wanted.maxRows, wanted.maxBytes)
        if not direct.resultSet.hasMoreRows:
            self._sessions.close_operation(operation)
            direct.closeOperation = t.TCloseOperationResp(status=SUCCESS)
        return direct


# --- PUT, GET and REMOVE: statements that tell the client by which signed URL to move a file. Where it may be
# and which conditions say what is wrong is from Databricks' documentation ("PUT INTO", "Error conditions");
# `stage://tmp/<user>/…` is a folder of the user's own, older than Volumes.


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """One statement: PUT local INTO remote, GET remote TO local, or REMOVE remote."""

    operation: str
    remote: str
    local: str = ""
    overwrite: bool = False


def is_transfer(sql: str) -> bool:
    """Tell whether a statement moves a file."""
    return _TRANSFER.match(sql) is not None


def read(sql: str) -> Transfer:
    """Parse a statement. Raises `EngineError`."""
    reader = Reader(Statement.parse(sql), 1)
    operation, first = reader.statement.tokens[0].upper, reader.string()
    between = {"PUT": "INTO", "GET": "TO"}.get(operation)
    second = reader.string() if between and reader.accept(between) else None
    overwrite = operation == "PUT" and reader.accept("OVERWRITE")
    if first is None or (between is not None and second is None) or not reader.done:
        text = "Syntax error: use PUT 'file' INTO 'path' [OVERWRITE], GET 'path' TO 'file', REMOVE 'path'."
        raise EngineError.of("PARSE_SYNTAX_ERROR", text, "42601")
    remote, local = (second or "", first) if operation == "PUT" else (first, second or "")
    if between and not local:
        text = f"Empty local file in staging {operation} query."
        raise EngineError.of("EMPTY_LOCAL_FILE_IN_STAGING_ACCESS_QUERY", text, "22023")
    return Transfer(operation=operation, remote=remote, local=local, overwrite=overwrite)


class Transfers:
    """Answers such statements, for the Volumes and stages of one workspace."""

    def __init__(self, layout: Layout, signer: Signer) -> None:
        self._layout, self._signer = layout, signer

    def answer(self, sql: str) -> StatementResult:
        """Return the one row that tells the client what to do. Raises `EngineError`."""
        asked = read(sql)
        path = self._served(asked)
        query = {"overwrite": str(asked.overwrite).lower()} if asked.operation == "PUT" else {}
        url, _ = self._signer.url(_METHODS[asked.operation], f"/api/2.0/fs/files{path}", query)
        columns = strings("operation", "presignedUrl", "headers", "localFile")
        return rows_of(columns, [(asked.operation, url, "{}", asked.local or None)])

    def _served(self, asked: Transfer) -> str:
        """Return the path by which the Files API serves the remote file."""
        stage = re.fullmatch(r"stage://tmp/([^/]+)(/.+)", asked.remote)
        volume = asked.remote.removeprefix("dbfs:")
        try:
            if stage is not None and stage[1] != USER:
                text = f"PERMISSION_DENIED: The stage of {stage[1]!r} is another user's."
                raise EngineError.of("INSUFFICIENT_PERMISSIONS", text, "42501")
            asked.remote.encode()
            if stage is not None:
                path, local = f"/stage/{stage[1]}{stage[2]}", inside(self._layout.stage, stage[1] + stage[2])
            elif volume.startswith("/Volumes/") and volume.count("/") > 4:
                path, local = volume, self._layout.resolve(volume)
                self._require_volume(volume)
            else:
                raise _invalid(asked)
            taken = asked.operation == "PUT" and not asked.overwrite and local.exists()
        except (ApiError, UnicodeError, OSError) as error:  # no text, or too long for a name
            raise _invalid(asked) from error
        if taken:
            text = f"File in staging path {asked.remote} already exists but OVERWRITE is not set."
            raise EngineError.of("FILE_IN_STAGING_PATH_ALREADY_EXISTS", text, "42K04")
        return path

    def _require_volume(self, path: str) -> None:
        """Raise `EngineError` for a Volume that does not exist, with the first name that does not."""
        names = path.split("/")[2:5]
        folders = [self._layout.root / "tables", self._layout.root / "tables", self._layout.volumes]
        for count, (kind, folder) in enumerate(zip(_KINDS, folders, strict=True), start=1):
            if not folder.joinpath(*(name.lower() for name in names[:count])).is_dir():
                text = f"NOT_FOUND: {kind} '{'.'.join(names[:count])}' does not exist."
                raise EngineError.of(f"{kind.upper()}_NOT_FOUND", text, "42704")


def _invalid(asked: Transfer) -> EngineError:
    remote = asked.remote.encode("utf-8", "backslashreplace").decode()
    text = f"Invalid staging path in staging {asked.operation} query: {remote}"
    return EngineError.of("INVALID_STAGING_PATH_IN_STAGING_ACCESS_QUERY", text, "42604")


def routes(workspace: Workspace) -> list[Route]:
    """The route of the warehouse."""
    info = workspace.info
    transfers = Transfers(workspace.layout, Signer(info.host, info.token))
    return [warehouse_route(workspace.engine, WAREHOUSE_ID, transfers)]


def warehouse_route(engine: Engine, warehouse_id: str, transfers: Transfers | None = None) -> Route:
    """POST /sql/1.0/warehouses/{id}. Without `transfers`, PUT and GET are unknown statements."""
    service = ThriftService(engine, transfers)
    threads = ThreadPoolExecutor(_REQUEST_THREADS, thread_name_prefix="warehouse-request")

    async def post(request: Request) -> Response:
        body = await request.body()
        try:
            connection = connection_of(request.scope)
            loop = asyncio.get_running_loop()
            reply = await loop.run_in_executor(threads, answer, service, body, connection)
        except UnknownHandleError as gone:
            # The connector takes a 404 on a close as "closed already".
            return Response(status_code=404, headers={"x-thriftserver-error-message": str(gone)})
        except NoCallError as error:
            return Response(f"Not a Thrift call: {error}", status_code=400)
        except Exception as error:  # noqa: BLE001 - the boundary: reported, and on standard error
            problem = api_error(error)
            said = {"x-thriftserver-error-message": " ".join(problem.message.split())[:500]}
            return Response(problem.message, status_code=problem.status, headers=said)
        return Response(reply, media_type="application/x-thrift")

    return Route(f"/sql/1.0/warehouses/{warehouse_id}", post, methods=["POST"])

"""PUT, GET and REMOVE: statements that tell the client by which signed URL to move a file.

Where a file may be, and which conditions say what is wrong, is from Databricks' documentation ("PUT INTO",
"Error conditions"). `stage://tmp/<user>/…` is a folder of the user's own, older than Volumes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from local_workspace.engine import EngineError, StatementResult
from local_workspace.engine.show import rows_of, strings
from local_workspace.engine.statements import Reader, Statement
from local_workspace.errors import ApiError
from local_workspace.layout import Layout, inside
from local_workspace.options import USER
from local_workspace.signed import Signer

_TRANSFER = re.compile(r"(?:\s+|--[^\n]*\n|/\*.*?\*/)*(?:PUT|GET|REMOVE)\s", re.DOTALL | re.IGNORECASE)
_METHODS = {"PUT": "PUT", "GET": "GET", "REMOVE": "DELETE"}
_KINDS = ("Catalog", "Schema", "Volume")


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
            if stage is not None:
                path, local = f"/stage/{stage[1]}{stage[2]}", inside(self._layout.stage, stage[1] + stage[2])
            elif volume.startswith("/Volumes/") and volume.count("/") > 4:
                path, local = volume, self._layout.resolve(volume)
                self._require_volume(volume)
            else:
                raise _invalid(asked)
        except ApiError as error:
            raise _invalid(asked) from error
        if asked.operation == "PUT" and not asked.overwrite and local.exists():
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
    text = f"Invalid staging path in staging {asked.operation} query: {asked.remote}"
    return EngineError.of("INVALID_STAGING_PATH_IN_STAGING_ACCESS_QUERY", text, "42604")

"""Error conditions of SQL statements: kind, severity, whether to repeat, and what to do. Pure.

Conditions are those of Databricks SQL (docs.databricks.com, "Error conditions"); the same
on a warehouse and in Spark.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from databricks_rlm_agent.errors import (
    Conflict,
    Forbidden,
    NeverReached,
    NotFound,
    Rejected,
    RemoteError,
    RlmError,
    Throttled,
    Unauthorized,
    Unreachable,
)

FIX_AUTH = "Check the token or profile (DATABRICKS_TOKEN, --profile)."
FIX_DENIED = "Ask for the permission, or use an identity that has it."
_CHARS = 600
_CONFLICT = re.compile(r"DELTA_CONCURRENT|DELTA_METADATA_CHANGED|DELTA_PROTOCOL_CHANGED")
_MISSING = re.compile(r"TABLE_OR_VIEW_NOT_FOUND|SCHEMA_NOT_FOUND|CATALOG_NOT_FOUND|NO_SUCH_CATALOG")
# A statement's own words, quoted in its error, must not pass for a refusal: conditions only.
_DENIED = re.compile(r"PERMISSION_DENIED|INSUFFICIENT_PERMISSIONS|INSUFFICIENT_PRIVILEGES")
# Class 08 of the SQL standard: the connection, between the server and its engine too.
_CONNECTION = re.compile(r"^\[\w+_UNAVAILABLE\]|SQLSTATE: 08\w{3}")
_TOKEN = re.compile(r"invalid access token|UNAUTHENTICATED", re.IGNORECASE)


def classify_sql(text: str, *, where: str) -> RemoteError:
    """Return the error of a statement that was refused, by its condition."""
    line = first_line(text)
    if _CONFLICT.search(text):
        return Conflict(line, where=where)
    if _MISSING.search(text):
        return NotFound(line, where=where)
    if _CONNECTION.search(line):
        return Unreachable(line, where=where, fix="The outcome is unknown.")
    if _DENIED.search(line):
        return Forbidden(line, where=where, fix=FIX_DENIED)
    if _TOKEN.search(line):
        return Unauthorized(line, where=where, fix=FIX_AUTH)
    return Rejected(line, where=where)


def first_line(error: BaseException | str) -> str:
    """Return an error's message as one line of at most 600 characters that ends with a full stop."""
    # The SDK adds its configuration to refusals: it says nothing of the reason, and has "token" in it.
    text = str(error).strip().partition(". Config: ")[0] or type(error).__name__
    return text.splitlines()[0][:_CHARS].rstrip(".") + "."


HEAD = 120


class Cause(StrEnum):
    """The subject of an error."""

    PERMISSION = "permission"
    MISSING = "missing object"
    EXISTS = "object exists"
    SYNTAX = "syntax"
    DATA = "data"
    CONCURRENCY = "concurrency"
    RESOURCE = "resource"
    CONNECTION = "connection"
    CANCELLED = "cancelled"
    MEASURE = "measure"
    LOOP = "loop"
    FILE = "file"
    DOUBT = "in doubt"
    STATEMENT = "statement"


class Severity(StrEnum):
    """CRITICAL ends the file; TRANSIENT is worth another try; after a WARNING the file goes on."""

    CRITICAL = "critical"
    TRANSIENT = "transient"
    WARNING = "warning"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that went wrong. ``line`` counts from 1, None for what is no statement's fault.

    ``outcome_unknown``: the statement may have taken effect all the same.
    """

    kind: Cause
    severity: Severity
    message: str
    hint: str
    file: str | None = None
    line: int | None = None
    statement: str | None = None
    outcome_unknown: bool = False

    @property
    def where(self) -> str:
        """``file:line``, as far as known."""
        return ":".join(str(part) for part in (self.file, self.line) if part is not None)

    def to_dict(self) -> dict[str, Any]:
        """Return the problem for JSON."""
        return asdict(self)


_MISSING_HINT = "Check the spelling, the catalog and schema in force, and whether an earlier file makes it."
_CRITICAL, _TRANSIENT, _WARNING = Severity.CRITICAL, Severity.TRANSIENT, Severity.WARNING
_TRANSIENT_CAUSES = {Cause.CONCURRENCY, Cause.RESOURCE}
# The first that matches counts. A condition stands in brackets at the start; a name in a message does not.
_RULES: tuple[tuple[str, Cause, str], ...] = (
    (
        r"DELTA_CONCURRENT|DELTA_METADATA_CHANGED|DELTA_PROTOCOL_CHANGED|CONCURRENT_\w*(MODIFICATION|APPEND)",
        Cause.CONCURRENCY,
        "Another writer changed the table at the same time; it is tried again.",
    ),
    (r"PERMISSION_DENIED|INSUFFICIENT_P(ERMISSIONS|RIVILEGES)|UNAUTHENTICATED", Cause.PERMISSION, FIX_DENIED),
    (
        r"UNRESOLVED_(COLUMN|FIELD|MAP_KEY|USING_COLUMN\w*)",
        Cause.MISSING,
        "Check the column's spelling, and that what it is read from has it (DESCRIBE).",
    ),
    (
        r"UNRESOLVED_ROUTINE",
        Cause.MISSING,
        "Check the function's spelling, and whether it has to be made first.",
    ),
    (
        (
            r"TABLE_OR_VIEW_NOT_FOUND|(SCHEMA|CATALOG|DATABASE)_NOT_FOUND|NO_SUCH_\w+|UNRESOLVED_\w+"
            r"|DELTA_(TABLE|PATH)_(NOT_FOUND|DOES_NOT_EXIST)|VIEW_NOT_FOUND|PATH_NOT_FOUND"
        ),
        Cause.MISSING,
        _MISSING_HINT,
    ),
    (r"ALREADY_EXISTS", Cause.EXISTS, "Write CREATE OR REPLACE, add IF NOT EXISTS, or drop it first."),
    (
        r"\w*UNSUPPORTED_FEATURE|FEATURE_NOT_SUPPORTED",
        Cause.SYNTAX,
        "Say it in another way, or run it on a warehouse that has this.",
    ),
    (r"PARSE_\w+|SYNTAX_ERROR", Cause.SYNTAX, "Correct the statement."),
    (
        (
            r"RESOURCE_EXHAUSTED|OUT_OF_MEMORY|OutOfMemory|QUOTA_EXCEEDED|NO_SPACE"
            r"|EXECUTOR_LOST|DRIVER_\w+|TEMPORARILY_UNAVAILABLE|REQUEST_LIMIT_EXCEEDED"
        ),
        Cause.RESOURCE,
        "The warehouse had too little of something; try fewer at a time (--max-parallel) or a larger one.",
    ),
    (
        r"CANCELL?ED|OPERATION_CANCELED|took longer than",
        Cause.CANCELLED,
        "It was cancelled; run again with --resume.",
    ),
    (
        (
            r"DIVIDE_BY_ZERO|CAST_\w+|\w*OVERFLOW|DELTA_\w*CONSTRAINT\w*|NOT_NULL\w*|\w*MULTIPLE_SOURCE_ROW\w*"
            r"|DATATYPE_MISMATCH|USER_RAISED_EXCEPTION|INVALID_ARRAY_INDEX|MALFORMED_\w+"
        ),
        Cause.DATA,
        "Look at the data that the statement reads.",
    ),
)
# The place of an error within its statement, as Spark reports it; lines from 1.
_PLACE = re.compile(r"\(line (\d+), pos \d+\)|; line (\d+) pos \d+")
_STATEMENT = "Read the message; run again with --resume when it is mended."
# Statements whose failure leaves all data as it was.
_UPKEEP = re.compile(r"(OPTIMIZE|ANALYZE|VACUUM|COMMENT|REFRESH|REORG)\b", re.IGNORECASE)
_DROP = re.compile(r"DROP\s+(TABLE|VIEW|FUNCTION|SCHEMA)\b", re.IGNORECASE)


def classify(
    error: RlmError,
    *,
    file: str | None = None,
    line: int | None = None,
    statement: str | None = None,
) -> Problem:
    """Classify an error of the engine; ``statement`` is its text without comments before it."""
    kind, severity, hint = _of(error)
    if statement is not None and severity is _CRITICAL and kind is not Cause.CANCELLED:
        gone_already = kind is Cause.MISSING and _DROP.match(statement)
        if _UPKEEP.match(statement) or gone_already:
            severity = _WARNING
            hint = "Nothing to drop." if gone_already else "No data depends on it; the file goes on."
    shown = head(statement) if statement is not None else None
    if statement is not None and (place := _PLACE.search(error.what)):
        further = int(place[1] or place[2]) - 1
        lines = statement.splitlines()
        if line is not None and 0 < further < len(lines):
            line, shown = line + further, head(lines[further])
    return Problem(
        kind=kind,
        severity=severity,
        message=error.what,
        hint=hint,
        file=file,
        line=line,
        statement=shown,
        outcome_unknown=isinstance(error, Unreachable) and not isinstance(error, NeverReached),
    )


def _of(error: RlmError) -> tuple[Cause, Severity, str]:
    if isinstance(error, NeverReached):
        return Cause.CONNECTION, _CRITICAL, error.fix or "Check host, HTTP path and network."
    if isinstance(error, Unreachable):
        return Cause.CONNECTION, _TRANSIENT, "The connection was lost; it is tried again where that is safe."
    if isinstance(error, Throttled):
        return Cause.RESOURCE, _TRANSIENT, "The workspace asked to slow down; it is tried again."
    if isinstance(error, Conflict):
        return Cause.CONCURRENCY, _TRANSIENT, _RULES[0][2]
    if isinstance(error, Unauthorized):
        return Cause.PERMISSION, _CRITICAL, error.fix or FIX_DENIED
    condition = re.match(r"\s*\[([^\]]+)\]", error.what)
    text = condition[1] if condition else error.what  # a message may quote the statement's own words
    for pattern, cause, hint in _RULES:
        if re.search(pattern, text):
            return cause, _TRANSIENT if cause in _TRANSIENT_CAUSES else _CRITICAL, hint
    if isinstance(error, NotFound):
        return Cause.MISSING, _CRITICAL, _MISSING_HINT
    return Cause.STATEMENT, _CRITICAL, error.fix or _STATEMENT


def head(statement: str) -> str:
    """Return the beginning of a statement as one line."""
    text = " ".join(statement[: 4 * HEAD].split())
    return text if len(text) <= HEAD else f"{text[: HEAD - 1]}…"

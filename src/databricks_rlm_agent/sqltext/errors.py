"""Error conditions of SQL statements: kind, severity, whether to repeat, and what to do. Pure.

Conditions are those of Databricks SQL (docs.databricks.com, "Error conditions"); the same
on a warehouse and in Spark.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

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


_MISSING_HINT = "Check the spelling, the catalog and schema in force, and whether an earlier file makes it."


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """Conditions of one kind: our error for them, their subject, and what to do."""

    pattern: str = ""
    error: type[RemoteError] = Rejected
    cause: Cause
    hint: str
    severity: Severity = Severity.CRITICAL


# The first that matches counts.
_RULES = (
    _Rule(
        # Class 08 of the SQL standard: the connection, between the server and its engine too.
        pattern=r"^\w+_UNAVAILABLE$|^08\w{3}$",
        error=Unreachable,
        cause=Cause.CONNECTION,
        hint="The connection was lost; it is tried again where that is safe.",
        severity=Severity.TRANSIENT,
    ),
    _Rule(
        pattern=(
            r"DELTA_CONCURRENT|DELTA_METADATA_CHANGED|DELTA_PROTOCOL_CHANGED"
            r"|CONCURRENT_\w*(MODIFICATION|APPEND)"
        ),
        error=Conflict,
        cause=Cause.CONCURRENCY,
        hint="Another writer changed the table at the same time; it is tried again.",
        severity=Severity.TRANSIENT,
    ),
    _Rule(
        pattern=r"PERMISSION_DENIED|INSUFFICIENT_P(ERMISSIONS|RIVILEGES)",
        error=Forbidden,
        cause=Cause.PERMISSION,
        hint=FIX_DENIED,
    ),
    _Rule(
        pattern=r"(?i:invalid access token)|UNAUTHENTICATED",
        error=Unauthorized,
        cause=Cause.PERMISSION,
        hint=FIX_AUTH,
    ),
    _Rule(
        pattern=r"UNRESOLVED_(COLUMN|FIELD|MAP_KEY|USING_COLUMN\w*)",
        cause=Cause.MISSING,
        hint="Check the column's spelling, and that what it is read from has it (DESCRIBE).",
    ),
    _Rule(
        pattern=r"UNRESOLVED_ROUTINE",
        cause=Cause.MISSING,
        hint="Check the function's spelling, and whether it has to be made first.",
    ),
    _Rule(
        pattern=(
            r"TABLE_OR_VIEW_NOT_FOUND|(SCHEMA|CATALOG|DATABASE)_NOT_FOUND|NO_SUCH_\w+|UNRESOLVED_\w+"
            r"|DELTA_(TABLE|PATH)_(NOT_FOUND|DOES_NOT_EXIST)|VIEW_NOT_FOUND|PATH_NOT_FOUND"
        ),
        error=NotFound,
        cause=Cause.MISSING,
        hint=_MISSING_HINT,
    ),
    _Rule(
        pattern=r"ALREADY_EXISTS",
        cause=Cause.EXISTS,
        hint="Write CREATE OR REPLACE, add IF NOT EXISTS, or drop it first.",
    ),
    _Rule(
        pattern=r"\w*UNSUPPORTED_FEATURE|FEATURE_NOT_SUPPORTED",
        cause=Cause.SYNTAX,
        hint="Say it in another way, or run it on a warehouse that has this.",
    ),
    _Rule(pattern=r"PARSE_\w+|SYNTAX_ERROR", cause=Cause.SYNTAX, hint="Correct the statement."),
    _Rule(
        pattern=(
            r"RESOURCE_EXHAUSTED|OUT_OF_MEMORY|OutOfMemory|QUOTA_EXCEEDED|NO_SPACE"
            r"|EXECUTOR_LOST|DRIVER_\w+|TEMPORARILY_UNAVAILABLE|REQUEST_LIMIT_EXCEEDED"
        ),
        cause=Cause.RESOURCE,
        hint="The warehouse had too little of something; try fewer at a time (--max-parallel) or a larger "
        "one.",
        severity=Severity.TRANSIENT,
    ),
    _Rule(
        pattern=r"CANCELL?ED|OPERATION_CANCELED|took longer than",
        cause=Cause.CANCELLED,
        hint="It was cancelled; run again with --resume.",
    ),
    _Rule(
        pattern=(
            r"DIVIDE_BY_ZERO|CAST_\w+|\w*OVERFLOW|DELTA_\w*CONSTRAINT\w*|NOT_NULL\w*"
            r"|\w*MULTIPLE_SOURCE_ROW\w*|DATATYPE_MISMATCH|USER_RAISED_EXCEPTION|INVALID_ARRAY_INDEX"
            r"|MALFORMED_\w+"
        ),
        cause=Cause.DATA,
        hint="Look at the data that the statement reads.",
    ),
)
_OTHER = _Rule(cause=Cause.STATEMENT, hint="Read the message; run again with --resume when it is mended.")
# Of errors that no statement's condition has told.
_BY_ERROR: tuple[_Rule, ...] = (
    _Rule(error=NeverReached, cause=Cause.CONNECTION, hint="Check host, HTTP path and network."),
    _RULES[0],
    _Rule(
        error=Throttled,
        cause=Cause.RESOURCE,
        hint="The workspace asked to slow down; it is tried again.",
        severity=Severity.TRANSIENT,
    ),
    _RULES[1],
    _Rule(error=Unauthorized, cause=Cause.PERMISSION, hint=FIX_DENIED),
)
_STATE = re.compile(r"SQLSTATE: (\w{5})")
_CONDITION = re.compile(r"\[([A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)*)\]")


def _rule(text: str) -> _Rule | None:
    """The rule for what an engine says. A condition in brackets at the start is all that counts, beside the
    SQLSTATE: the words after it may quote the statement's own.
    """
    line = first_line(text)
    start = re.match(r"\s*\[([^\]]+)\]", text)
    said = [start[1]] if start else [*_CONDITION.findall(text), line]
    said += _STATE.findall(line)
    return next((rule for rule in _RULES if any(re.search(rule.pattern, each) for each in said)), None)


def classify_sql(text: str, *, where: str) -> RemoteError:
    """Return the error of a statement that was refused, by its condition."""
    rule = _rule(text) or _OTHER
    fixes = {Unreachable: "The outcome is unknown.", Forbidden: FIX_DENIED, Unauthorized: FIX_AUTH}
    return rule.error(first_line(text), where=where, fix=fixes.get(rule.error))


# The place of an error within its statement, as Spark reports it; lines from 1.
_PLACE = re.compile(r"\(line (\d+), pos \d+\)|; line (\d+) pos \d+")
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
    if statement is not None and severity is Severity.CRITICAL and kind is not Cause.CANCELLED:
        gone_already = kind is Cause.MISSING and _DROP.match(statement)
        if _UPKEEP.match(statement) or gone_already:
            severity = Severity.WARNING
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
    for rule in _BY_ERROR:
        if isinstance(error, rule.error):
            own = error.fix if rule.error in {NeverReached, Unauthorized} else None
            return rule.cause, rule.severity, own or rule.hint
    if (found := _rule(error.what)) is not None:
        return found.cause, found.severity, found.hint
    if isinstance(error, NotFound):
        return Cause.MISSING, Severity.CRITICAL, _MISSING_HINT
    return _OTHER.cause, Severity.CRITICAL, error.fix or _OTHER.hint


def head(statement: str) -> str:
    """Return the beginning of a statement as one line."""
    text = " ".join(statement[: 4 * HEAD].split())
    return text if len(text) <= HEAD else f"{text[: HEAD - 1]}…"

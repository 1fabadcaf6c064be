"""What a statement's error means, by the condition in its text: the same on a warehouse and in Spark. Pure.

Conditions are those of Databricks SQL (docs.databricks.com, "Error conditions").
"""

from __future__ import annotations

import re

from databricks_rlm_agent.errors import Conflict, Forbidden, NotFound, Rejected, RemoteError, Unauthorized

FIX_AUTH = "Check the token or profile (DATABRICKS_TOKEN, --profile)."
FIX_DENIED = "Ask for the permission, or use an identity that has it."
_CHARS = 600
_CONFLICT = re.compile(r"DELTA_CONCURRENT|DELTA_METADATA_CHANGED|DELTA_PROTOCOL_CHANGED")
_MISSING = re.compile(r"TABLE_OR_VIEW_NOT_FOUND|SCHEMA_NOT_FOUND|CATALOG_NOT_FOUND|NO_SUCH_CATALOG")
# A statement's own words, quoted in its error, must not pass for a refusal: conditions only.
_DENIED = re.compile(r"PERMISSION_DENIED|INSUFFICIENT_PERMISSIONS|INSUFFICIENT_PRIVILEGES")
_TOKEN = re.compile(r"invalid access token|UNAUTHENTICATED", re.IGNORECASE)


def classify_sql(text: str, *, where: str) -> RemoteError:
    """The error of a statement that was refused, by its condition."""
    line = first_line(text)
    if _CONFLICT.search(text):
        return Conflict(line, where=where)
    if _MISSING.search(text):
        return NotFound(line, where=where)
    if _DENIED.search(line):
        return Forbidden(line, where=where, fix=FIX_DENIED)
    if _TOKEN.search(line):
        return Unauthorized(line, where=where, fix=FIX_AUTH)
    return Rejected(line, where=where)


def first_line(error: BaseException | str) -> str:
    """What an error says, in one bounded line that ends with a full stop."""
    # The SDK adds its configuration to refusals: it says nothing of the reason, and has "token" in it.
    text = str(error).strip().partition(". Config: ")[0] or type(error).__name__
    return text.splitlines()[0][:_CHARS].rstrip(".") + "."

"""Vendor errors to ours, in one place; no SDK or connector exception leaves this package unmapped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from databricks_rlm_agent.errors import (
    AlreadyExists,
    Conflict,
    NotFound,
    Rejected,
    RemoteError,
    Throttled,
    Unauthorized,
    Unreachable,
)

_CONFLICT = re.compile(r"DELTA_CONCURRENT|DELTA_METADATA_CHANGED|DELTA_PROTOCOL_CHANGED")
_MISSING = re.compile(r"TABLE_OR_VIEW_NOT_FOUND|SCHEMA_NOT_FOUND|CATALOG_NOT_FOUND|NO_SUCH_CATALOG")
_AUTH = re.compile(
    r"\b(401|403)\b|Unauthorized|Forbidden|invalid access token|PERMISSION_DENIED", re.IGNORECASE
)
_FIX_AUTH = "Check the token or profile (DATABRICKS_TOKEN, --profile) and its permissions."
_FIX_NET = "Check DATABRICKS_HOST, RLM_WAREHOUSE_HTTP_PATH and the network, then try again."


@contextmanager
def sdk_errors(where: str) -> Iterator[None]:
    """Map what databricks-sdk raises; ``where`` names the call for the message."""
    import requests
    from databricks.sdk import errors as sdk
    from databricks.sdk.errors.base import DatabricksError

    table: tuple[tuple[type[BaseException], type[RemoteError], str | None], ...] = (
        (sdk.Unauthenticated, Unauthorized, _FIX_AUTH),
        (sdk.PermissionDenied, Unauthorized, _FIX_AUTH),
        (sdk.NotFound, NotFound, None),
        (sdk.AlreadyExists, AlreadyExists, None),
        (sdk.ResourceConflict, AlreadyExists, None),
        (sdk.TooManyRequests, Throttled, "Try again later."),
        (sdk.BadRequest, Rejected, None),
        # 5xx, cancelled, deadline: what was asked may have happened all the same
        (
            DatabricksError,
            Unreachable,
            "The outcome is unknown; asking again with the same token is safe.",
        ),
        (TimeoutError, Unreachable, _FIX_NET),
        (requests.RequestException, Unreachable, _FIX_NET),
    )
    try:
        yield
    except Exception as error:
        for kind, ours, fix in table:
            if isinstance(error, kind):
                raise ours(_first_line(error), where=where, fix=fix) from None
        if isinstance(error, ValueError):  # the SDK's word for unusable credentials or configuration
            raise Unauthorized(_first_line(error), where=where, fix=_FIX_AUTH) from None
        raise


@contextmanager
def sql_errors(where: str) -> Iterator[None]:
    """Map what databricks-sql-connector raises; ``where`` names the warehouse for the message."""
    import urllib3
    from databricks.sql import exc

    try:
        yield
    except (exc.RequestError, urllib3.exceptions.HTTPError, OSError) as error:
        context = getattr(error, "context", {})  # the connector keeps the cause there, out of its message
        text = _first_line(f"{error} {context.get('original-exception') or ''}")
        if context.get("http-code") in (401, 403) or _AUTH.search(text):
            raise Unauthorized(text, where=where, fix=_FIX_AUTH) from None
        raise Unreachable(text, where=where, fix=_FIX_NET) from None
    except exc.Error as error:
        raise classify_sql(str(error), where=where) from None


def classify_sql(text: str, *, where: str) -> RemoteError:
    """The error of a statement that the warehouse refused, by its condition."""
    line = _first_line(text)
    if _CONFLICT.search(text):
        return Conflict(line, where=where)
    if _MISSING.search(text):
        return NotFound(line, where=where)
    if _AUTH.search(line):
        return Unauthorized(line, where=where, fix=_FIX_AUTH)
    return Rejected(line, where=where)


def _first_line(error: BaseException | str) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:600].rstrip(".") + "."

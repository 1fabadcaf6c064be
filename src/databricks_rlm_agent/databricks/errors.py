"""The vendors' errors mapped to ours, and their own retries switched off, so that ``retry`` decides alone.

No exception of databricks-sdk or of the connector leaves this package unmapped. Left to themselves (measured;
docs/retries.md), databricks-sdk 0.156 sleeps through any ``Retry-After``, however long, before it gives up,
and never repeats a 500 or 504; the connector 4.9 waits five seconds or more after any 429 or 503, and sends a
statement again whose answer was lost.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from databricks_rlm_agent.errors import (
    AlreadyExists,
    Forbidden,
    NotFound,
    Rejected,
    RemoteError,
    Throttled,
    Unauthorized,
    Unreachable,
)
from databricks_rlm_agent.sqltext.errors import FIX_AUTH, FIX_DENIED, classify_sql, first_line

HTTP_TIMEOUT_S = 60
# The SDK asks for the host's metadata while it is built, by a clock of its own, and for 300 s if it is let.
DISCOVERY_S = 1
# As many as may be in flight at once: planners, publishers and renewals. Further ones wait.
CONNECTIONS = 32


class WouldWaitError(Exception):
    """Raised where the SDK would sleep before its next try; ``__context__`` is the error that it saw."""


class NoRetries:
    """A ``databricks.sdk.clock.Clock``: the SDK sleeps by it between two tries of a request only."""

    def time(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def sleep(self, seconds: float) -> NoReturn:
        """Refuse: the first error is the one that counts."""
        raise WouldWaitError(f"the SDK would try again in {seconds:.1f} s")


def connector_options() -> dict[str, Any]:
    """Arguments of ``databricks.sql.connect`` under which every request is sent once.

    The older of its two retry modes is the one that tells the HTTP status and headers of a 429 or 503; the
    limits hold in both, should it be removed. It warns of that choice at every connection, which is ours and
    not that of whoever uses this library.
    """
    logging.getLogger("databricks.sql.backend.thrift_backend").addFilter(_not_of_our_choice)
    return {
        "_enable_v3_retries": False,
        "_retry_stop_after_attempts_count": 1,
        "_retry_stop_after_attempts_duration": 1,
        "_retry_delay_min": 60,
        "_retry_delay_max": 60,
        "_socket_timeout": 120,
    }


def _not_of_our_choice(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Legacy retry behavior")


# Databricks answers a personal token that is expired or unknown with 403 and "Invalid access token."
_TOKEN = re.compile(
    r"\b(invalid|expired|revoked|unknown)\b.{0,30}\b(token|jwt|credentials?)\b"
    r"|\b(token|jwt|credentials?)\b.{0,30}\b(invalid|expired|revoked|not valid|not sent)\b"
    r"|UNAUTHENTICATED",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"PERMISSION_DENIED|INSUFFICIENT_PERMISSIONS|INSUFFICIENT_PRIVILEGES"
    r"|\b(does not have|no permission|not authorized|not allowed|requires)\b",
    re.IGNORECASE,
)
# Of the statuses that the SDK has no class for, those that a proxy or an overloaded server gives.
_TRANSIENT = re.compile(r"BAD_GATEWAY|INTERNAL|UNKNOWN|5\d\d|\w*(TIMEOUT|UNAVAILABLE)")
_FIX_NET = "Check DATABRICKS_HOST, RLM_WAREHOUSE_HTTP_PATH and the network, then try again."
_FIX_UNKNOWN = "The outcome is unknown; asking again with the same token is safe."
_FIX_LATER = "Try again later."
# What the SDK puts in where a 429 or 503 names no Retry-After (databricks-sdk 0.156, errors/customizer.py).
_SDK_DEFAULT_S = 1


@contextmanager
def sdk_errors(where: str) -> Iterator[None]:
    """Map what databricks-sdk raises; ``where`` names the call for the message."""
    try:
        yield
    except Exception as error:
        seen = error.__context__ if isinstance(error, WouldWaitError) and error.__context__ else error
        mapped = classify_sdk(seen, where=where)
        if mapped is None:
            raise
        raise mapped from None


def classify_sdk(error: BaseException, *, where: str) -> RemoteError | None:
    """Our error for one that came out of the SDK; None for what is no answer of a workspace."""
    import requests
    import urllib3
    from databricks.sdk import errors as sdk
    from databricks.sdk.errors.base import DatabricksError

    if isinstance(error, RemoteError):
        return None
    text = first_line(error)
    if isinstance(error, sdk.PermissionDenied):
        return refused(text, where=where)
    pause = getattr(error, "retry_after_secs", None)
    if isinstance(error, sdk.TooManyRequests) or (pause or 0) > _SDK_DEFAULT_S:
        return Throttled(text, where=where, fix=_FIX_LATER, retry_after=pause)
    table: tuple[tuple[type[BaseException], type[RemoteError], str | None], ...] = (
        (sdk.Unauthenticated, Unauthorized, FIX_AUTH),
        (sdk.NotFound, NotFound, None),
        (sdk.AlreadyExists, AlreadyExists, None),
        (sdk.ResourceConflict, AlreadyExists, None),
        (sdk.BadRequest, Rejected, None),
        (sdk.NotImplemented, Rejected, None),
        (TimeoutError, Unreachable, _FIX_NET),
        (requests.RequestException, Unreachable, _FIX_NET),
        (urllib3.exceptions.HTTPError, Unreachable, _FIX_NET),  # while a body is read
    )
    for kind, ours, fix in table:
        if isinstance(error, kind):
            return ours(text, where=where, fix=fix)
    if isinstance(error, DatabricksError):
        # 5xx, cancelled, deadline: what was asked may have happened all the same
        if type(error) is not DatabricksError or _TRANSIENT.match(str(error.error_code or "UNKNOWN")):
            return Unreachable(text, where=where, fix=_FIX_UNKNOWN)
        return Rejected(text, where=where)
    if isinstance(error, ValueError):  # the SDK's word for unusable credentials or configuration
        return Unauthorized(text, where=where, fix=FIX_AUTH)
    return None


def refused(text: str, *, where: str) -> RemoteError:
    """Classify a 403: Unauthorized for a bad token, or without any text; else Forbidden."""
    if _TOKEN.search(text) or text == "Forbidden.":  # a reply to HEAD has no words of its own
        return Unauthorized(text, where=where, fix=FIX_AUTH)
    return Forbidden(text, where=where, fix=FIX_DENIED)


@contextmanager
def sql_errors(where: str, pause: Callable[[], float | None] = lambda: None) -> Iterator[None]:
    """Map what databricks-sql-connector raises; ``where`` names the warehouse for the message.

    ``pause`` tells the ``Retry-After`` of the last reply in seconds, which the connector's errors leave out.
    """
    import urllib3
    from databricks.sql import exc

    try:
        yield
    except (exc.RequestError, urllib3.exceptions.HTTPError, OSError) as error:
        context = getattr(error, "context", {})  # the connector keeps the cause there, out of its message
        code = context.get("http-code") if isinstance(error, exc.RequestError) else None
        raise _of_status(code, _request_text(error, context, code), where, pause()) from None
    except exc.Error as error:
        raise classify_sql(str(error), where=where) from None


def _of_status(code: int | None, text: str, where: str, pause: float | None) -> RemoteError:
    if code == 401 or (code == 403 and not _DENIED.search(text)) or (code is None and _TOKEN.search(text)):
        return Unauthorized(f"The credentials were refused: {text}", where=where, fix=FIX_AUTH)
    if code == 403:
        return Forbidden(text, where=where, fix=FIX_DENIED)
    if code == 429 or (code == 503 and pause is not None):
        return Throttled(text, where=where, fix=_FIX_LATER, retry_after=pause)
    return Unreachable(text, where=where, fix=_FIX_NET)


def _request_text(error: BaseException, context: dict[str, object], code: int | None) -> str:
    cause = context.get("original-exception")
    words = [str(error).rstrip(": ."), f"HTTP {code}" if code not in {None, 200} else "", str(cause or "")]
    return first_line(", ".join(word for word in words if word and word != "None"))

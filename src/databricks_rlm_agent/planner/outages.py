"""Errors of model providers, mapped to ours: what is transient, and what to do about the rest.

Each provider's library has its own classes; all of them keep the HTTP status where there is one, and most the
response with its headers.
"""

from __future__ import annotations

import time
from typing import Any

from databricks_rlm_agent.errors import (
    Forbidden,
    NotFound,
    Rejected,
    RemoteError,
    Throttled,
    Unauthorized,
    Unreachable,
)
from databricks_rlm_agent.retry import is_transient
from executor_harness.rlm.client import retry_after

# Request time-out, conflict (a model that is being loaded), too early, too many requests.
_LATER = frozenset({408, 409, 425, 429})
# What HTTP libraries raise where there was no answer, or one that is not what was asked for.
_LIBRARIES = ("google", "httpx", "httpcore", "aiohttp", "openai", "json", "urllib3", "requests")


def model_error(error: Exception, reason: str) -> RemoteError:
    """Return our error for one that a provider's library has raised, with ``reason`` as its text."""
    status = _status(error)
    if status in _LATER or (status == 503 and _retry_after_s(error) is not None):
        return Throttled(reason, retry_after=_retry_after_s(error))
    if status == 401:
        return Unauthorized(reason, fix="Check the key: rlm-agent secrets check.")
    if status == 403:
        return Forbidden(reason, fix="Ask for access to the model, or use a key that has it.")
    if status == 404:
        return NotFound(reason, fix="Check the model's name (RLM_MODEL).")
    if status is not None and 400 <= status < 500:
        return Rejected(reason, fix="The provider refuses the request; name another model in RLM_MODEL.")
    if status is not None or isinstance(error, OSError) or _of_a_library(error):
        return Unreachable(reason)
    return Rejected(reason, fix="This is no error of a provider's; name another model in RLM_MODEL.")


def is_final(error: RemoteError) -> bool:
    """Return whether asking the model again is no use. A key that was refused is not read anew."""
    return isinstance(error, Unauthorized) or not is_transient(error)


def charges(error: Exception) -> bool:
    """Return whether a failed call may have to be paid for: one that was cut off has been read."""
    return isinstance(error, TimeoutError)


def _status(error: Exception) -> int | None:
    for name in ("status_code", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    return None


def _retry_after_s(error: Exception) -> float | None:
    """Seconds of the header ``Retry-After``; None where there is none."""
    # LiteLLM makes a response of its own, and keeps the headers beside it.
    headers: Any = getattr(error, "litellm_response_headers", None)
    headers = headers or getattr(getattr(error, "response", None), "headers", None) or {}
    return retry_after(headers.get("retry-after") or headers.get("Retry-After"), time.time())


def _of_a_library(error: Exception) -> bool:
    return any(kind.__module__.partition(".")[0] in _LIBRARIES for kind in type(error).__mro__)

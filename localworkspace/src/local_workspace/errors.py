"""The errors of the local workspace.

WorkspaceError    the server cannot start, or was misused; one clear message
ApiError          an error reply of the REST API, with its HTTP status
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Databricks' error_code for statuses that a rule or a script asks for without naming one.
_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "RESOURCE_CONFLICT",
    429: "REQUEST_LIMIT_EXCEEDED",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class WorkspaceError(Exception):
    """The local workspace cannot start, or cannot be reached; the message says what to do."""


class ApiError(Exception):
    """An error reply of the REST API.

    `code` is Databricks' error_code; the SDK picks its exception class by code first, by status next
    (databricks-sdk 0.156, errors/platform.py). `retry_after` is in seconds, for the header of that name.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Sequence[Mapping[str, Any]] = (),
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = tuple(details)
        self.retry_after = retry_after

    def document(self) -> dict[str, Any]:
        """The JSON body of the reply."""
        line = self.message.replace("\r", "\\r").replace("\n", "\\n")  # a request's own text may be in it
        body: dict[str, Any] = {"error_code": self.code, "message": line}
        if self.details:
            body["details"] = [dict(item) for item in self.details]
        return body


def injected(status: int, message: str, retry_after: int | None) -> ApiError:
    """The error that a fault rule or a script asks for, with the usual code of its status."""
    return ApiError(status, _CODES.get(status, "INTERNAL_ERROR"), message, retry_after=retry_after)


def invalid(message: str) -> ApiError:
    """400 INVALID_PARAMETER_VALUE."""
    return ApiError(400, "INVALID_PARAMETER_VALUE", message)


def missing(message: str) -> ApiError:
    """404 RESOURCE_DOES_NOT_EXIST."""
    return ApiError(404, "RESOURCE_DOES_NOT_EXIST", message)


def exists(message: str) -> ApiError:
    """409 RESOURCE_ALREADY_EXISTS."""
    return ApiError(409, "RESOURCE_ALREADY_EXISTS", message)

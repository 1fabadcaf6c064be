"""What goes wrong in the local workspace: errors that the API reports, and errors that stop it.

WorkspaceError          the server cannot start or was misused; one clear message
ApiError              an error reply {"error_code", "message"} with its HTTP status
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class WorkspaceError(Exception):
    """The local workspace cannot start, or cannot be reached; the message says what to do."""


class ApiError(Exception):
    """An error reply of the REST API.

    `code` is Databricks' error_code; the SDK picks its exception class by code first, by status next
    (databricks-sdk 0.156, errors/platform.py).
    """

    def __init__(
        self, status: int, code: str, message: str, *, details: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = tuple(details)

    def document(self) -> dict[str, Any]:
        """The JSON body of the reply."""
        body: dict[str, Any] = {"error_code": self.code, "message": self.message}
        if self.details:
            body["details"] = [dict(item) for item in self.details]
        return body


def invalid(message: str) -> ApiError:
    """400 INVALID_PARAMETER_VALUE."""
    return ApiError(400, "INVALID_PARAMETER_VALUE", message)


def missing(message: str) -> ApiError:
    """404 RESOURCE_DOES_NOT_EXIST."""
    return ApiError(404, "RESOURCE_DOES_NOT_EXIST", message)


def exists(message: str) -> ApiError:
    """409 RESOURCE_ALREADY_EXISTS."""
    return ApiError(409, "RESOURCE_ALREADY_EXISTS", message)

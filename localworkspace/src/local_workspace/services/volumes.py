"""Paths in Volumes: from what a client names to what lies on disk."""

from __future__ import annotations

from pathlib import Path

from local_workspace.errors import ApiError, invalid
from local_workspace.layout import Layout, inside

_PREFIX = "Volumes"


def volume_path(layout: Layout, path: str) -> Path:
    """The local path of `/Volumes/<catalog>/<schema>/<volume>/…`.

    Raises ApiError: 400 for a path of another form, 404 when the volume does not exist.
    """
    parts = path.strip("/").split("/")
    if parts[0] != _PREFIX or len(parts) < 4:
        raise invalid(f"Invalid path {path!r}: use /Volumes/<catalog>/<schema>/<volume>/…")
    local = inside(layout.volumes, "/".join(parts[1:]))
    if not layout.volumes.joinpath(*parts[1:4]).is_dir():
        raise ApiError(404, "NOT_FOUND", f"Volume '{'.'.join(parts[1:4])}' does not exist.")
    return local


def not_found(path: str) -> ApiError:
    """404 for a file or directory that is not there."""
    return ApiError(404, "NOT_FOUND", f"The path you provided does not exist or is not accessible: {path}")

"""Paths in Volumes, as people and models may name them."""

from __future__ import annotations

import posixpath

from databricks_rlm_agent.errors import UsageError


def check_volume_path(path: str) -> str:
    """The normal form of a path in a Volume; raise UsageError for any other, and for ``..``."""
    clean = posixpath.normpath(path)
    whole = len(path) <= 1_000 and path.isprintable() and ".." not in path.split("/")
    if not whole or not clean.startswith("/Volumes/"):
        raise UsageError(
            f"{path[:200]!r} is not a path in a Volume.",
            fix="Give /Volumes/<catalog>/<schema>/<volume>/… without '..'.",
        )
    return clean

"""Volume paths: `/Volumes/…` as everyone names them, and where they really are on this machine."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

PREFIX = "/Volumes"


def check(path: object) -> str:
    """The path itself, if it is a plain path of a Volume; ValueError otherwise."""
    if not isinstance(path, str) or not path.startswith(PREFIX + "/"):
        raise ValueError(f"{path!r} is not a path of a Volume: it must start with {PREFIX}/")
    parts = path[len(PREFIX) + 1 :].split("/")
    if any(part in {"", ".", ".."} or "\x00" in part for part in parts):
        raise ValueError(f"{path!r} is not a plain path of a Volume: no empty, '.' or '..' parts")
    return path


@dataclass(frozen=True, kw_only=True)
class Volumes:
    """The mount point of the Volumes. On Databricks it is `/Volumes` itself."""

    root: str = PREFIX

    @classmethod
    def from_environment(cls) -> Volumes:
        """Mounted at `RLM_VOLUMES_ROOT` when that is set: the only environment setting of the harness."""
        return cls(root=(os.environ.get("RLM_VOLUMES_ROOT") or PREFIX).rstrip("/"))

    def local(self, path: str) -> Path:
        """Where a Volume path is on this machine; ValueError when it is none."""
        return Path(self.root + check(path)[len(PREFIX) :])

    def logical(self, path: str) -> str | None:
        """The Volume path of a place on this machine, given by either name; None when it lies elsewhere."""
        for prefix in (PREFIX, self.root):
            if path.startswith(prefix + "/"):
                return check(PREFIX + path[len(prefix) :])
        return None

    def put(self, path: str, data: bytes) -> None:
        """Write a whole file. Volumes promise no atomic rename, so: the final name, one open, write and
        close.
        """
        target = self.local(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            file.write(data)
            file.flush()
            with contextlib.suppress(OSError):  # some mounts refuse fsync; closing is what counts there
                os.fsync(file.fileno())

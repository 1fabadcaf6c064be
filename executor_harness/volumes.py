"""Volume paths: `/Volumes/…` as everyone names them, and where they really are on this machine."""

from __future__ import annotations

import contextlib
import os
import stat
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

    def read(self, path: str) -> bytes:
        """The content of a regular file; a link or a pipe is refused. Raises OSError."""
        with os.fdopen(os.open(self.local(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(f"{path} is not a regular file")
            return file.read()

    def put(self, path: str, data: bytes) -> None:
        """Write a whole file at its final name: Volumes promise no atomic rename. Raises OSError.

        A link or a pipe that a program put there is replaced, never written through.
        """
        target = self.local(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(target.lstat().st_mode):
                target.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with os.fdopen(os.open(target, flags, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            with contextlib.suppress(OSError):  # some mounts refuse fsync; closing is what counts there
                os.fsync(file.fileno())

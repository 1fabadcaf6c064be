"""Volume paths: `/Volumes/…` as everyone names them, and where they really are on this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

PREFIX = "/Volumes"
_MOST_BYTES = 256 * 1024 * 1024  # of a file of ours that is read whole


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

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """A regular file for reading; a link or a pipe is refused, and blocks nobody. Raises OSError."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        with os.fdopen(os.open(self.local(path), flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(f"{path} is not a regular file")
            yield file

    def read(self, path: str, most: int = _MOST_BYTES) -> bytes:
        """The content of a regular file of at most so many bytes. Raises OSError."""
        with self.open(path) as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise OSError(f"{path} has more than {most:,} bytes")
        return data

    @contextlib.contextmanager
    def create(self, path: str) -> Iterator[BinaryIO]:
        """A new regular file, written in order from its start at its final name: Volumes take nothing else,
        and promise no atomic rename. Raises OSError.

        What a program put there in its place (a link, a pipe, a folder) is removed, never written through.
        """
        target = self.local(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        self._check_folders(path)
        with contextlib.suppress(FileNotFoundError):
            mode = target.lstat().st_mode
            if stat.S_ISDIR(mode):
                shutil.rmtree(target)
            elif not stat.S_ISREG(mode):
                target.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
        with os.fdopen(os.open(target, flags, 0o666), "wb") as file:
            yield file
            file.flush()
            with contextlib.suppress(OSError):  # some mounts refuse fsync; closing is what counts there
                os.fsync(file.fileno())

    def _check_folders(self, path: str) -> None:
        """Raise OSError if a folder within the Volume is a link."""
        _, *volume = path.split("/")[:5]
        inside = path.split("/")[5:-1]
        place = os.path.realpath("/".join([self.root, *volume[1:]]))
        if os.path.realpath("/".join([place, *inside])) != "/".join([place, *inside]):
            raise OSError(f"{path} is below a link: a program put it in the place of a folder")

    def put(self, path: str, data: bytes) -> None:
        """Write a whole file at its final name, as `create` does. Raises OSError."""
        with self.create(path) as file:
            file.write(data)

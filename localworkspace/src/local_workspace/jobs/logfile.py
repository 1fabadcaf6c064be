"""A task run's log: standard output and standard error, the last 5 MB of them, in bounded disk space."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

# "stdout+stderr, last 5 MB" (databricks-sdk 0.156, jobs.RunOutput.logs)
KEEP = 5 * 1024 * 1024


class LogWriter:
    """Two segments: when the newer is full it takes the older's place. At most 2 x `keep` bytes in all."""

    def __init__(self, folder: Path, keep: int = KEEP) -> None:
        self._older, self._newer = folder / "log.0", folder / "log.1"
        self._keep = keep
        self._file: BinaryIO = self._newer.open("wb", buffering=0)
        self._size = 0

    def write(self, data: bytes) -> None:
        """Append bytes; they are readable at once."""
        while data:
            if self._size >= self._keep:
                self._file.close()
                self._newer.replace(self._older)
                self._file = self._newer.open("wb", buffering=0)
                self._size = 0
            part, data = data[: self._keep - self._size], data[self._keep - self._size :]
            self._file.write(part)
            self._size += len(part)

    def close(self) -> None:
        """No more output comes."""
        self._file.close()


def read_log(folder: Path, keep: int = KEEP) -> tuple[str, bool]:
    """The last `keep` bytes as text, and whether there were more. Bytes that are not UTF-8 become U+FFFD."""
    whole = b""
    for _ in range(5):
        before = _identity(folder)
        whole = _content(folder / "log.0") + _content(folder / "log.1")
        if _identity(folder) == before:  # else the segments changed places meanwhile
            break
    return whole[-keep:].decode("utf-8", "replace"), len(whole) > keep


def _identity(folder: Path) -> int | None:
    try:
        return (folder / "log.1").stat().st_ino
    except FileNotFoundError:
        return None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""

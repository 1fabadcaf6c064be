"""One captured output stream: masked, passed on within bounds, and kept as head and tail in bounded
memory.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable

from executor_harness.protocol import PREVIEW_CHARS, Stream
from executor_harness.redaction import StreamRedactor

PASS_HEAD = 1024 * 1024
PASS_TAIL = 64 * 1024


class Keep:
    """The first `head` and the last `tail` bytes of a stream of any length."""

    def __init__(self, head: int, tail: int) -> None:
        self._head_cap, self._tail_cap = head, tail
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self.total = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self.total += len(data)
        room = self._head_cap - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail.append(data)
            self._tail_size += len(data)
            while self._tail and self._tail_size - len(self._tail[0]) >= self._tail_cap:
                self._tail_size -= len(self._tail.popleft())

    @property
    def head(self) -> bytes:
        """The first bytes."""
        return bytes(self._head)

    @property
    def tail(self) -> bytes:
        """The last bytes, as far as `head` does not hold them already."""
        joined = b"".join(self._tail)
        return joined[-self._tail_cap :] if self._tail_cap else b""

    @property
    def left_out(self) -> int:
        """How many bytes between head and tail are gone."""
        return self.total - len(self._head) - len(self.tail)

    def joined(self) -> bytes:
        """Head and tail, with a line between them that says how much is missing."""
        if not self.left_out:
            return self.head + self.tail
        return self.head + f"\n[... {self.left_out} bytes left out ...]\n".encode() + self.tail


def previews(head: bytes, tail: bytes, *, gap: bool) -> tuple[str, str]:
    """The first and the last characters of what was kept, never the same character twice."""
    many = 4 * PREVIEW_CHARS + 4  # a character has at most four bytes
    if not gap and len(head) + len(tail) <= 2 * many:
        whole = (head + tail).decode("utf-8", "replace")
        return whole[:PREVIEW_CHARS], whole[PREVIEW_CHARS:][-PREVIEW_CHARS:]
    last = tail if gap else (head[-many:] + tail)
    first = head if gap else head + tail[:many]
    return (
        first[:many].decode("utf-8", "replace")[:PREVIEW_CHARS],
        last[-many:].decode("utf-8", "replace")[-PREVIEW_CHARS:],
    )


class Recording:
    """Everything that happens to the bytes of one stream. `write` passes bytes on to the job's own log."""

    def __init__(self, *, secrets: list[str], cap: int, write: Callable[[bytes], None]) -> None:
        self._redactor = StreamRedactor(secrets)
        self._kept = Keep(cap - cap // 2, cap // 2)
        self._passed = Keep(PASS_HEAD, PASS_TAIL)
        self._write = write
        self.received = 0

    def feed(self, data: bytes) -> None:
        """Take bytes as the program wrote them."""
        self.received += len(data)
        self._take(self._redactor.feed(data))

    def close(self) -> None:
        """The stream is over: pass its tail on."""
        self._take(self._redactor.flush())
        rest = self._passed.joined()[PASS_HEAD:]
        if rest:
            self._write(rest)

    def _take(self, data: bytes) -> None:
        room = PASS_HEAD - self._passed.total
        if room > 0 and data:
            self._write(data[:room])
        self._passed.feed(data)
        self._kept.feed(data)

    def text(self) -> bytes:
        """What belongs into the file."""
        return self._kept.joined()

    def summary(self, path: str | None) -> Stream:
        """The stream's entry in result.json."""
        head, tail = previews(self._kept.head, self._kept.tail, gap=self._kept.left_out > 0)
        return {
            "path": path,
            "bytes": self.received,
            "truncated": self._kept.left_out > 0,
            "head": head,
            "tail": tail,
        }


def writer(fd: int) -> Callable[[bytes], None]:
    """Writes everything to a file descriptor; a reader that went away is no reason to stop recording."""

    def write(data: bytes) -> None:
        view = memoryview(data)
        with contextlib.suppress(OSError):
            while view:
                view = view[os.write(fd, view) :]

    return write

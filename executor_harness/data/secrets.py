"""Secrets of the job in values that are to be kept: files outlive it, and others may read them."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from executor_harness.data import plain

_READ_BYTES = 8 * 1024 * 1024
# NumPy's texts are UTF-32, its names Latin-1; other names are written as JSON.
_ENCODINGS = ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
_HELP = "holds one of the job's secrets, which are not kept; take it from the environment where it is needed"


class Secrets:
    """What must not be in any value. Numbers, and what is compressed or encoded, are not looked into."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._texts = tuple(secrets)
        encoded = {form for text in self._texts for form in _forms(text)}
        self._longest = max(map(len, encoded), default=0)
        self._pattern = re.compile(b"|".join(map(re.escape, encoded))) if encoded else None

    def check(self, value: Any) -> None:
        """ValueError if texts or bytes in a plain value hold one; it does not say which."""
        if self._texts and self._is_in(value, plain.MAX_DEPTH):
            raise ValueError(_HELP)

    def check_file(self, path: Path) -> None:
        """ValueError if the bytes of a file hold one."""
        if self._pattern is None:
            return
        with path.open("rb") as file:
            end = b""
            while data := file.read(_READ_BYTES):
                if self._pattern.search(end + data):
                    raise ValueError(_HELP)
                end = (end + data)[-self._longest :]

    def _is_in(self, value: Any, depth: int) -> bool:
        if isinstance(value, str):
            return any(text in value for text in self._texts)
        if isinstance(value, bytes):
            return self._pattern is not None and bool(self._pattern.search(value))
        if depth < 0:
            return False  # too deep to be kept at all
        if isinstance(value, dict):
            return any(self._is_in(one, depth - 1) for pair in value.items() for one in pair)
        if isinstance(value, (list, tuple, set, frozenset)):
            return any(self._is_in(one, depth - 1) for one in value)
        return False


def _forms(text: str) -> Iterator[bytes]:
    yield json.dumps(text)[1:-1].encode("ascii")
    for encoding in _ENCODINGS:
        with contextlib.suppress(UnicodeEncodeError):
            yield text.encode(encoding, "surrogateescape" if encoding == "utf-8" else "strict")

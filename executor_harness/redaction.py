"""Secrets out of everything that leaves the process: streams, JSON values, and values that are to be kept."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

MASK = "***"
_NAMES = ("TOKEN", "SECRET", "PASSWORD", "API_KEY")
_NOT_SECRET = frozenset({"ADK_SECRET_SCOPE"})  # a scope's name: masking it would only hide error messages
_SHORTEST = 8  # shorter values would mask ordinary words
_READ_BYTES = 8 * 1024 * 1024
# NumPy's texts are UTF-32, its names Latin-1; other names are written as JSON.
_ENCODINGS = ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
_MAX_DEPTH = 100  # of a value that can be kept at all
_HELP = "holds one of the job's secrets, which are not kept; take it from the environment where it is needed"


def secrets_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Values of variables whose names say that they are secret, longest first."""
    found = {
        value
        for name, value in environ.items()
        if len(value) >= _SHORTEST
        and name not in _NOT_SECRET
        and any(word in name.upper() for word in _NAMES)
    }
    return tuple(sorted(found, key=lambda value: (-len(value), value)))


class StreamRedactor:
    """Masks secrets in a stream of bytes; the result does not depend on how the stream was cut into chunks.

    What could be the start of a secret is held back until the next chunk, or `flush`, decides.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        # Longest first, so that a secret that is the start of a longer one does not leave its rest behind.
        encoded = {secret.encode("utf-8", "surrogateescape") for secret in secrets}
        self._secrets = sorted(encoded, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, self._secrets))) if self._secrets else None
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """Everything that is decided after this chunk."""
        if self._pattern is None:
            return chunk
        text = self._held + chunk
        position, hold = 0, self._undecided(text, 0)
        out: list[bytes] = []
        for match in self._pattern.finditer(text):
            if match.start() >= hold:
                break
            out += (text[position : match.start()], MASK.encode())
            position = match.end()
            if position > hold:
                hold = self._undecided(text, position)
        out.append(text[position:hold])
        self._held = text[hold:]
        return b"".join(out)

    def flush(self) -> bytes:
        """Return the text that was held back, at the end of the stream."""
        held, self._held = self._held, b""
        return self._pattern.sub(MASK.encode(), held) if self._pattern else held

    def _undecided(self, text: bytes, start: int) -> int:
        """The first position from `start` on at which the rest of the text is an incomplete secret."""
        longest = 0
        for secret in self._secrets:
            for length in range(min(len(secret) - 1, len(text) - start), longest, -1):
                if text.endswith(secret[:length]):
                    longest = length
                    break
        return len(text) - longest


class Redactor:
    """Masks secrets in strings and, recursively, in JSON values (keys too)."""

    def __init__(self, secrets: Iterable[str]) -> None:
        ordered = sorted(set(secrets), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def text(self, text: str) -> str:
        """The text with every secret masked."""
        return self._pattern.sub(MASK, text) if self._pattern else text

    def value(self, value: Any) -> Any:
        """A copy of a JSON value with every secret masked."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.value(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.value(item) for item in value]
        return value


class SecretCheck:
    """Refuses values that hold a secret. Numbers, and what is compressed or encoded, are not looked into."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._texts = tuple(secrets)
        encoded = {form for text in self._texts for form in _forms(text)}
        self._longest = max(map(len, encoded), default=0)
        self._pattern = re.compile(b"|".join(map(re.escape, encoded))) if encoded else None

    def check(self, value: Any) -> None:
        """Raise ValueError if texts or bytes in a plain value hold a secret; it does not say which."""
        if self._texts and self._is_in(value, _MAX_DEPTH):
            raise ValueError(_HELP)

    def check_file(self, path: Path) -> None:
        """Raise ValueError if the bytes of a file hold a secret."""
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
            return False
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

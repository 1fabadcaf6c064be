"""Secrets out of everything that leaves the process: streams (over chunk boundaries) and JSON values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

MASK = "***"
_NAMES = ("TOKEN", "SECRET", "PASSWORD", "API_KEY")
_NOT_SECRET = frozenset(
    {"ADK_SECRET_SCOPE"}
)  # the name of a scope: masking it would only hide error messages
_SHORTEST = 8  # shorter values would mask ordinary words


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


def _encoded(secrets: Iterable[str]) -> list[bytes]:
    return sorted({secret.encode("utf-8", "surrogateescape") for secret in secrets}, key=len, reverse=True)


class StreamRedactor:
    """Masks secrets in a stream of bytes; the result does not depend on how the stream was cut into chunks.

    What could be the start of a secret is held back until the next chunk, or `flush`, decides.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = _encoded(secrets)
        # Longest first, so that a secret that is the start of a longer one does not leave its rest behind.
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
        """What was held back, at the end of the stream."""
        held, self._held = self._held, b""
        return self._pattern.sub(MASK.encode(), held) if self._pattern else held

    def _undecided(self, text: bytes, start: int) -> int:
        """The first position from `start` on where the rest of the text begins, but does not complete, a
        secret.
        """
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

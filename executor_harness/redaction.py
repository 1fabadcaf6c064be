"""Secrets out of everything that leaves the process: streams, JSON values, and values that are to be kept.

A secret is masked as it is, and as programs write it: in literals of JSON and Python, in URLs, in hexadecimal
digits and in base64, also as a part of a longer text that was encoded (all three alignments, both alphabets).
Numbers, what is compressed or encrypted, and base64 that was broken into lines are not looked into.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

MASK = "***"
GUESSED = 8  # characters: shorter values that only a variable's name calls secret would mask ordinary words;
HANDED_OUT = 4  # those that were handed out as secrets are masked from here on
_LINE = 16  # characters of a line that is a secret by itself, such as those of a private key
_NAME = re.compile(
    r"token(?!iz)|secret|passw|passphrase|_pwd|credential|api_?key|(?:^|_)auth(?:_|$|orization)"
    r"|(?:private|access|account|storage)_?key|connection_?string|(?:^|_)sas(?:_|$)",
    re.IGNORECASE,
)
_NOT_SECRET = frozenset({"ADK_SECRET_SCOPE"})  # a scope's name: masking it would only hide error messages
# A password or token within a URL: postgres://user:…@host, sc://host:15002/;token=…
_IN_URL = re.compile(r"://[^/\s:@]*:([^@/\s]+)@|[;?&]\w*(?:token|password|sig)=([^;&\s]+)", re.IGNORECASE)
_READ_BYTES = 8 * 1024 * 1024
# NumPy's texts are UTF-32, its names Latin-1.
_ENCODINGS = ("latin-1", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
_MAX_DEPTH = 100  # of a value that can be kept at all
_HELP = "holds one of the job's secrets, which are not kept; take it from the environment where it is needed"


def names_a_secret(variable: str) -> bool:
    """Return whether an environment variable of that name probably holds a secret."""
    return variable not in _NOT_SECRET and bool(_NAME.search(variable))


def secrets_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Values of variables whose names say that they are secret, and passwords in URLs; longest first."""
    found = {part for value in environ.values() for pair in _IN_URL.findall(value) for part in pair}
    # The path of a file or socket is none; masking it would only hide error messages.
    found |= {
        value
        for name, value in environ.items()
        if names_a_secret(name) and not (value.startswith("/") and Path(value).exists())
    }
    kept = {value for value in found if len(value) >= GUESSED}
    return tuple(sorted(kept, key=lambda value: (-len(value), value)))


def forms(secret: str) -> set[str]:
    """The texts that give a secret away: itself, and what encoders make of it.

    Encoded forms of less than 8 characters are left out: they would mask ordinary words.
    """
    data = _bytes(secret)
    literal = json.dumps(secret)[1:-1]
    encoded = {literal, json.dumps(literal)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    encoded |= {literal.replace("/", r"\/"), repr(secret)[1:-1], repr(data)[2:-1]}
    for quoted in (quote(data, safe=""), quote(data), quote_plus(data)):
        encoded |= {quoted, re.sub("%..", lambda match: match.group().lower(), quoted)}
    encoded |= {data.hex(), data.hex().upper(), *_base64(data)}
    # Of a key in several lines each line is a secret: they are printed one by one.
    lines = (line.strip() for line in secret.splitlines())
    encoded |= {line for line in lines if len(line) >= _LINE and not line.startswith("-----")}
    return {secret, *(text for text in encoded if len(text) >= GUESSED)}


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _base64(data: bytes) -> Iterator[str]:
    """The characters that the data alone decides, after 0, 1 or 2 bytes of something else."""
    for before in range(3):
        text = base64.b64encode(b"\0" * before + data).decode("ascii")
        text = text[-(-8 * before // 6) : 8 * (before + len(data)) // 6]
        yield text
        yield text.translate({ord("+"): "-", ord("/"): "_"})


class _Patterns:
    """Compiled patterns: for texts, for streams of bytes, and for values that are to be kept."""

    def __init__(self, secrets: Iterable[str]) -> None:
        found = {form for secret in secrets for form in forms(secret)}
        # Longest first, so that a secret that is the start of a longer one does not leave its rest behind.
        texts = sorted(found, key=lambda text: (-len(text), text))
        self.streamed = [_bytes(text) for text in texts]
        self.text = re.compile("|".join(map(re.escape, texts)))
        self.stream = _any_of(self.streamed)
        kept = set(self.streamed)
        for secret in secrets:
            for encoding in _ENCODINGS:
                with contextlib.suppress(UnicodeEncodeError):
                    kept.add(secret.encode(encoding))
        self.kept = _any_of(kept)
        self.longest = max(map(len, kept))


def _any_of(texts: Iterable[bytes]) -> re.Pattern[bytes]:
    return re.compile(b"|".join(map(re.escape, texts)))


class Redactor:
    """The secrets of a process, which come to be known one after the other. It masks them in texts and JSON
    values, and refuses values that hold one. Threads may share it.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._lock = threading.RLock()
        self._secrets = dict.fromkeys(secret for secret in secrets if secret)
        self.patterns = _Patterns(self._secrets) if self._secrets else None
        self.listeners: list[Callable[[str], object]] = []

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets that are known so far."""
        return (*self._secrets,)

    def add(self, secret: str) -> None:
        """Mask a secret that was handed out, from now on; `listeners` know it when this returns."""
        secret = secret.strip()
        if len(secret) < HANDED_OUT or secret in self._secrets:
            return
        with self._lock:
            self._secrets[secret] = None
            self.patterns = _Patterns(self.secrets)
            for listener in self.listeners:
                listener(secret)

    def text(self, text: str) -> str:
        """The text with every secret masked."""
        return self.patterns.text.sub(MASK, text) if self.patterns else text

    def value(self, value: Any) -> Any:
        """A copy of a JSON value with every secret masked, in keys too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.value(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.value(item) for item in value]
        return value

    def refuse(self, value: Any) -> None:
        """Raise ValueError if texts or bytes in a plain value hold a secret; it does not say which."""
        if self.patterns and _is_in(self.patterns, value, _MAX_DEPTH):
            raise ValueError(_HELP)

    def refuse_file(self, path: Path) -> None:
        """Raise ValueError if the bytes of a file hold a secret."""
        patterns = self.patterns
        if patterns is None:
            return
        with path.open("rb") as file:
            end = b""
            while data := file.read(_READ_BYTES):
                if patterns.kept.search(end + data):
                    raise ValueError(_HELP)
                end = (end + data)[-patterns.longest :]


def _is_in(patterns: _Patterns, value: Any, depth: int) -> bool:
    if isinstance(value, str):
        return bool(patterns.text.search(value))
    if isinstance(value, bytes):
        return bool(patterns.kept.search(value))
    if depth < 0:
        return False
    if isinstance(value, dict):
        return any(_is_in(patterns, one, depth - 1) for pair in value.items() for one in pair)
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(_is_in(patterns, one, depth - 1) for one in value)
    return False


class StreamRedactor:
    """Masks secrets in a stream of bytes; the result does not depend on how the stream was cut into chunks.

    What could be the start of a secret is held back until the next chunk, or `flush`, decides.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """Everything that is decided after this chunk."""
        patterns = self._redactor.patterns
        if patterns is None:
            return chunk
        text = self._held + chunk
        position, hold = 0, _undecided(patterns.streamed, text, 0)
        out: list[bytes] = []
        # Two to four times as fast as the expression alone, where there is none.
        some = any(secret in text for secret in patterns.streamed)
        for match in patterns.stream.finditer(text) if some else ():
            if match.start() >= hold:
                break
            out += (text[position : match.start()], MASK.encode())
            position = match.end()
            if position > hold:
                hold = _undecided(patterns.streamed, text, position)
        out.append(text[position:hold])
        self._held = text[hold:]
        return b"".join(out)

    def flush(self) -> bytes:
        """Return the text that was held back, at the end of the stream."""
        held, self._held = self._held, b""
        patterns = self._redactor.patterns
        return patterns.stream.sub(MASK.encode(), held) if patterns else held


def _undecided(secrets: list[bytes], text: bytes, start: int) -> int:
    """The first position from `start` on at which the rest of the text is an incomplete secret."""
    found = len(text)
    for secret in secrets:
        at = text.find(secret[:1], max(start, len(text) - len(secret) + 1), found)
        while at >= 0 and not secret.startswith(text[at:]):
            at = text.find(secret[:1], at + 1, found)
        found = at if at >= 0 else found
    return found

"""URLs that admit by themselves for a while, as those of object storage: a signature in place of a token."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlencode

# What Databricks' links to results have at most.
LIFETIME_S = 900
_EXPIRES, _SIGNATURE = "expires", "signature"


class Signer:
    """Signs and checks a method with a path and its query, for one server at `host` (a URL)."""

    def __init__(self, host: str, token: str) -> None:
        self._host = host
        self._key = hashlib.sha256(b"signed urls of " + token.encode()).digest()

    def url(self, method: str, path: str, query: Mapping[str, str] | None = None) -> tuple[str, int]:
        """Return a URL that admits `method` on `path` (not quoted), and when it ends, in Unix seconds."""
        ends = int(time.time()) + LIFETIME_S
        signed = {**(query or {}), _EXPIRES: str(ends)}
        signed[_SIGNATURE] = self._signature(method, path, signed)
        return f"{self._host}{quote(path)}?{urlencode(signed)}", ends

    def admits(self, method: str, path: str, query: bytes) -> bool:
        """Tell whether the query of a request has a signature of ours for it that has not ended."""
        given = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
        signature = given.pop(_SIGNATURE, "")
        right = hmac.compare_digest(signature.encode(), self._signature(method, path, given).encode())
        return right and int(given[_EXPIRES]) > time.time()

    def _signature(self, method: str, path: str, query: Mapping[str, str]) -> str:
        text = f"{method} {path}?{urlencode(sorted(query.items()))}"
        return hmac.new(self._key, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def is_signed(query: bytes) -> bool:
    """Tell whether the query of a request claims to be signed."""
    return f"{_SIGNATURE}=".encode() in query

"""Inputs that are nearly right: valid ones, damaged by chance. The same seed gives the same inputs."""

from __future__ import annotations

import copy
import json
import random
import string
from typing import Any

# Values that programs stumble over.
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 2**31, 2**63, 2**200, 1e308, float("nan"), float("inf"), "", " ", "\x00", "\ud83d",
    "é", "\u202e", "🙂" * 50, "a" * 5_000, "../../etc/passwd", "'; DROP TABLE x --", "`", "%s{0}{{x}}", "-1",
    "9" * 400, "0x10", "NaN", "2026-02-30", [], {}, [[]], {"": None}, b"\xff".decode("latin-1"),
)  # fmt: skip
_SQL_WORDS = (
    "SELECT", "FROM", "WHERE", "(", ")", ",", ";", "'", '"', "`", "--", "/*", "*/", "${x}", "{{y}}", ":p",
    "*", "CREATE TABLE", "OR REPLACE", "AS", "INSERT INTO", "MERGE INTO", "USING", "ON", "WITH", "t1",
    "c.s.t", "UNION ALL", "BEGIN", "END", "$$", "\\", "\n", "NULL", "1e", "0x", "INTERVAL", "LATERAL VIEW",
    "|>", "->",
)  # fmt: skip


def odd(rng: random.Random) -> Any:
    """One value that programs stumble over."""
    return copy.deepcopy(rng.choice(ODD))


def text(rng: random.Random) -> str:
    """Any text: printable, or with characters of all planes, without lone surrogates or with some."""
    kind = rng.random()
    if kind < 0.4:
        return "".join(rng.choices(string.printable, k=rng.randint(0, 60)))
    top = 0xD7FF if kind < 0.9 else 0x10FFFF
    return "".join(chr(rng.randint(0, top)) for _ in range(rng.randint(0, 40)))


def document(rng: random.Random, valid: Any) -> Any:
    """A JSON document with one to three of its places changed, removed, nested or doubled."""
    damaged = copy.deepcopy(valid)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(damaged))
        if not places:
            return odd(rng)
        holder, key = rng.choice(places)
        action = rng.random()
        if action < 0.5:
            holder[key] = odd(rng) if rng.random() < 0.8 else text(rng)
        elif action < 0.65:
            del holder[key]
        elif action < 0.8:
            holder[key] = [holder[key], holder[key]]
        elif isinstance(holder, dict):
            holder[text(rng)] = odd(rng)
        else:
            holder.append(odd(rng))
    return damaged


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def json_bytes(rng: random.Random, valid: Any) -> bytes:
    """A damaged document as bytes: as JSON, cut short, with bytes turned, or nested too deeply."""
    kind = rng.random()
    if kind < 0.02:
        return b"[" * 50_000
    content = json.dumps(document(rng, valid), ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")
    return content if kind < 0.7 else octets(rng, content)


def octets(rng: random.Random, valid: bytes) -> bytes:
    """Bytes cut short, turned, removed or added."""
    content = bytearray(valid)
    for _ in range(rng.randint(1, 6)):
        at = rng.randint(0, max(0, len(content) - 1))
        action = rng.random()
        if action < 0.2:
            del content[at:]
        elif action < 0.7 and content:
            content[at] = rng.randrange(256)
        elif action < 0.85:
            del content[at : at + rng.randint(1, 9)]
        else:
            content[at:at] = rng.randbytes(rng.randint(1, 9))
    return bytes(content)


def sql(rng: random.Random, valid: str) -> str:
    """A SQL text with words inserted, removed or exchanged."""
    words = valid.split(" ")
    for _ in range(rng.randint(1, 5)):
        at = rng.randint(0, len(words))
        action = rng.random()
        if action < 0.6:
            words.insert(at, rng.choice(_SQL_WORDS))
        elif action < 0.8:
            del words[at : at + 1]
        else:
            words.insert(at, text(rng))
    return " ".join(words)

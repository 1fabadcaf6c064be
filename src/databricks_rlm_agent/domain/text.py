"""Bounded text that can be stored."""

from __future__ import annotations


def storable(text: str) -> str:
    """``text`` with ``?`` for lone surrogates, which neither JSON nor a file in UTF-8 can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def clip(text: str, limit: int) -> str:
    """``text``, or its head and tail with a mark that says how many characters were left out.

    The result never has more than ``limit`` characters (``limit`` at least 40), and can always be stored.
    """
    if len(text) <= limit:
        return storable(text)
    # As wide as the mark can get: no more can be left out than there is.
    room = max(0, limit - len(_mark(len(text))))
    head = room * 2 // 3
    return storable(f"{text[:head]}{_mark(len(text) - room)}{text[len(text) - (room - head) :]}")


def _mark(left_out: int) -> str:
    return f" […{left_out:,} characters left out…] "

"""Bounded text."""

from __future__ import annotations


def clip(text: str, limit: int) -> str:
    """``text``, or its head and tail with a mark that says how many characters were left out.

    The result never has more than ``limit`` characters (``limit`` at least 40).
    """
    if len(text) <= limit:
        return text
    mark = f" […{len(text) - limit:,} characters left out…] "
    room = limit - len(mark) - 4  # the mark's own number may grow by a few digits
    head = room * 2 // 3
    return f"{text[:head]}{mark}{text[len(text) - (room - head) :]}"

"""Times for people. Pure."""

from __future__ import annotations


def seconds(number: float) -> str:
    """A time for people: ``0.04 s``, ``0.4 s``, ``12.3 s``, ``4 min 05 s``, ``2 h 03 min``."""
    if number < 0.095:
        return f"{number:.2f} s"
    if number < 100:
        return f"{number:.1f} s"
    minutes, rest = divmod(round(number), 60)
    hours, some = divmod(minutes, 60)
    return f"{hours} h {some:02d} min" if hours else f"{minutes} min {rest:02d} s"

"""When a job run that nothing was heard of is asked about: soon, then ever later, never all at once.

A controller need not remember whom it has asked. The number of looks that are due is a function of the run's
age, and a look falls to whoever ticks when that number grows.
"""

from __future__ import annotations

import math
import zlib

DOUBLINGS = 5
# After the doublings: every so many times the first age.
EVERY = 30
_LAST = float(2**DOUBLINGS)
SPREAD = 0.25


def looks(age_s: float, *, first_s: float) -> int:
    """How many times a job run of that age should have been asked about.

    At ``first_s`` seconds, twice that, … 32 times that, then every ``30 * first_s`` (10 s: every 5 minutes).
    """
    if age_s < first_s:
        return 0
    if age_s < first_s * _LAST:
        return 1 + math.floor(math.log2(age_s / first_s))
    return 1 + DOUBLINGS + math.floor((age_s - first_s * _LAST) / (EVERY * first_s))


def spread(run_id: str) -> float:
    """A factor of 1 to 1.25 on a run's age, so that runs that began together are not asked together."""
    return 1 + SPREAD * (zlib.crc32(run_id.encode()) % 1000) / 1000


def should_look(run_id: str, *, age_s: float, gap_s: float, first_s: float) -> bool:
    """Whether a look became due within the last ``gap_s`` seconds."""
    now, before = age_s * spread(run_id), (age_s - gap_s) * spread(run_id)
    return looks(now, first_s=first_s) > looks(max(0.0, before), first_s=first_s)

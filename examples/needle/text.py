"""A works' chronicle of any length, the same for the same size, and the truth about it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SAFE = "48-13-77"
STOPS, OTHERS, SAFE_TALK = 180, 120, 20
_CAUSES = ("a torn belt", "a clogged filter", "a blown fuse", "a cracked valve", "a power cut")
_PLAIN = (
    "the shift went over without remarks",
    "two pallets of sheet steel were brought in and counted",
    "the floor was swept and the lamps were looked after",
    "the crane lifted what there was to lift",
    "a visitor asked for the way to the office",
    "the foreman walked the round and signed the book",
    "the gate stayed closed because of the wind",
)
_STOPPED = (
    "the press stood still for {hours} hours because of {cause}",
    "{cause} kept the press idle for {hours} hours",
    "no work at the press, {hours} hours lost; the reason was {cause}",
)
_PRESS = (
    "the press was greased and ran on",
    "the press had a coat of paint, which did not stop it",
    "new hands were shown how the press works",
)
_SAFE_TALK = (
    "somebody asked for the number of the safe and was sent away",
    "the safe was dusted; its number is not for this book",
    "the number of the safe was forgotten once more",
)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a reader of the whole text would know: hours by cause, and where the needle lies."""

    hours: dict[str, int]
    stops: int
    safe: str = SAFE


def write(path: Path, megabytes: float) -> Truth:
    """Write the chronicle and tell the truth about it."""
    lines = max(2_000, int(megabytes * 1_000_000 / 102))
    chance = random.Random(20_260_101)
    special, hours = _special(chance, lines)
    with path.open("w", encoding="utf-8") as file:
        for number, line in enumerate(_entries(chance, lines)):
            file.write(f"entry {number:07d}, {special.get(number, line)}.\n")
    return Truth(hours=dict(hours), stops=STOPS)


def _special(chance: random.Random, lines: int) -> tuple[dict[int, str], Counter[str]]:
    """What is not everyday, by the number of its line, and the hours of all stops by cause."""
    places = chance.sample(range(lines), STOPS + OTHERS + SAFE_TALK + 1)
    hours: Counter[str] = Counter()
    said = []
    for number in range(STOPS):
        cause, lost = chance.choice(_CAUSES), chance.randint(1, 9)
        hours[cause] += lost
        said.append(_STOPPED[number % len(_STOPPED)].format(hours=lost, cause=cause))
    said += [_PRESS[number % len(_PRESS)] for number in range(OTHERS)]
    said += [_SAFE_TALK[number % len(_SAFE_TALK)] for number in range(SAFE_TALK)]
    said.append(f"the locksmith came, and the safe opens with {SAFE} from today")
    return {
        place: f"hall {chance.randint(1, 9)}: {text}" for place, text in zip(places, said, strict=True)
    }, hours


def _entries(chance: random.Random, lines: int) -> Iterator[str]:
    for _ in range(lines):
        hall, hour = chance.randrange(1, 10), chance.randrange(24)
        at = f"{hour:02d}:{chance.randrange(60):02d}"
        yield f"hall {hall}, {at} by the clock of the tower: {chance.choice(_PLAIN)}"

"""Identifiers and names as people write them: a clean form, and the forms that are found in the systems."""

from __future__ import annotations

import random

from examples.identity_unification.people import DEVICE, EMAIL, LOYALTY, NONE, PHONE

_FIRST = (
    *("Anna", "Zoë", "Łukasz", "Jürgen", "Ngọc", "Siân", "Màiri", "Øyvind", "Ana-Lucía", "Ming", "Fatima"),
    *("O'Neil", "Ivan", "Nuño", "Chloé", "Çelik", "Tamás"),
)
_LAST = (
    *("Müller", "Smith", "Nguyễn", "D'Angelo", "Kowalczyk", "García Márquez", "李", "Sørensen", "Иванова"),
    *("Abdullah", "Ó Briain", "van der Berg", "Weiß", "Đặng", "Papadópoulos"),
)
_LOCAL = (
    "anna",
    "zoë",
    "lukasz",
    "jürgen",
    "ngoc",
    "señora",
    "oyvind",
    "li.ming",
    "fatima",
    "çelik",
    "o_neil",
)
_DOMAINS = ("example.org", "mail.example.net", "post.example.de", "correo.example.es")
_PLACEHOLDERS = {
    EMAIL: (" Unknown@Example.com", "noreply@example.com", "n/a", "-", ""),
    PHONE: ("+49 0000 000000", "-", "", "n/a"),
    DEVICE: ("{00000000-00000000}", ""),
    LOYALTY: ("LC-00000000", "none", ""),
}
_MIX = 0x9E3779B97F4A7C15  # odd, so that different numbers give different devices


def clean(namespace: int, number: int) -> str:
    """An identifier as the SQL should make it. A negative number is one that many share."""
    if namespace == EMAIL:
        return f"{_LOCAL[number % len(_LOCAL)]}.{number}@{_DOMAINS[number % len(_DOMAINS)]}"
    if namespace == PHONE:
        return f"4917{number:09d}" if number >= 0 else f"4930{-number:08d}"
    if namespace == DEVICE:
        return f"{(number + (1 << 40)) * _MIX % (1 << 64):016x}"
    return f"LC{number + 1:08d}"


def written(namespace: int, number: int, chance: random.Random) -> str | None:
    """An identifier as somebody wrote it; an empty place is NULL, or what is put in where one is demanded."""
    if number == NONE:
        return chance.choice(_PLACEHOLDERS[namespace]) if chance.random() < 0.15 else None
    text, way = clean(namespace, number), chance.randrange(8)
    if namespace == EMAIL:
        name, _, domain = text.partition("@")
        return (text.upper(), f"  {text} ", f"{name}+news@{domain}", text.title())[way] if way < 4 else text
    if namespace == PHONE:
        home = text[2:]
        ways = (f"+49 {home[:3]} {home[3:]}", f"0049-{home[:2]}-{home[2:]}", f"0{home[:3]}/{home[3:]}", text)
        return ways[way % 4]
    if namespace == DEVICE:
        return (text.upper(), "{" + text[:8] + "-" + text[8:] + "}")[way] if way < 2 else text
    return (text.lower(), f"LC-{text[2:]}", f" LC {text[2:6]} {text[6:]}")[way] if way < 3 else text


def name_of(person: int, chance: random.Random) -> str | None:
    """A person's name as one of the systems has it."""
    way = chance.randrange(10)
    if way == 0:
        return None
    if way == 1:
        return chance.choice(("n/a", "unknown; not given", ""))
    name = f"{_FIRST[person % len(_FIRST)]} {_LAST[person * 7 % len(_LAST)]}"
    return (name.upper(), f" {name} ", name.split(" ")[0])[way - 2] if way < 5 else name

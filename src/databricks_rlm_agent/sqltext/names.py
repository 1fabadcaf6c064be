"""Names of tables as statements have them: which may mean the same one. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

Name = tuple[str, ...]
"""One to three parts in lower case, catalog first, as far as they are known; ``*`` in a part stands for
anything, so ``("*",)`` may be any table and ``("main", "shop", "*")`` all of a schema.
"""
ANYTHING: Name = ("*",)
UNKNOWN = "zzunknownzz"
"""Stands in a statement for what is known only when it runs: the parser takes it for a name."""
_PART = re.compile(r"`([^`]*)`|(\w+)")


def parts_of(name: str, *, lower: bool = True) -> tuple[str, ...]:
    """The parts of a name as it is written, in lower case if not told otherwise."""
    return tuple(quoted or plain for quoted, plain in _PART.findall(name.lower() if lower else name))


def shown(name: Name) -> str:
    """A name for people: ``main.shop.sales``."""
    return ".".join(name)


def is_table(name: Name) -> bool:
    """Return whether a name is of one table or view: not a schema's ``*``, nor a function's ``f()``."""
    return "*" not in name[-1] and not name[-1].endswith("()")


def quoted(name: Name) -> str:
    """A name for a statement, every part in backquotes."""
    return ".".join("`" + part.replace("`", "``") + "`" for part in name)


def may_be_same(one: Name, other: Name) -> bool:
    """Return whether two names may mean the same table: the parts that both have match, from the right."""
    if ANYTHING in (one, other):
        return True
    return all(parts_may_match(a, b) for a, b in zip(reversed(one), reversed(other), strict=False))


def parts_may_match(part: str, other: str) -> bool:
    """Return whether two parts of names may be the same; either may be a pattern."""
    return part == other or (
        ("*" in part or "*" in other) and (fnmatchcase(part, other) or fnmatchcase(other, part))
    )


def common(some: Iterable[Name], others: Iterable[Name]) -> Name | None:
    """The first name, in order, that may mean the same as one of the others; None if no two do.

    Of a name and a pattern that it fits, the pattern: it says why.
    """
    others = dict.fromkeys(others)
    lasts = {name[-1] for name in others}
    open_ended = any("*" in last for last in lasts)
    for name in some:
        if name in others:
            return name
        if open_ended or "*" in name[-1] or name[-1] in lasts:
            for other in others:
                if may_be_same(name, other):
                    return other if "*" in other[-1] else name
    return None


def resolved(parts: Name, catalog: str | None, schema: str | None) -> Name:
    """A name in full where the session's catalog and schema are known; longer or path names as they are."""
    name = tuple(part.lower() for part in parts)
    if len(name) == 1 and schema and name != ANYTHING:
        name = (schema.lower(), *name)
    if len(name) == 2 and catalog and "/" not in name[1]:
        name = (catalog.lower(), *name)
    return name


def unique(names: Iterable[Name]) -> tuple[Name, ...]:
    """The names, each once, in order."""
    return tuple(dict.fromkeys(names))

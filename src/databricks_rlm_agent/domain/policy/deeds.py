"""What a program would do, as far as its text tells: the facts that the policy decides on. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, auto

UNKNOWN = "zzunknownzz"
"""Stands in a text for what is known only when the program runs: SQL takes it for a name. In the target of
a deed it is ``*``.
"""


class Kind(StrEnum):
    """What a deed is done to: tables (by name), schemas, paths, or the machine."""

    WRITE = auto()
    CREATE = auto()  # a table that was not there, or is replaced whole
    DESTROY = auto()  # drops or empties a table
    MAKE_SCHEMA = auto()
    DROP_SCHEMA = auto()  # or a catalog, or a volume
    GRANT = auto()
    USE = auto()  # changes what names without a schema mean
    PUT_FILE = auto()
    REMOVE_FILE = auto()
    SHELL = auto()
    SECRET = auto()
    UNCLEAR = auto()


@dataclass(frozen=True, kw_only=True)
class Deed:
    """One deed: ``what`` as a person would say it, ``target`` the parts of a name or one path or command,
    ``line`` of the program.
    """

    kind: Kind
    what: str
    target: tuple[str, ...] = ()
    line: int = 0


def known(text: str) -> str:
    """``text`` with ``*`` where it is not known."""
    return text.replace(UNKNOWN, "*")

"""Names of tables in a three-level catalog."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import EngineError

# What may become a folder name. Unity Catalog forbids dots, spaces, slashes and control characters too.
_FOLDER = re.compile(r"[^\s./\\\x00-\x1f\x7f]{1,200}")

_OTHER = re.compile(r"[^\x00-\x7f]|%")
_CODED = re.compile(r"u\+([0-9a-f]{6})")


def quote(name: str) -> str:
    """Return `name` as a quoted SQL identifier."""
    return "`" + name.replace("`", "``") + "`"


def is_name(part: str) -> bool:
    """Tell whether `part` can be the name of anything in the catalog; anything else never reaches a path."""
    return _FOLDER.fullmatch(part) is not None


def folded(part: str) -> str:
    """`part` as the catalog stores it: lower case, for names are case-insensitive on Databricks."""
    if not _FOLDER.fullmatch(part):
        raise EngineError.of(
            "INVALID_PARAMETER_VALUE", f"{part!r} is not a valid name: no dots, slashes or spaces.", "22023"
        )
    return part.lower()


def folder_of(part: str) -> str:
    """Return the folder name of a table. Letters beyond ASCII and `%` are encoded, for Sail writes them in
    one way and looks for them in another.
    """
    return part if part.isascii() and "%" not in part else _OTHER.sub(lambda c: f"u+{ord(c[0]):06x}", part)


def name_of(folder: str) -> str:
    """Return the table name of a folder."""
    return _CODED.sub(lambda code: chr(int(code[1], 16)), folder) if "u+" in folder else folder


@dataclass(frozen=True, order=True)
class TableName:
    """A full table name, folded to lower case."""

    catalog: str
    schema: str
    name: str

    @property
    def sql(self) -> str:
        """The name as SQL text."""
        return f"{quote(self.catalog)}.{quote(self.schema)}.{quote(self.name)}"

    def __str__(self) -> str:
        return f"{self.catalog}.{self.schema}.{self.name}"


@dataclass(frozen=True, kw_only=True)
class Namespace:
    """A session's current catalog and schema."""

    catalog: str
    schema: str

    def table(self, parts: tuple[str, ...]) -> TableName:
        """Return the table that `parts` names in a place where a table must stand; raises on more than three
        parts.
        """
        if len(parts) > 3 or not parts:
            raise EngineError.of(
                "REQUIRES_SINGLE_PART_NAMESPACE", f"{'.'.join(parts)!r} is not a table name.", "42K05"
            )
        full = (self.catalog, self.schema)[: 3 - len(parts)] + tuple(folded(part) for part in parts)
        return TableName(*full)

    def schema_of(self, parts: tuple[str, ...]) -> tuple[str, str]:
        """Return the (catalog, schema) that one or two parts name."""
        if len(parts) == 1:
            return self.catalog, folded(parts[0])
        if len(parts) != 2:
            raise EngineError.of("SCHEMA_NOT_FOUND", f"{'.'.join(parts)!r} is not a schema name.", "42704")
        return folded(parts[0]), folded(parts[1])

    def candidates(self, parts: tuple[str, ...]) -> list[TableName]:
        """Return every table that `parts` may stand for where it is not known what the name is of."""
        low = tuple(part.lower() for part in parts[:3])
        if not all(map(is_name, low)):  # a column, perhaps; what stands before it may still be a table
            return self.candidates(parts[:1]) if is_name(low[0]) else []
        found = [TableName(self.catalog, self.schema, low[0])]
        if len(low) > 1:
            found.append(TableName(self.catalog, low[0], low[1]))
        if len(low) > 2:
            found.append(TableName(*low))
        return found

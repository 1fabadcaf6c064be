"""Primary and foreign keys, which on Databricks tell people of keys and are not enforced.

They are kept in a property of the table, which SHOW TBLPROPERTIES leaves out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .names import Namespace, TableName, quote
from .statements import Reader, Statement

PROPERTY = "local_workspace.keys"


@dataclass(frozen=True, kw_only=True)
class Key:
    """A primary key, or a foreign key to columns of `parent` (none: those of its primary key)."""

    name: str
    columns: tuple[str, ...]
    parent: TableName | None = None
    parent_columns: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """PRIMARY KEY or FOREIGN KEY."""
        return "PRIMARY KEY" if self.parent is None else "FOREIGN KEY"

    @property
    def text(self) -> str:
        """The key as DESCRIBE shows it."""
        text = f"{self.kind} ({', '.join(map(quote, self.columns))})"
        if self.parent is None:
            return text
        return f"{text} REFERENCES {self.parent.sql} ({', '.join(map(quote, self.parent_columns))})"


def stored(keys: Iterable[Key]) -> dict[str, str]:
    """Return the property that holds keys."""
    documents = [
        {
            "name": key.name, "columns": key.columns, "parent": key.parent and vars(key.parent),
            "parent_columns": key.parent_columns,
        }
        for key in keys
    ]  # fmt: skip
    return {PROPERTY: json.dumps(documents)}


def keys_in(properties: Mapping[str, str]) -> tuple[Key, ...]:
    """Return the keys that a table's properties hold."""
    return tuple(
        Key(
            name=each["name"],
            columns=tuple(each["columns"]),
            parent=TableName(**each["parent"]) if each["parent"] else None,
            parent_columns=tuple(each["parent_columns"]),
        )
        for each in json.loads(properties.get(PROPERTY, "[]"))
    )


def starts_at(statement: Statement, at: int) -> bool:
    """Tell whether a key begins at a token: [CONSTRAINT name] and PRIMARY KEY or FOREIGN KEY."""
    at += 2 * statement.starts("CONSTRAINT", at=at)
    return statement.starts("PRIMARY", "KEY", at=at) or statement.starts("FOREIGN", "KEY", at=at)


def read(reader: Reader, table: TableName, namespace: Namespace, column: str = "") -> Key:
    """Return the key that comes next; `column` is the one that it is said of, if any."""
    name = reader.name()[-1] if reader.accept("CONSTRAINT") else ""
    if reader.accept("PRIMARY", "KEY"):
        return Key(name=name or f"{table.name}_pk", columns=_columns(reader) or (column,))
    columns = (_columns(reader) if reader.accept("FOREIGN", "KEY") else ()) or (column,)
    _ = reader.accept("REFERENCES")
    parent = namespace.table(reader.name())
    return Key(
        name=name or f"{table.name}_{parent.name}_fk",
        columns=columns,
        parent=parent,
        parent_columns=_columns(reader),
    )


def _columns(reader: Reader) -> tuple[str, ...]:
    if not reader.statement.starts("(", at=reader.at):
        return ()
    items = reader.statement.items(reader.at)
    reader.at = reader.statement.closing(reader.at) + 1
    return tuple(reader.statement.tokens[first].name for first, _ in items)

"""Primary and foreign keys, which on Databricks tell people of keys and are not enforced.

They are kept in a property of the table, which SHOW TBLPROPERTIES leaves out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

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
    return {PROPERTY: json.dumps([asdict(key) for key in keys])}


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


def taken_out(
    statement: Statement, at: int, table: TableName, namespace: Namespace
) -> tuple[Statement, list[Key]]:
    """Return CREATE TABLE without the keys among its columns, which begin at token `at`, and the keys.

    What else a constraint may be (CHECK) stays, for the engine to refuse.
    """
    if not statement.starts("(", at=at) or statement.starts("SELECT", at=at + 1):
        return statement, []
    items = [(first, _key(statement, first, end), end) for first, end in statement.items(at)]
    kept = [(first, key) for first, key, _ in items if key > first]
    if not kept or all(key == end for _, key, end in items):
        return statement, []
    tokens = statement.tokens
    found = [
        read(Reader(statement, key), table, namespace, tokens[first].name if key > first else "")
        for first, key, end in items
        if key < end
    ]
    columns = ", ".join(statement.text[tokens[first].start : tokens[key - 1].end] for first, key in kept)
    return statement.without(at, statement.closing(at) + 1, f"({columns})"), found


def _key(statement: Statement, first: int, end: int) -> int:
    """Return where the key of a column or constraint begins; `end` if it has none."""
    for index in range(first, end):
        at = index + 2 if statement.tokens[index].upper == "CONSTRAINT" else index
        if starts_at(statement, index):
            return index
        if statement.starts("REFERENCES", at=at) and index > first + 1:
            return index
    return end

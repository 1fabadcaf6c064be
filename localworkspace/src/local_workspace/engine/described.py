"""The comment and properties of a table that a query makes: the engine takes them for an empty one only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .names import TableName
from .statements import Reader, Statement

if TYPE_CHECKING:
    from .session import CatalogSession


def without_comment(statement: Statement, start: int, end: int) -> tuple[Statement, str | None]:
    """The statement without its COMMENT clause, looked for between two tokens; and the comment."""
    at = statement.find("COMMENT", start=start)
    comment = Reader(statement, at + 1).string() if at is not None and at < end else None
    if at is None or comment is None:
        return statement, None
    tokens = statement.tokens
    text = f"{statement.text[: tokens[at].start]} {statement.text[tokens[at + 1].end :]}"
    return Statement.parse(text), comment


def describe(
    session: CatalogSession, name: TableName, comment: str | None, properties: Mapping[str, str]
) -> None:
    """Give a table that has just been made its comment and properties, where there are any."""
    from deltalake import DeltaTable

    if not comment and not properties:
        return
    table = DeltaTable(str(session.tree.location(name)))
    if comment:
        table.alter.set_table_description(comment)
    if properties:
        table.alter.set_table_properties(dict(properties), raise_if_not_exists=False)

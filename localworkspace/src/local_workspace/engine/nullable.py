"""Columns that a query makes may be NULL later, as on Databricks; the engine forbids it of some.

`CREATE TABLE t AS SELECT 1 AS x` gives a column that is NOT NULL here. It is freed when a write first meets
it: to do so for every table would cost a commit for each column.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .errors import EngineError
from .names import TableName

if TYPE_CHECKING:
    from .session import CatalogSession

_VIOLATED = "DELTA_NOT_NULL_CONSTRAINT_VIOLATED"
_DECLARED = re.compile(r'"operation":"(CREATE|REPLACE)')
_ROWS = re.compile(r'^\{"add":', re.MULTILINE)


def write(session: CatalogSession, name: TableName, text: str) -> Any:
    """Run a statement that writes a table; once more without a NOT NULL that nobody has declared."""
    try:
        return session.client.sql(text)
    except EngineError as error:
        if error.condition != _VIOLATED or not _made_by_query(session, name):
            raise
    _free(session, name)
    return session.client.sql(text)


def _made_by_query(session: CatalogSession, name: TableName) -> bool:
    """Whether the table's columns are those of a query: they came with rows."""
    folder, version = session.tree.location(name), session.tree.require(name).version
    for number in range(version, -1, -1):
        commit = folder / "_delta_log" / f"{number:020d}.json"
        text = commit.read_text(encoding="utf-8") if commit.exists() else ""
        if '{"metaData":' in text and _ROWS.search(text):
            return True
        if '{"metaData":' in text and _DECLARED.search(text):  # others change a comment or a property
            return False
    return False


def _free(session: CatalogSession, name: TableName) -> None:
    from deltalake import DeltaTable

    with session.tree.lock(name):
        table = DeltaTable(str(session.tree.location(name)))
        for field in table.schema().fields:
            if not field.nullable:
                table.alter.drop_column_not_null(field.name)
    session.learn(name)

"""CREATE TABLE … LIKE and CLONE, said as a query: the engine has neither."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import table_not_found
from .lexer import quote
from .statements import Reader, Statement

if TYPE_CHECKING:
    from .session import CatalogSession


def as_query(session: CatalogSession, statement: Statement, at: int) -> Statement:
    """LIKE and CLONE as what they copy: a query. A clone's own history begins here, as on Databricks."""
    reader = Reader(statement, at)
    like = reader.accept("LIKE")
    deep = reader.accept("DEEP") or reader.accept("SHALLOW")
    if not like and not (reader.accept("CLONE") or deep):
        return statement
    if deep:
        reader.accept("CLONE")
    source = session.namespace.table(reader.name())
    info = session.tree.info(source)
    if info is None:
        raise table_not_found(source.sql)
    version = reader.rest() if reader.accept("VERSION") or reader.accept("TIMESTAMP") else ""
    as_of = f" {statement.tokens[reader.at - 1].text} {version}" if version else ""
    partitions = ", ".join(quote(column) for column in info.partition_columns)
    clause = f"PARTITIONED BY ({partitions})" if partitions else ""
    query = f"SELECT * FROM {source.sql}{as_of}{' WHERE 1 = 0' if like else ''}"  # noqa: S608 - names are quoted
    return Statement.parse(f"{statement.source(0, at)} USING DELTA {clause} AS {query}")

"""INSERT, UPDATE, DELETE, MERGE, TRUNCATE: run by the engine, counted from the Delta log.

The engine reports how many rows it wrote, which includes rows it merely copied to a new file. How many it
changed stands in the commit's operationMetrics. A marker in the predicate, which the commit records, tells
our commit from one that another session made at the same moment.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from .catalog import TableInfo
from .ddl import inserted
from .errors import EngineError, table_not_found
from .lexer import quote
from .names import TableName
from .nullable import write
from .statements import Handler, Reader, Statement
from .subqueries import Changed
from .values import rows_in_a_file

if TYPE_CHECKING:
    from .session import CatalogSession


def update(session: CatalogSession, statement: Statement) -> str | dict[str, Any]:
    """UPDATE name [alias] SET … [WHERE …]."""
    return _predicated(session, statement, Reader(statement, 1), "numUpdatedRows")


def delete(session: CatalogSession, statement: Statement) -> str | dict[str, Any]:
    """DELETE FROM name [alias] [WHERE …]."""
    return _predicated(session, statement, Reader(statement, 2), "numDeletedRows")


def truncate(session: CatalogSession, statement: Statement) -> str | dict[str, Any]:
    """TRUNCATE TABLE name."""
    name = session.namespace.table(Reader(statement, 2).name())
    result = delete(session, Statement.parse(f"DELETE FROM {name.sql}"))  # noqa: S608 - names are quoted
    return result if isinstance(result, str) else {"table": result["table"].slice(0, 0).select([])}


def _predicated(
    session: CatalogSession, statement: Statement, reader: Reader, metric: str
) -> str | dict[str, Any]:
    import pyarrow as pa

    name = session.namespace.table(reader.name())
    marker = uuid.uuid4().hex
    changed = Changed(statement=statement, after_name=reader.at)
    where = changed.where
    info = session.tree.info(name) if changed.has_subquery else None
    if info is not None:
        text, metric = (
            changed.as_merge(info, marker),
            metric.replace("num", "numTargetRows").removesuffix("Rows"),
        )
    elif where is None:
        text = f"{statement.text} WHERE '{marker}' IS NOT NULL"
    else:
        head, predicate = statement.text[: statement.tokens[where].end], statement.source(where + 1)
        # The new line keeps a comment at the end of the predicate from swallowing the parenthesis.
        text = f"{head} ({predicate}\n) AND '{marker}' IS NOT NULL"
    metrics = _run(session, name, text, marker)
    count = int(metrics.get(metric, 0))
    return {"table": pa.table({"num_affected_rows": [count]}), "affected_rows": count}


def merge(session: CatalogSession, statement: Statement) -> str | dict[str, Any]:
    """MERGE INTO name USING … ON … WHEN …."""
    import pyarrow as pa

    statement = _plain_source(statement)
    reader = Reader(statement, 1)
    reader.accept("WITH", "SCHEMA", "EVOLUTION")
    reader.accept("INTO")
    name = session.namespace.table(reader.name())
    on = statement.find("ON", start=statement.find("USING", start=reader.at) or reader.at)
    when = statement.find("WHEN", start=on or reader.at)
    if on is None or when is None:
        return statement.text  # the engine says what is wrong with it
    marker = uuid.uuid4().hex
    head = statement.text[: statement.tokens[on].end]
    text = f"{head} ({statement.source(on + 1, when)}\n) AND '{marker}' IS NOT NULL {statement.source(when)}"
    metrics = _run(session, name, text, marker)
    parts = {
        "num_updated_rows": int(metrics.get("numTargetRowsUpdated", 0)),
        "num_deleted_rows": int(metrics.get("numTargetRowsDeleted", 0)),
        "num_inserted_rows": int(metrics.get("numTargetRowsInserted", 0)),
    }
    total = sum(parts.values())
    row = {"num_affected_rows": total, **parts}
    return {"table": pa.table({key: [value] for key, value in row.items()}), "affected_rows": total}


def _plain_source(statement: Statement) -> Statement:
    """`USING (query) AS s (a, b)` as `USING (SELECT * FROM (query) AS s (a, b)) AS s`: it takes that."""
    tokens = statement.tokens
    using, on = statement.find("USING"), statement.find("ON")
    if using is None or on is None or tokens[using + 1].text != "(" or tokens[on - 1].text != ")":
        return statement
    depth, end = 0, using + 1
    while end < on:
        depth += (tokens[end].text == "(") - (tokens[end].text == ")")
        end += 1
        if depth == 0:
            break
    alias = end + (tokens[end].upper == "AS")
    if alias + 1 >= on or not tokens[alias].is_name or tokens[alias + 1].text != "(":
        return statement
    head, source = statement.text[: tokens[using].end], statement.source(using + 1, on)
    rest = statement.text[tokens[on].start :]
    return Statement.parse(f"{head} (SELECT * FROM {source}) AS {quote(tokens[alias].name)} {rest}")  # noqa: S608 - as it was


def _run(session: CatalogSession, name: TableName, text: str, marker: str) -> dict[str, Any]:
    """Run the marked statement; the metrics of its commit, empty when it found nothing to commit."""
    tree = session.tree
    if tree.shape(name) is None:
        if tree.view(name) is not None:
            raise EngineError.of(
                "EXPECT_TABLE_NOT_VIEW", f"{name.sql} is a view and cannot be changed.", "42809"
            )
        raise table_not_found(name.sql)
    before = tree.require(name).version
    write(session, name, text)
    metrics = metrics_after(session, name, before, marker)
    if metrics:
        session.wrote(name)
    return metrics


def metrics_after(session: CatalogSession, name: TableName, version: int, marker: str) -> dict[str, Any]:
    """The operationMetrics of the commit after `version` whose commitInfo holds `marker`, or none."""
    tree = session.tree
    for _, commit in tree.logs.commits_after(tree.location(name), version):
        if marker not in commit:
            continue
        for line in commit.splitlines():
            if marker in line and '"commitInfo"' in line:
                metrics: dict[str, Any] = json.loads(line)["commitInfo"].get("operationMetrics", {})
                return metrics
    return {}


def insert_target(session: CatalogSession, reader: Reader) -> TableName | None:
    """Step over the head of an INSERT; the table, or None for a form that is the engine's own business."""
    if not (reader.accept("INTO") or reader.accept("OVERWRITE")):
        return None
    reader.accept("TABLE")
    if reader.done or not reader.statement.tokens[reader.at].is_name:
        return None
    return session.namespace.table(reader.name())


def insert(session: CatalogSession, statement: Statement) -> str | dict[str, Any]:
    """INSERT [INTO | OVERWRITE] [TABLE] name [(columns)] query."""
    reader = Reader(statement, 1)
    name = insert_target(session, reader)
    if name is None:
        return statement.text
    info = session.tree.info(name)
    if info is None:
        raise table_not_found(name.sql)
    with rows_in_a_file(statement, reader.at) as plain:
        reader = Reader(plain, reader.at)
        text = _complete(plain, reader, info)
        try:
            table = write(session, name, text)
        except EngineError as error:
            if "duplicate unqualified field name" not in error.message:
                raise
            table = write(session, name, _with_names(plain, reader, info))
    session.wrote(name)
    return inserted(table.column("count")[0].as_py() if "count" in table.column_names else 0)


def _with_names(statement: Statement, reader: Reader, info: TableInfo) -> str:
    """The statement with names of its own for the query's columns: the engine refuses two of one name."""
    query = statement.find("SELECT", "WITH", "FROM", start=reader.at)
    if query is None or statement.find("BY", start=reader.at) == reader.at:
        return statement.text
    listed = [token.name for token in statement.tokens[reader.at : query] if token.is_name]
    count = len(listed) or len(info.columns)
    aliases = ", ".join(f"_c{index}" for index in range(count))
    head = statement.source(0, query)
    return f"{head} SELECT * FROM ({statement.source(query)}\n) AS _q ({aliases})"  # noqa: S608 - names are quoted


def _complete(statement: Statement, reader: Reader, info: TableInfo) -> str:
    """The statement with a value for every column: the engine refuses what Databricks fills with defaults."""
    at = reader.at
    tokens = statement.tokens
    if at >= len(tokens) or tokens[at].text != "(" or statement.starts("SELECT", at=at + 1):
        return statement.text
    end = next((index for index in range(at, len(tokens)) if tokens[index].text == ")"), None)
    if end is None:
        return statement.text
    named = {token.name.lower() for token in tokens[at + 1 : end] if token.is_name}
    missing = [column for column in info.columns if column.name.lower() not in named]
    if not missing or statement.find("DEFAULT", start=end) is not None:
        return statement.text
    given = ", ".join(quote(token.name) for token in tokens[at + 1 : end] if token.is_name)
    extra = ", ".join(quote(column.name) for column in missing)
    values = ", ".join(
        f"CAST({column.default or 'NULL'} AS {column.type}) AS _d{index}"  # two of a type need names
        for index, column in enumerate(missing)
    )
    head = statement.source(0, at)
    aliases = ", ".join(f"_c{index}" for index in range(len(named)))
    query = f"SELECT _q.*, {values} FROM ({statement.source(end + 1)}\n) AS _q ({aliases})"  # noqa: S608 - names are quoted
    return f"{head} ({given}, {extra}) {query}"


HANDLERS: tuple[tuple[str, Handler], ...] = (
    (r"UPDATE ", update),
    (r"DELETE FROM ", delete),
    (r"MERGE ", merge),
    (r"INSERT ", insert),
    (r"TRUNCATE TABLE ", truncate),
)

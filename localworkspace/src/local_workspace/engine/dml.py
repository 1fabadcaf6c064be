"""UPDATE, DELETE, MERGE, TRUNCATE: run by the engine, counted from the Delta log.

Sail reports how many rows it wrote, which includes rows it merely copied to a new file. How many it changed
stands in the commit's operationMetrics. A marker in the predicate, which the commit records, tells our commit
from one that another session made at the same moment.

Sail has subqueries (and lambdas) in queries only, so

    DELETE FROM t WHERE id NOT IN (SELECT id FROM s)

becomes

    MERGE INTO t USING (SELECT _k0 FROM (SELECT `id` AS _k0 FROM t WHERE (id NOT IN (…))) GROUP BY _k0)
    ON `id` <=> _k0 WHEN MATCHED THEN DELETE

The keys are the columns that the statement names: rows with the same keys have the same fate, and a row that
somebody changes meanwhile is judged by its new values. It is one commit; DESCRIBE HISTORY finds its kind by a
mark.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from deltalake import DeltaTable
from sqlglot import exp

from .catalog import ColumnInfo, TableInfo
from .deltalog import TableShape, commits_after
from .errors import EngineError, unsupported
from .names import TableName, quote
from .rewrite import rewritten_query
from .selects import sql_of
from .session import OVERWRITE_MODE, CatalogSession, StatementResult
from .statements import Reader, Statement, parsed
from .tables import counted, done

_QUERIES = {"SELECT", "WITH", "FROM", "VALUES", "TABLE"}


def update(session: CatalogSession, statement: Statement) -> StatementResult:
    """UPDATE name [alias] SET … [WHERE …]."""
    return _predicated(session, statement, Reader(statement, 1), "Updated")


def delete(session: CatalogSession, statement: Statement) -> StatementResult:
    """DELETE FROM name [alias] [WHERE …]."""
    return _predicated(session, statement, Reader(statement, 2), "Deleted")


def truncate(session: CatalogSession, statement: Statement) -> StatementResult:
    """TRUNCATE TABLE name."""
    name = session.namespace.table(Reader(statement, 2).name())
    delete(session, Statement.parse(f"DELETE FROM {name.sql}"))  # noqa: S608 - names are quoted
    return done()


def _predicated(
    session: CatalogSession, statement: Statement, reader: Reader, changed: str
) -> StatementResult:
    name = session.namespace.table(reader.name())
    mark, metric = uuid.uuid4().hex, f"num{changed}Rows"
    where = statement.find("WHERE", start=reader.at)
    info = session.tree.info(name) if _needs_query(statement) else None
    if info is not None:

        def rewrite(query: str) -> str:
            return rewritten_query(query, lambda text: session.client.sql(text).column_names)

        text, metric = as_merge(statement, info, mark, rewrite), f"numTargetRows{changed}"
    elif where is None:
        text = f"{statement.text} WHERE '{mark}' IS NOT NULL"
    else:
        text = _marked(statement, where, len(statement.tokens), mark)
    count = int(run_marked(session, name, text, mark).get(metric, 0))
    return counted(count)


def merge(session: CatalogSession, statement: Statement) -> str | StatementResult:
    """MERGE INTO name USING … ON … WHEN …."""
    statement = _plain_source(statement)
    reader = Reader(statement, 1)
    reader.accept("WITH", "SCHEMA", "EVOLUTION")
    reader.accept("INTO")
    name = session.namespace.table(reader.name())
    on = statement.find("ON", start=statement.find("USING", start=reader.at) or reader.at)
    when = statement.find("WHEN", start=on or reader.at)
    if on is None or when is None:
        return statement.text  # Sail says what is wrong with it
    if any(token.text == "->" for token in statement.tokens[on:when]):
        raise unsupported("A lambda in MERGE … ON")
    mark = uuid.uuid4().hex
    metrics = run_marked(session, name, _marked(statement, on, when, mark), mark)
    kinds = {
        f"num_{kind}_rows": f"numTargetRows{kind.title()}" for kind in ("updated", "deleted", "inserted")
    }
    counts = {column: int(metrics.get(metric, 0)) for column, metric in kinds.items()}
    return counted(sum(counts.values()), **counts)


def _marked(statement: Statement, keyword: int, end: int, mark: str) -> str:
    """Return the text with a mark in the predicate between the token `keyword` (WHERE, ON) and `end`."""
    head = statement.text[: statement.tokens[keyword].end]
    # The new line keeps a comment at the end of the predicate from swallowing the parenthesis.
    return f"{head} ({statement.source(keyword + 1, end)}\n) AND '{mark}' IS NOT NULL {statement.source(end)}"


def _plain_source(statement: Statement) -> Statement:
    """Rewrite `USING (query) AS s (a, b)` as `USING (SELECT * FROM (query) AS s (a, b)) AS s`."""
    using, on = statement.find("USING"), statement.find("ON")
    if using is None or on is None or not statement.starts("(", at=using + 1):
        return statement
    alias = statement.closing(using + 1) + 1
    alias += statement.starts("AS", at=alias)
    if alias + 1 >= on or not statement.tokens[alias].is_name or not statement.starts("(", at=alias + 1):
        return statement
    source = f"(SELECT * FROM {statement.source(using + 1, on)}) AS {quote(statement.tokens[alias].name)}"  # noqa: S608 - as it was
    return statement.without(using + 1, on, source)


def run_marked(session: CatalogSession, name: TableName, text: str, mark: str) -> dict[str, Any]:
    """Run the marked statement; return the metrics of its commit, empty when it found nothing to commit."""
    tree = session.tree
    if tree.shape(name) is None and tree.view(name) is not None:
        text = f"{name.sql} is a view and cannot be changed."
        raise EngineError.of("EXPECT_TABLE_NOT_VIEW", text, "42809")
    before = tree.require(name).version
    write(session, name, text)
    metrics = metrics_after(session, name, before, mark)
    if metrics:
        session.wrote(name)
    return metrics


def run_with_metadata(
    session: CatalogSession, text: str, metadata: str, settings: Mapping[str, str] | None = None
) -> None:
    """Run a statement on Spark whose commit has `metadata`, a text without quotes, as userMetadata.

    One at a time in a session, which has these and other `settings` meanwhile.
    """
    settings = {"spark.databricks.delta.commitInfo.userMetadata": metadata, **(settings or {})}
    with session.lock:
        session.client.configure(settings)
        try:
            session.client.sql(text)
        finally:
            for key in settings:
                session.client.unset(key)


def metrics_after(session: CatalogSession, name: TableName, version: int, mark: str) -> dict[str, Any]:
    """Return the operationMetrics of the commit after `version` whose commitInfo holds `mark`, or none."""
    for _, commit in commits_after(session.tree.location(name), version):
        if mark not in commit:
            continue
        for line in commit.splitlines():
            if mark in line and '"commitInfo"' in line:
                metrics: dict[str, Any] = json.loads(line)["commitInfo"].get("operationMetrics", {})
                return metrics
    return {}


# --- UPDATE and DELETE with a query


def _needs_query(statement: Statement) -> bool:
    """Tell whether there is a subquery or a lambda in a statement."""
    tokens = statement.tokens
    return any(
        token.text == "->" or (token.text == "(" and following.upper in _QUERIES)
        for token, following in pairwise(tokens)
    )


def as_merge(statement: Statement, info: TableInfo, mark: str, rewrite: Callable[[str], str] = str) -> str:
    """Return the MERGE that does the same; `mark` stands in what its commit records.

    `rewrite` brings the query of its source into the SQL that the engine has.
    """
    verb, tree = statement.tokens[0].upper, parsed(statement.text)
    if not isinstance(tree, (exp.Update, exp.Delete)):
        raise unsupported(f"{verb} with a subquery in this form")
    predicate = tree.args["where"].this if tree.args.get("where") else exp.true()
    named = [predicate]
    found: list[str] = []
    values: list[str] = []
    assigned: list[str] = []
    for each in tree.expressions if verb == "UPDATE" else ():
        if not isinstance(each.this, (exp.Column, exp.Dot)):
            raise unsupported("UPDATE with a subquery, SET in this form")
        right = each.expression
        named.append(right)
        value = sql_of(right)
        if right.find(exp.Query, exp.Lambda):
            number = len(values)
            found.append(f"{value} AS _v{number}")
            values.append(f"first(_v{number}) AS _v{number}")
            value = f"_v{number}"
        assigned.append(f"{_assigned(each.this, tree.this.alias_or_name)} = {value}")
    keys = [quote(column.name) for column in _keys(info, named, verb)]
    names = [f"_k{index}" for index in range(len(keys))] or ["_k0"]  # without keys, all rows have one fate
    found = [f"{key} AS {name}" for key, name in zip(keys or ["1"], names, strict=True)] + found
    on = " AND ".join(f"{key} <=> {name}" for key, name in zip(keys, names, strict=False)) or "true"
    target = sql_of(tree.this)
    source = (
        f"SELECT {', '.join([*names, *values])} FROM (SELECT {', '.join(found)} FROM {target} "  # noqa: S608 - as it was
        f"WHERE ({sql_of(predicate)})) AS _f GROUP BY {', '.join(names)}"
    )
    action = f"UPDATE SET {', '.join(assigned)}" if assigned else "DELETE"
    return (
        f"MERGE INTO {target} USING ({rewrite(source)}) AS _s "
        f"ON ({on}) AND '{verb} {mark}' IS NOT NULL WHEN MATCHED THEN {action}"
    )


def _assigned(column: Any, target: str) -> str:
    """Return what is assigned to, without the name of the table: the MERGE may have no name for it."""
    parts = [part.name for part in column.parts]
    heads = [part.lower() for part in parts[:-1]]
    first = heads.index(target.lower()) + 1 if target.lower() in heads else 0
    return ".".join(quote(part) for part in parts[first:])


def _keys(info: TableInfo, named: list[Any], verb: str) -> list[ColumnInfo]:
    """Return the table's columns that the expressions `named` name, or may mean by a star."""
    words = {
        part.name.lower() for each in named for column in each.find_all(exp.Column) for part in column.parts
    }
    stars = [star.parent for each in named for star in each.find_all(exp.Star)]
    whole = any(
        isinstance(above, (exp.Column, exp.Func)) and not isinstance(above, exp.Count) for above in stars
    )
    keys = [column for column in info.columns if whole or column.name.lower() in words]
    for key in keys:
        if "map<" in key.type.lower():
            raise unsupported(f"{verb} with a subquery that names the MAP column {key.name}")
    return keys


# --- what Sail does not keep to

_OF_COLUMNS = {
    "delta.identity.start": "an identity column",
    "delta.generationExpression": "a generated column",
    "__CHAR_VARCHAR_TYPE_STRING": "a column of type VARCHAR(n) or CHAR(n)",
}


def refuse_write(shape: TableShape | None, text: str) -> None:
    """Refuse a statement that writes a table, made by another engine, in whose columns Sail would err.

    It leaves identity and generated columns NULL, and minds CHECK constraints when it inserts only.
    """
    if shape is None:
        return
    verb = text.split(None, 1)[0].upper()
    kept = {key for field in shape.schema["fields"] for key in field["metadata"]}
    found = next((what for key, what in _OF_COLUMNS.items() if key in kept), "")
    if verb in {"UPDATE", "MERGE"} and any(key.startswith("delta.constraints.") for key in shape.properties):
        found = found or "a CHECK constraint"
    if found and verb != "DELETE":
        raise unsupported(f"{verb} of a table with {found}")


def refuse_dynamic(session: CatalogSession, shape: TableShape | None, options: Mapping[str, str]) -> None:
    """Refuse a dynamic overwrite of a partitioned table: Sail deletes the other partitions as well."""
    if shape is None or not shape.partition_columns:
        return
    modes = [value for key, value in options.items() if key.lower() == "partitionoverwritemode"]
    if "dynamic" in (modes[-1] if modes else session.client.setting(OVERWRITE_MODE)).lower():
        raise unsupported("Dynamic partition overwrite")


# --- NOT NULL that nobody has declared

_VIOLATED = "DELTA_NOT_NULL_CONSTRAINT_VIOLATED"
_DECLARED = re.compile(r'"operation":"(CREATE|REPLACE)')
_ROWS = re.compile(r'^\{"add":', re.MULTILINE)


def write(session: CatalogSession, name: TableName, text: str) -> Any:
    """Run a statement that writes a table; once more without a NOT NULL that nobody has declared.

    Columns that a query makes may be NULL later, as on Databricks. On Sail, `CREATE TABLE t AS SELECT 1 AS x`
    gives a column that is NOT NULL. It is freed when a write first meets it: to do so for every table would
    cost a commit for each column.
    """
    refuse_write(session.tree.shape(name), text)
    try:
        return session.client.sql(text)
    except EngineError as error:
        if error.condition != _VIOLATED or not _made_by_query(session, name):
            raise
    with session.tree.lock(name):
        table = DeltaTable(str(session.tree.location(name)))
        for field in table.schema().fields:
            if not field.nullable:
                table.alter.drop_column_not_null(field.name)
    session.learn(name)
    return session.client.sql(text)


def _made_by_query(session: CatalogSession, name: TableName) -> bool:
    """Tell whether the table's columns are those of a query: they came with rows."""
    folder, version = session.tree.location(name), session.tree.require(name).version
    for number in range(version, -1, -1):
        commit = folder / "_delta_log" / f"{number:020d}.json"
        text = commit.read_text(encoding="utf-8") if commit.exists() else ""
        if '{"metaData":' in text and _ROWS.search(text):
            return True
        if '{"metaData":' in text and _DECLARED.search(text):  # others change a comment or a property
            return False
    return False

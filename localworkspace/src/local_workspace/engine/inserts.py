"""INSERT in its forms: with a list of columns, by name, and in place of rows that are there.

`INSERT INTO t REPLACE ON (t.k <=> s.k) (query) AS s` is one MERGE. Its source has the keys of the rows to
delete, each once and marked, and after them the rows to insert, which match nothing.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from sqlglot import exp

from .catalog import TableInfo
from .deltalog import commits_after
from .dml import refuse_dynamic, run_marked, write
from .errors import EngineError, only_on_databricks, unsupported
from .literals import string_literal
from .names import TableName, quote
from .selects import sql_of
from .session import CatalogSession, StatementResult
from .statements import Reader, Statement, parsed
from .tables import inserted

_QUERIES = ("SELECT", "WITH", "FROM", "VALUES", "TABLE")


@dataclass(frozen=True, kw_only=True)
class Insert:
    """The parts of an INSERT: what stands before the columns, `columns` if they are listed, what rows it
    replaces (`replace`, `on`: the texts of the conditions), and its query, which may have a name (`source`).
    """

    head: str
    alias: str
    columns: tuple[str, ...] | None
    by_name: bool
    replace: str
    on: str
    query: str
    source: str


def target(session: CatalogSession, reader: Reader) -> TableName | None:
    """Step over the head of an INSERT; return the table, or None for a form that is the engine's business."""
    if not (reader.accept("INTO") or reader.accept("OVERWRITE")):
        return None
    reader.accept("TABLE")
    if reader.done or not reader.statement.tokens[reader.at].is_name:
        return None
    return session.namespace.table(reader.name())


def insert(session: CatalogSession, statement: Statement) -> str | StatementResult:
    """INSERT [INTO | OVERWRITE] [TABLE] name [(columns) | BY NAME] [REPLACE …] query."""
    reader = Reader(statement, 1)
    name = target(session, reader)
    if name is None:
        return statement.text
    info = session.tree.require_info(name)
    if statement.starts("INSERT", "OVERWRITE"):
        refuse_dynamic(session, session.tree.shape(name), {})
    if statement.starts("PARTITION", at=reader.at):
        raise unsupported("INSERT … PARTITION")
    parts = read(statement, reader)
    if parts.on:
        return replace_on(session, name, info, parts)
    if parts.replace:
        return replace_where(session, name, info, parts)
    try:
        table = write(session, name, _text(session, statement, parts, info))
    except EngineError as error:
        if "duplicate unqualified field name" not in error.message:
            raise
        # Sail refuses two columns of one name in a query.
        table = write(session, name, _text(session, statement, parts, info, always=True))
    session.wrote(name)
    return inserted(table.column("count")[0].as_py() if "count" in table.column_names else 0)


def read(statement: Statement, reader: Reader) -> Insert:
    """Return the parts of an INSERT after the name of its table. Raises `EngineError` for what is not had."""
    head, alias, columns = statement.source(0, reader.at), "", None
    if statement.starts("PARTITION", at=reader.at):
        reader.at = statement.closing(reader.at + 1) + 1
    if reader.accept("AS") or statement.starts("REPLACE", at=reader.at + 1):
        alias = reader.name()[-1]
    if statement.starts("(", at=reader.at) and not _is_query(statement, reader.at + 1):
        columns = tuple(statement.tokens[first].name.lower() for first, _ in statement.items(reader.at))
        reader.at = statement.closing(reader.at) + 1
    by_name = reader.accept("BY", "NAME")
    replace = on = ""
    start = reader.at
    if reader.accept("REPLACE", "WHERE"):
        reader.at = statement.find(*_QUERIES, start=reader.at) or _opening(statement, reader.at)
        replace = statement.source(start + 2, reader.at)
    elif reader.accept("REPLACE", "ON"):
        reader.at = _opening(statement, reader.at)
        on = statement.source(start + 2, reader.at)
    elif reader.accept("REPLACE", "USING"):
        raise only_on_databricks("INSERT … REPLACE USING (REPLACE ON is)")
    query, source = _source(statement, reader)
    return Insert(
        head=head, alias=alias, columns=columns, by_name=by_name, replace=replace, on=on, query=query,
        source=source,
    )  # fmt: skip


def _is_query(statement: Statement, at: int) -> bool:
    return any(statement.starts(word, at=at) for word in _QUERIES)


def _opening(statement: Statement, at: int) -> int:
    """Return where the query after a predicate begins: a query, or the parenthesis around one."""
    while at < len(statement.tokens):
        if _is_query(statement, at) or (statement.starts("(", at=at) and _is_query(statement, at + 1)):
            return at
        at = statement.closing(at) + 1 if statement.starts("(", at=at) else at + 1
    raise EngineError.of("PARSE_SYNTAX_ERROR", "Syntax error at end of input: INSERT needs a query.", "42601")


def _source(statement: Statement, reader: Reader) -> tuple[str, str]:
    """Return the query, and the name that it has: `(query) AS s`."""
    if statement.starts("(", at=reader.at):
        end = statement.closing(reader.at)
        rest = Reader(statement, end + 1)
        if rest.accept("AS") or (not rest.done and statement.tokens[rest.at].is_name):
            alias = rest.name()[-1]
            if rest.done:
                return statement.source(reader.at + 1, end), alias
    return reader.rest(), ""


def _text(
    session: CatalogSession, statement: Statement, parts: Insert, info: TableInfo, *, always: bool = False
) -> str:
    """Return an INSERT with a value for every column.

    Sail refuses a list that leaves columns out, which Databricks fills with defaults, and does not find
    columns whose names have capitals. An INSERT that Sail takes stays as it is, unless `always`.
    """
    names = [column.name.lower() for column in info.columns]
    given = _given(session, parts, names)
    plain = given == names and not parts.by_name
    plain = plain and (parts.columns is None or all(c.name == c.name.lower() for c in info.columns))
    unknown = not set(given) <= set(names)  # Sail says what is wrong with it
    if (plain and not always) or unknown or Statement.parse(parts.query).find("DEFAULT") is not None:
        return statement.text
    return f"{parts.head} {_values(parts, given, info)}"


def _given(session: CatalogSession, parts: Insert, names: list[str]) -> list[str]:
    """Return which columns the query gives values to, in its order."""
    if not parts.by_name:
        return list(parts.columns or names)
    probe = f"SELECT * FROM ({parts.query}\n) LIMIT 0"  # noqa: S608 - as it was
    given = [each.lower() for each in session.client.sql(probe).column_names]
    if unknown := [each for each in given if each not in names]:
        text = f"Cannot write by name: the table has no column {', '.join(map(quote, unknown))}."
        raise EngineError.of("INCOMPATIBLE_DATA_FOR_TABLE.EXTRA_COLUMNS", text, "KD000")
    return given


def _values(parts: Insert, given: list[str], info: TableInfo) -> str:
    """Return a query with the table's columns in its order, `_c0` and so on for those given."""
    values = ", ".join(
        f"_q._c{given.index(column.name.lower())}"
        if column.name.lower() in given
        else f"CAST({column.default or 'NULL'} AS {column.type}) AS _d{index}"  # two of a type need names
        for index, column in enumerate(info.columns)
    )
    aliases = ", ".join(f"_c{index}" for index in range(len(given)))
    return f"SELECT {values} FROM ({parts.query}\n) AS _q ({aliases})"  # noqa: S608 - as it was


# --- REPLACE WHERE and REPLACE ON


def replace_where(
    session: CatalogSession, name: TableName, info: TableInfo, parts: Insert
) -> StatementResult:
    """INSERT INTO name REPLACE WHERE predicate query. Afterwards, the predicate's rows are the query's."""
    mark, before = uuid.uuid4().hex, session.tree.require(name).version
    given = _given(session, parts, [column.name.lower() for column in info.columns])
    names = [quote(column.name) for column in info.columns]
    rows = f"({_values(parts, given, info)}) AS {quote(name.name)} ({', '.join(names)})"
    checked = f"{checked_value(parts.replace, names[0])} AS {names[0]}"
    query = f"SELECT {', '.join([checked, *names[1:]])} FROM {rows}"  # noqa: S608 - as it was
    query = session.rewritten(Statement.parse(query)).text
    text = f"{parts.head} REPLACE WHERE {only_true(parts.replace)} AND '{mark}' IS NOT NULL {query}"
    write(session, name, text)
    session.wrote(name)
    return replaced(session, name, parts, before, mark)


def replaced(
    session: CatalogSession, name: TableName, parts: Insert, before: int, mark: str
) -> StatementResult:
    """Return how many rows a REPLACE WHERE has inserted, in the commit after `before` that holds `mark`."""
    for version, commit in commits_after(session.tree.location(name), before):
        if mark in commit:
            rows = f"{name.sql} VERSION AS OF {version} WHERE {parts.replace}"
            counted = session.client.sql(f"SELECT count(*) AS n FROM {rows}")  # noqa: S608 - as it was
            return inserted(counted.column("n")[0].as_py())
    return inserted(0)


def only_true(predicate: str) -> str:
    """Return a predicate that is never NULL: of a table, Sail drops the rows for which one is."""
    return f"(({predicate}) <=> true)"


def checked_value(predicate: str, column: str) -> str:
    """Return the value of a column, and an error in a row for which `predicate` is not true.

    As a filter it might be asked of rows that another filter leaves out.
    """
    text = f"[DELTA_REPLACE_WHERE_MISMATCH] Written data does not conform to replaceWhere `{predicate}`."
    error = f"raise_error({string_literal(f'{text} SQLSTATE: 44000')})"
    return f"CASE WHEN {predicate} THEN {column} WHEN {error} IS NULL THEN {column} END"


def replace_on(session: CatalogSession, name: TableName, info: TableInfo, parts: Insert) -> StatementResult:
    """INSERT INTO name AS t REPLACE ON (t.k <=> s.k AND …) (query) AS s."""
    mark = uuid.uuid4().hex
    metrics = run_marked(session, name, as_merge(session, info, parts, mark), mark)
    return inserted(int(metrics.get("numTargetRowsInserted", 0)))


def as_merge(session: CatalogSession, info: TableInfo, parts: Insert, mark: str) -> str:
    """Return the MERGE; its commit records `mark`."""
    given = _given(session, parts, [column.name.lower() for column in info.columns])
    pairs = _equalities(parts)
    columns = range(len(info.columns))
    keys = [f"_k{index}" for index in range(len(pairs))]
    rows = [f"_r{index}" for index in columns]
    empty = ", ".join(f"NULL AS {each}" for each in keys)
    to_insert = f"SELECT false AS _d, {empty}, _i.* FROM ({_values(parts, given, info)}) AS _i"  # noqa: S608 - as it was
    matched = ", ".join(
        f"{quote(parts.source)}.{quote(s)} AS _k{index}" for index, (_, _, s) in enumerate(pairs)
    )
    deleted = f"SELECT DISTINCT {matched} FROM ({parts.query}\n) AS {quote(parts.source)}"  # noqa: S608 - as it was
    to_delete = f"SELECT true, _o.*, {', '.join('NULL' for _ in columns)} FROM ({deleted}) AS _o"  # noqa: S608 - as it was
    heads = ", ".join(["_d", *keys, *rows])
    source = f"SELECT * FROM ({to_insert} UNION ALL {to_delete}) AS _u ({heads})"  # noqa: S608 - as it was
    source = session.rewritten(Statement.parse(source)).text
    on = " AND ".join(f"_t.{quote(t)} {sign} _s.{key}" for (t, sign, _), key in zip(pairs, keys, strict=True))
    written = ", ".join(quote(column.name) for column in info.columns)
    values = ", ".join(f"_s.{row}" for row in rows)
    merge = f"MERGE INTO {info.name.sql} AS _t USING ({source}) AS _s"
    matching = f"ON _s._d AND {on} AND '{mark}' IS NOT NULL"
    insert_new = f"WHEN NOT MATCHED AND NOT _s._d THEN INSERT ({written}) VALUES ({values})"  # noqa: S608 - quoted
    return f"{merge} {matching} WHEN MATCHED THEN DELETE {insert_new}"


def _equalities(parts: Insert) -> list[tuple[str, str, str]]:
    """Return the (target's column, = or <=>, source's column) of the condition; raises for another one."""
    tree, found = parsed(parts.on), []
    tree = tree and tree.unnest()
    for each in tree.flatten() if isinstance(tree, exp.And) else [tree]:
        sides = {}
        if isinstance(each, (exp.EQ, exp.NullSafeEQ)) and parts.alias and parts.source:
            sides = {
                s.table.lower(): s.name for s in (each.this, each.expression) if isinstance(s, exp.Column)
            }
        if set(sides) != {parts.alias.lower(), parts.source.lower()}:
            condition = sql_of(tree) if tree is not None else parts.on
            raise only_on_databricks(f"REPLACE ON by anything but equal columns of both sides ({condition})")
        sign = "=" if isinstance(each, exp.EQ) else "<=>"
        found.append((sides[parts.alias.lower()], sign, sides[parts.source.lower()]))
    return found

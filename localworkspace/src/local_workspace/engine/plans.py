"""Spark Connect requests of jobs: which tables they name, and their form for the engine.

The walk over a plan is generic over the protobuf messages: a name too many does no harm, so no knowledge of
the dialect is needed. DataFrame writes get the form that Sail takes, or are refused where it would write
something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyspark.sql.connect.proto as pb
from pyspark.sql.connect.expressions import LiteralExpression

from . import information_schema
from .catalog import CatalogTree, TableInfo
from .dml import refuse_dynamic, refuse_write
from .errors import EngineError, table_not_found, unsupported
from .inserts import checked_value, only_true
from .names import TableName, quote
from .paths import local, map_paths, path_of_name
from .session import CatalogSession, StatementResult
from .statements import Statement, chains, split_name, tokenize
from .tables import drop_left_out

_NAME_FIELDS = {"unparsed_identifier", "table_name", "db_name"}
_SQL_FIELDS = {"query", "expression"}
_MESSAGE = 11  # google.protobuf.descriptor.FieldDescriptor.TYPE_MESSAGE
_Write, _WriteV2 = pb.WriteOperation, pb.WriteOperationV2
_BY_NAME = _Write.SaveTable.TABLE_SAVE_METHOD_SAVE_AS_TABLE


class JobRequest:
    """One ExecutePlan or AnalyzePlan request of a job, brought in step with the catalog tree."""

    def __init__(self, session: CatalogSession, request: Any) -> None:
        self._session = session
        self.request = request
        self._executes = request.DESCRIPTOR.name == "ExecutePlanRequest"

    def prepare(self) -> StatementResult | None:
        """Rewrite the request for the engine; a result when it was carried out here. Raises `EngineError`."""
        session, request = self._session, self.request
        session.prepare(names(request))
        bound_paths(request, session.tree)
        self._fold_names()
        if not self._executes:
            return None
        self._follow_catalog_calls()
        command = request.plan.command
        if command.WhichOneof("command_type") == "sql_command":
            return self._sql(command.sql_command)
        return None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Guard the making of a table while the engine runs the request, and note the outcome."""
        name = self._target()
        session, tree = self._session, self._session.tree
        if name is None:
            yield
            return
        if tree.shape(name) is not None:
            yield
            session.wrote(name)
            return
        with tree.lock(name), session.lock, session.creating(name):
            yield

    def _sql(self, command: Any) -> StatementResult | None:
        """Run a SQL command by the warehouse's translator; of a query, only rewrite the text."""
        sql = command.input.sql if command.input.HasField("sql") else None
        holder, field = (sql, "query") if sql is not None else (command, "sql")
        text = getattr(holder, field)
        if not text:
            return None
        session = self._session
        statement = information_schema.served(
            Statement.parse(text), session.tree, session.client, session.namespace.catalog
        )
        if session.handler_of(statement) is None:
            setattr(holder, field, session.rewritten(statement, filtered=True).text)
            return None
        outcome = session.translate(statement.text, _arguments(holder))
        if isinstance(outcome, StatementResult):
            return outcome
        command.Clear()
        command.input.sql.query = outcome
        return None

    def _fold_names(self) -> None:
        """Spell the tables that a plan reads as the catalog does: Sail does not find them in capitals."""
        session = self._session
        for message in messages(self.request):
            if message.DESCRIPTOR.name == "NamedTable":
                parts = split_name(message.unparsed_identifier)
                low = tuple(part.lower() for part in parts)
                if information_schema.is_view(parts):
                    current = session.namespace.catalog
                    view = information_schema.view_of(parts, session.tree, session.client, current)
                    message.unparsed_identifier = quote(view)
                elif low != parts and session.is_table(parts):
                    message.unparsed_identifier = ".".join(map(quote, low))

    def _follow_catalog_calls(self) -> None:
        """`spark.catalog`: keep the current namespace, and teach the engine what it is asked to list."""
        session, root = self._session, self.request.plan.root
        kind = root.catalog.WhichOneof("cat_type")
        if kind == "set_current_catalog":
            session.use(catalog=root.catalog.set_current_catalog.catalog_name)
        elif kind == "set_current_database":
            target = session.namespace.schema_of(split_name(root.catalog.set_current_database.db_name))
            session.use(*target)
            root.catalog.set_current_database.db_name = target[1]
        elif kind in {"cache_table", "uncache_table", "refresh_table", "clear_cache"} and not session.caches:
            # Nothing is cached, so there is nothing to do; the engine would refuse.
            root.Clear()
            root.sql.query = "SELECT 1 WHERE false"
        elif kind == "list_databases":
            session.learn_all(session.namespace.catalog)
        elif kind == "list_tables":
            name = split_name(root.catalog.list_tables.db_name) or (session.namespace.schema,)
            session.learn_all(*session.namespace.schema_of(name))

    def _target(self) -> TableName | None:
        """Return the table that the request writes by name, after making it a Delta table by default."""
        if not self._executes:
            return None
        command = self.request.plan.command
        kind = command.WhichOneof("command_type")
        if kind == "write_operation_v2":
            name = self._named(command.write_operation_v2.table_name)
            exists, mode = self._session.tree.shape(name) is not None, command.write_operation_v2.mode
            if mode in {_WriteV2.MODE_APPEND, _WriteV2.MODE_REPLACE} and not exists:
                raise table_not_found(name.sql)  # the older write operation would make one
            command.CopyFrom(plain_write(command, exists=exists, left_out=self._session.left_out))
            self._session.adapt_write(command, name)
            return name
        if kind != "write_operation":
            return None
        write, table = command.write_operation, None
        drop_left_out(write.options, self._session.left_out)
        write.source = write.source or "delta"
        if write.HasField("table"):
            table = self._named(write.table.table_name)
            write.table.table_name = table.sql
        self._session.adapt_write(command, table)
        return table

    def _named(self, text: str) -> TableName:
        name = self._session.namespace.table(split_name(text))
        self._session.tree.require_schema(name.catalog, name.schema)
        return name


def _arguments(sql: Any) -> dict[str, Any] | list[Any] | None:
    """Return the values of a SQL command's parameters."""
    if sql.named_arguments:
        return {key: _value(expression) for key, expression in sql.named_arguments.items()}
    if sql.pos_arguments:
        return [_value(expression) for expression in sql.pos_arguments]
    return None


def _value(expression: Any) -> Any:
    if not expression.HasField("literal"):
        text = "In the local workspace a parameter of a command is a plain value."
        raise EngineError.of("UNSUPPORTED_FEATURE", text, "0A000")
    return LiteralExpression._to_value(expression.literal)


def messages(message: Any) -> Iterator[Any]:
    """`message` and every message inside it."""
    yield message
    for field, value in message.ListFields():
        if field.type != _MESSAGE:
            continue
        if field.message_type.GetOptions().map_entry:
            values: Any = [each for each in value.values() if hasattr(each, "ListFields")]
        else:
            values = value if hasattr(value, "__len__") else [value]
        for each in values:
            yield from messages(each)


def names(plan: Any) -> set[tuple[str, ...]]:
    """Return every identifier chain that may name a table in the plan."""
    found: set[tuple[str, ...]] = set()
    for message in messages(plan):
        for field, value in message.ListFields():
            if not isinstance(value, str):
                continue
            if field.name in _NAME_FIELDS:
                found.add(split_name(value))
            elif field.name in _SQL_FIELDS:
                found.update(chains(tokenize(value)))
    found.discard(())
    return found


def bound_paths(request: Any, tree: CatalogTree) -> None:
    """Point `/Volumes/…` paths of readers, writers and SQL texts to the folder under the root.

    Raises `EngineError` for a plan that names a file out of bounds.
    """
    for message in list(messages(request)):
        kind = message.DESCRIPTOR.name
        if kind in {"DataSource", "WriteOperation", "WriteStreamOperationStart"}:
            _bound_files(message, tree)
        elif kind == "NamedTable":
            named = path_of_name(message.unparsed_identifier)
            if named is not None:
                tree.paths.require(local(named, tree.root))
        elif kind == "SQL" and message.query:
            statement = Statement.parse(message.query)
            tree.paths.require_all(statement)
            message.query = map_paths(statement, tree.root)
        elif kind == "SqlCommand" and message.sql:
            tree.paths.require_all(Statement.parse(message.sql))


def _bound_files(message: Any, tree: CatalogTree) -> None:
    """Map and bound the files of a reader or writer; those of a stream's writer are not mapped."""
    kind = message.DESCRIPTOR.name
    if kind == "DataSource":
        message.paths[:] = [local(path, tree.root) for path in message.paths]
    elif kind == "WriteOperation" and message.path:
        message.path = local(message.path, tree.root)
    if kind != "WriteStreamOperationStart" and "path" in message.options:
        message.options["path"] = local(message.options["path"], tree.root)
    for path in message.paths if kind == "DataSource" else [message.path] if message.path else []:
        tree.paths.require(path)
    tree.paths.require_options(message.options)


# --- DataFrame writes


def plain_write(command: Any, *, exists: bool, left_out: frozenset[str]) -> Any:
    """Return `DataFrame.writeTo(...)` as the older write operation, of which the engine knows every mode."""
    v2 = command.write_operation_v2
    mode = {
        _WriteV2.MODE_CREATE: _Write.SAVE_MODE_ERROR_IF_EXISTS,
        _WriteV2.MODE_APPEND: _Write.SAVE_MODE_APPEND,
        _WriteV2.MODE_REPLACE: _Write.SAVE_MODE_OVERWRITE,
        _WriteV2.MODE_CREATE_OR_REPLACE: _Write.SAVE_MODE_OVERWRITE,
    }.get(v2.mode)
    if mode is None:
        return command
    options = dict(v2.options)
    drop_left_out(options, left_out)
    if mode == _Write.SAVE_MODE_OVERWRITE and exists:
        options["overwriteSchema"] = "true"
    write = _Write(
        input=v2.input,
        source=v2.provider or "delta",
        mode=mode,
        table=_Write.SaveTable(table_name=v2.table_name, save_method=_BY_NAME),
        options=options,
        partitioning_columns=[
            each.unresolved_attribute.unparsed_identifier for each in v2.partitioning_columns
        ],
    )
    return pb.Command(write_operation=write)


def adapt(session: CatalogSession, command: Any, name: TableName | None) -> None:
    """Change a write command in place for Sail; `name` is its table, None if it writes to a path.

    Raises `EngineError` for what Sail would write wrongly.
    """
    tree, write, columns = session.tree, command.write_operation, session.client.columns
    if write.mode == write.SAVE_MODE_OVERWRITE and (name is not None or write.source == "delta"):
        shape = tree.logs.shape(Path(write.path)) if name is None else tree.shape(name)
        refuse_dynamic(session, shape, write.options)
    info = None if name is None else tree.info(name)
    if name is not None:
        refuse_write(tree.shape(name), "INSERT")
    if command.WhichOneof("command_type") == "write_operation_v2":
        _keep_nulls(command.write_operation_v2)
        return
    predicate = _option(write, "replaceWhere")
    if predicate and name is not None and write.mode == write.SAVE_MODE_OVERWRITE:
        _overwrite_where(command, name, predicate, columns(write.input)[0])
    elif predicate and write.mode == write.SAVE_MODE_OVERWRITE:
        raise unsupported("replaceWhere of a path")
    elif info is not None and write.mode == write.SAVE_MODE_APPEND:
        merges = _option(write, "mergeSchema").lower() == "true"
        if not merges and write.table.save_method == _BY_NAME:
            _append_by_name(write, info, columns(write.input))


def _option(write: Any, name: str) -> str:
    return next((value for key, value in write.options.items() if key.lower() == name.lower()), "")


def _keep_nulls(write: Any) -> None:
    """Make a condition never NULL: Sail would delete the rows for which it is."""
    if write.HasField("overwrite_condition"):
        true = pb.Expression(literal=pb.Expression.Literal(boolean=True))
        sides = [write.overwrite_condition, true]
        equal = pb.Expression.UnresolvedFunction(function_name="<=>", arguments=sides)
        write.overwrite_condition.CopyFrom(pb.Expression(unresolved_function=equal))


def _overwrite_where(command: Any, name: TableName, predicate: str, first: str) -> None:
    """Write the option replaceWhere, which Sail does not mind, as the condition of the newer operation.

    `first` is the first column of the rows.
    """
    checked = _expression(checked_value(predicate, quote(first)))
    aliases = [pb.Expression.Alias(expr=checked, name=[first])]
    rows = pb.WithColumns(input=command.write_operation.input, aliases=aliases)
    v2 = _WriteV2(
        input=pb.Relation(with_columns=rows),
        table_name=name.sql,
        mode=_WriteV2.MODE_OVERWRITE,
        overwrite_condition=_expression(only_true(predicate)),
    )
    command.CopyFrom(pb.Command(write_operation_v2=v2))


def _append_by_name(write: Any, info: TableInfo, given: Sequence[str]) -> None:
    """Append by position, the columns in the table's order: Sail looks for names in its own case only."""
    by_name = {each.lower(): each for each in given}
    names = [column.name.lower() for column in info.columns]
    if list(given) == [column.name for column in info.columns] == names:
        return
    if len(by_name) < len(given) or not set(by_name) <= set(names):
        extra = ", ".join(quote(each) for each in given if each.lower() not in names) or "two of one name"
        text = f"Cannot append by name to {info.name.sql}: the data has columns that it has not ({extra})."
        raise EngineError.of("DELTA_METADATA_MISMATCH", text, "42KDG")
    expressions = []
    for column in info.columns:
        name = by_name.get(column.name.lower())
        missing = f"CAST({column.default or 'NULL'} AS {column.type})"
        value = _expression(missing if name is None else quote(name))
        expressions.append(pb.Expression(alias=pb.Expression.Alias(expr=value, name=[column.name])))
    rows = pb.Relation(project=pb.Project(input=write.input, expressions=expressions))
    write.input.CopyFrom(rows)
    write.table.save_method = write.SaveTable.TABLE_SAVE_METHOD_INSERT_INTO


def _expression(text: str) -> Any:
    return pb.Expression(expression_string=pb.Expression.ExpressionString(expression=text))

"""Spark Connect requests of jobs: which tables they name, and their form for the engine.

The walk over a plan is generic over the protobuf messages: a name too many does no harm, so no knowledge of
the dialect is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import information_schema
from .bounds import require_plan
from .catalog import CatalogTree
from .errors import EngineError, table_not_found
from .names import TableName, quote
from .paths import map_paths
from .session import CatalogSession, StatementResult
from .statements import Statement, chains, split_name, tokenize
from .tables import drop_left_out

_NAME_FIELDS = {"unparsed_identifier", "table_name", "db_name"}
_SQL_FIELDS = {"query", "expression"}
_MESSAGE = 11  # google.protobuf.descriptor.FieldDescriptor.TYPE_MESSAGE


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
        map_volume_paths(request, session.tree)
        require_plan(list(messages(request)), session.tree.paths)
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
        if self._session.handler_of(statement) is None:
            setattr(holder, field, self._session.rewritten(statement, filtered=True).text)
            return None
        outcome = self._session.translate(statement.text, _arguments(holder))
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
            self._require(name, command.write_operation_v2.mode)
            exists = self._session.tree.shape(name) is not None
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

    def _require(self, name: TableName, mode: int) -> None:
        """Append and replace need a table; the older write operation would make one."""
        import pyspark.sql.connect.proto as pb

        v2 = pb.WriteOperationV2
        if mode in {v2.MODE_APPEND, v2.MODE_REPLACE} and self._session.tree.shape(name) is None:
            raise table_not_found(name.sql)


def _arguments(sql: Any) -> dict[str, Any] | list[Any] | None:
    """Return the values of a SQL command's parameters."""
    if sql.named_arguments:
        return {key: _value(expression) for key, expression in sql.named_arguments.items()}
    if sql.pos_arguments:
        return [_value(expression) for expression in sql.pos_arguments]
    return None


def _value(expression: Any) -> Any:
    from pyspark.sql.connect.expressions import LiteralExpression

    if not expression.HasField("literal"):
        raise EngineError.of(
            "UNSUPPORTED_FEATURE",
            "In the local workspace a parameter of a command is a plain value.",
            "0A000",
        )
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


def map_volume_paths(plan: Any, tree: CatalogTree) -> None:
    """Point every `/Volumes/…` path of readers, writers and SQL texts to the folder under the root."""
    for message in list(messages(plan)):
        kind = message.DESCRIPTOR.name
        if kind == "DataSource":
            message.paths[:] = [tree.local_path(path) for path in message.paths]
            _map_option(message.options, tree)
        elif kind == "WriteOperation":
            if message.HasField("path"):
                message.path = tree.local_path(message.path)
            _map_option(message.options, tree)
        elif kind == "SQL" and "/Volumes/" in message.query:
            message.query = map_paths(Statement.parse(message.query), tree)


def _map_option(options: Any, tree: CatalogTree) -> None:
    if "path" in options:
        options["path"] = tree.local_path(options["path"])


def plain_write(command: Any, *, exists: bool, left_out: frozenset[str]) -> Any:
    """`DataFrame.writeTo(...)` as the older write operation, of which the engine knows every mode."""
    import pyspark.sql.connect.proto as pb

    v2, write = command.write_operation_v2, pb.WriteOperation
    modes = {
        "MODE_CREATE": write.SAVE_MODE_ERROR_IF_EXISTS,
        "MODE_APPEND": write.SAVE_MODE_APPEND,
        "MODE_REPLACE": write.SAVE_MODE_OVERWRITE,
        "MODE_CREATE_OR_REPLACE": write.SAVE_MODE_OVERWRITE,
    }
    mode = modes.get(pb.WriteOperationV2.Mode.Name(v2.mode))
    if mode is None:
        return command
    options = dict(v2.options)
    drop_left_out(options, left_out)
    if mode == write.SAVE_MODE_OVERWRITE and exists:
        options["overwriteSchema"] = "true"
    target = write.SaveTable(
        table_name=v2.table_name, save_method=write.SaveTable.TABLE_SAVE_METHOD_SAVE_AS_TABLE
    )
    columns = [column.unresolved_attribute.unparsed_identifier for column in v2.partitioning_columns]
    return pb.Command(
        write_operation=write(
            input=v2.input,
            source=v2.provider or "delta",
            mode=mode,
            table=target,
            options=options,
            partitioning_columns=columns,
        )
    )

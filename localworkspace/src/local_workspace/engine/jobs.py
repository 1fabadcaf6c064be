"""What a job's Spark Connect request needs before and after the engine runs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import plans, statements
from .errors import EngineError, table_not_found
from .lexer import split_name
from .literals import inline
from .names import TableName
from .properties import drop_left_out
from .session import CatalogSession, StatementResult


class JobRequest:
    """One ExecutePlan or AnalyzePlan request of a job, brought in step with the catalog tree."""

    def __init__(self, session: CatalogSession, request: Any) -> None:
        self._session = session
        self.request = request
        self._executes = request.DESCRIPTOR.name == "ExecutePlanRequest"

    def prepare(self) -> StatementResult | None:
        """Rewrite the request for the engine; a result when it was carried out here. Raises `EngineError`."""
        session, request = self._session, self.request
        session.prepare(plans.names(request))
        plans.map_volume_paths(request, session.tree)
        if not self._executes:
            return None
        self._follow_catalog_calls()
        command = request.plan.command
        if command.WhichOneof("command_type") == "sql_command":
            return self._sql(command.sql_command)
        return None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around the engine's run of the request: guards the making of a table, notes what came of it."""
        name = self._target()
        session, tree = self._session, self._session.tree
        if name is None:
            yield
            return
        if tree.shape(name) is not None:
            yield
            session.wrote(name)
            return
        with tree.lock(name), session.lock:
            session.forget(name)
            tree.discard_unborn(name)
            try:
                yield
            except BaseException:
                session.doubt(name)
                tree.discard_unborn(name)
                raise
            session.learned(name)

    def _sql(self, command: Any) -> StatementResult | None:
        """Run a SQL command by the warehouse's translator; queries go to the engine as they are."""
        sql = command.input.sql if command.input.HasField("sql") else None
        text = sql.query if sql is not None else command.sql
        if not text or self._session.handler_of(statements.Statement.parse(text)) is None:
            return None
        outcome = self._session.translate(inline(text, _arguments(command if sql is None else sql)))
        if isinstance(outcome, StatementResult):
            return outcome
        command.Clear()
        command.input.sql.query = outcome
        return None

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
        """The table that the request writes by name, after making it a Delta table by default."""
        if not self._executes:
            return None
        command = self.request.plan.command
        kind = command.WhichOneof("command_type")
        if kind == "write_operation_v2":
            name = self._named(command.write_operation_v2.table_name)
            self._require(name, command.write_operation_v2.mode)
            exists = self._session.tree.shape(name) is not None
            command.CopyFrom(plans.plain_write(command, exists=exists, left_out=self._session.left_out))
            if command.WhichOneof("command_type") == "write_operation":
                self._session.adapt_write(command.write_operation, name)
            return name
        if kind != "write_operation" or not command.write_operation.HasField("table"):
            return None
        write = command.write_operation
        write.source = write.source or "delta"
        drop_left_out(write.options, self._session.left_out)
        name = self._named(write.table.table_name)
        self._session.adapt_write(write, name)
        return name

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
    """The values of a SQL command's parameters."""
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

"""DataFrame writes of jobs in the form that Sail takes, or refused where it would write something else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .catalog import CatalogTree, TableInfo
from .dml import refuse_write
from .errors import EngineError, unsupported
from .inserts import checked_value, only_true
from .names import TableName, quote


def adapt(
    command: Any, name: TableName | None, tree: CatalogTree, columns: Callable[[Any], Sequence[str]]
) -> None:
    """Change a write command in place; `name` is its table, None if it writes to a path.

    `columns` returns the columns of a relation. Raises `EngineError` for what Sail would write wrongly.
    """
    info = None if name is None else tree.info(name)
    if name is not None:
        refuse_write(tree.shape(name), "INSERT")
    if command.WhichOneof("command_type") == "write_operation_v2":
        _keep_nulls(command.write_operation_v2)
        return
    write = command.write_operation
    predicate = _option(write, "replaceWhere")
    if predicate and name is not None and write.mode == write.SAVE_MODE_OVERWRITE:
        _overwrite_where(command, name, predicate, columns(write.input)[0])
    elif predicate and write.mode == write.SAVE_MODE_OVERWRITE:
        raise unsupported("replaceWhere of a path")
    elif info is not None and write.mode == write.SAVE_MODE_APPEND:
        by_name = write.table.save_method == write.SaveTable.TABLE_SAVE_METHOD_SAVE_AS_TABLE
        if by_name and _option(write, "mergeSchema").lower() != "true":
            _append_by_name(write, info, columns(write.input))


def check_path(write: Any, tree: CatalogTree, mode: str) -> None:
    """Refuse a dynamic overwrite of a path, for Sail deletes all partitions; `mode` is the session's."""
    if write.mode != write.SAVE_MODE_OVERWRITE or write.source != "delta":
        return
    shape = tree.logs.shape(Path(write.path))
    asked = _option(write, "partitionOverwriteMode") or mode
    if shape is not None and shape.partition_columns and asked.lower() == "dynamic":
        raise unsupported("Dynamic partition overwrite")


def _option(write: Any, name: str) -> str:
    return next((value for key, value in write.options.items() if key.lower() == name.lower()), "")


def _keep_nulls(write: Any) -> None:
    """Make a condition never NULL: Sail would delete the rows for which it is."""
    import pyspark.sql.connect.proto as pb

    if write.HasField("overwrite_condition"):
        true = pb.Expression(literal=pb.Expression.Literal(boolean=True))
        condition = pb.Expression(
            unresolved_function=pb.Expression.UnresolvedFunction(
                function_name="<=>", arguments=[write.overwrite_condition, true]
            )
        )
        write.overwrite_condition.CopyFrom(condition)


def _overwrite_where(command: Any, name: TableName, predicate: str, first: str) -> None:
    """Write the option replaceWhere, which Sail does not mind, as the condition of the newer operation.

    `first` is the first column of the rows.
    """
    import pyspark.sql.connect.proto as pb

    checked = _expression(checked_value(predicate, quote(first)))
    aliases = [pb.Expression.Alias(expr=checked, name=[first])]
    rows = pb.WithColumns(input=command.write_operation.input, aliases=aliases)
    v2 = pb.WriteOperationV2(
        input=pb.Relation(with_columns=rows),
        table_name=name.sql,
        mode=pb.WriteOperationV2.MODE_OVERWRITE,
        overwrite_condition=_expression(only_true(predicate)),
    )
    command.CopyFrom(pb.Command(write_operation_v2=v2))


def _append_by_name(write: Any, info: TableInfo, given: Sequence[str]) -> None:
    """Append by position, the columns in the table's order: Sail looks for names in its own case only."""
    import pyspark.sql.connect.proto as pb

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
    import pyspark.sql.connect.proto as pb

    return pb.Expression(expression_string=pb.Expression.ExpressionString(expression=text))

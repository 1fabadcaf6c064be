"""Reading and rewriting Spark Connect plans: which names they hold, where they hold paths.

The walk is generic over the protobuf messages: a name too many does no harm, so no dialect knowledge is
needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .catalog import CatalogTree
from .lexer import chains, split_name, tokenize
from .properties import drop_left_out
from .statements import Statement, map_paths

_NAME_FIELDS = {"unparsed_identifier", "table_name", "db_name"}
_SQL_FIELDS = {"query", "expression"}
_MESSAGE = 11  # google.protobuf.descriptor.FieldDescriptor.TYPE_MESSAGE


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
    """Every identifier chain that may name a table in the plan."""
    found: set[tuple[str, ...]] = set()
    for message in messages(plan):
        for field, value in message.ListFields():
            if not isinstance(value, str):
                continue
            if field.name in _NAME_FIELDS:
                found.add(split_name(value))
            elif field.name in _SQL_FIELDS:
                found.update(parts for parts, _, _ in chains(tokenize(value)))
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

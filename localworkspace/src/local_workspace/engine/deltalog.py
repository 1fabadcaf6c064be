"""The Delta transaction log, read cheaply: table metadata, commits and their metrics; SQL names of types."""

from __future__ import annotations

import json
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import EngineError


@dataclass(frozen=True, kw_only=True)
class TableShape:
    """A table's metadata as of `version`. Two shapes with the same `signature` read and write alike."""

    signature: str
    version: int
    schema: dict[str, Any]
    partition_columns: tuple[str, ...]
    properties: dict[str, str]
    description: str | None
    created_at_ms: int


def _commit(log: Path, version: int) -> Path:
    return log / f"{version:020d}.json"


class DeltaLogs:
    """Shapes of the tables under a root, remembered by path; one stat per look-up when nothing changed."""

    def __init__(self) -> None:
        self._shapes: dict[Path, tuple[tuple[int, int], TableShape]] = {}
        self._lock = threading.Lock()

    def shape(self, table: Path) -> TableShape | None:
        """Return the current shape of the Delta table in a folder; None when there is no committed table."""
        log = table / "_delta_log"
        identity = _identity(log)
        if identity is None:
            self._shapes.pop(table, None)
            return None
        with self._lock:
            known = self._shapes.get(table)
            if known is None or known[0] != identity:
                shape = _load(table, identity)
            else:
                shape = _advance(table, known[1], identity)
            self._shapes[table] = (identity, shape)
        return shape


def commits_after(table: Path, version: int) -> Iterator[tuple[int, str]]:
    """Yield the (version, text) of each commit later than `version`."""
    while (path := _commit(table / "_delta_log", version + 1)).exists():
        version += 1
        yield version, path.read_text(encoding="utf-8")


def _identity(log: Path) -> tuple[int, int] | None:
    """Return what identifies the table among those that have had the folder; None without a table."""
    for name in (f"{0:020d}.json", "_last_checkpoint"):
        try:
            stat = (log / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        # A checkpoint pointer is rewritten again and again, so it has no birth to go by.
        return (stat.st_ino, stat.st_mtime_ns) if name.startswith("0") else (0, 0)
    return None


def _advance(table: Path, shape: TableShape, identity: tuple[int, int]) -> TableShape:
    version = shape.version
    for later, text in commits_after(table, shape.version):
        if '"metaData"' in text:
            return _load(table, identity)
        version = later
    return shape if version == shape.version else replace(shape, version=version)


def _load(table: Path, identity: tuple[int, int]) -> TableShape:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        delta = DeltaTable(str(table))
    except DeltaError as error:
        text = f"The Delta table in {table} cannot be read: {error}"
        raise EngineError.of("DELTA_TABLE_NOT_READABLE", text, "55019") from error
    meta = delta.metadata()
    schema = delta.schema().to_json()
    signature = json.dumps(
        [identity, meta.id, schema, list(meta.partition_columns), sorted(meta.configuration.items())]
    )
    return TableShape(
        signature=signature,
        version=delta.version(),
        schema=json.loads(schema),
        partition_columns=tuple(meta.partition_columns),
        properties=dict(meta.configuration),
        description=meta.description,
        created_at_ms=int(meta.created_time or 0),
    )


_TRIES = 10


@dataclass(kw_only=True)
class Metadata:
    """The metadata that may be changed: the schema as Delta writes it, properties and description."""

    schema: dict[str, Any]
    properties: dict[str, str]
    description: str | None

    def column(self, name: str) -> dict[str, Any]:
        """Return a column of the schema."""
        found: dict[str, Any] = next(field for field in self.schema["fields"] if field["name"] == name)
        return found


def change_metadata(
    table: Path, operation: str, change: Callable[[Metadata], None], *, version: int | None = None
) -> None:
    """Commit a change of a table's metadata (Delta protocol, "Change Metadata").

    delta-rs refuses tables with features that it does not write, and has no NOT NULL. With `version` the
    commit must be the next one. Raises `EngineError` where others were first.
    """
    from deltalake import DeltaTable

    for _ in range(1 if version is not None else _TRIES):
        delta = DeltaTable(str(table), version=version)
        meta = delta.metadata()
        new = Metadata(
            schema=json.loads(delta.schema().to_json()),
            properties=dict(meta.configuration),
            description=meta.description,
        )
        change(new)
        action = {
            "id": meta.id, "name": meta.name, "description": new.description,
            "format": {"provider": "parquet", "options": {}}, "schemaString": json.dumps(new.schema),
            "partitionColumns": list(meta.partition_columns), "configuration": new.properties,
            "createdTime": meta.created_time,
        }  # fmt: skip
        now = int(time.time() * 1000)
        info = {"timestamp": now, "operation": operation, "operationParameters": {}}
        if new.properties.get("delta.enableInCommitTimestamps") == "true":
            info = {"inCommitTimestamp": now, **info}
        if _put(table, delta.version() + 1, {"commitInfo": info}, {"metaData": action}):
            return
    text = "Transaction conflict detected: another transaction changed the table. Read again, then retry."
    raise EngineError.of("DELTA_CONCURRENT_APPEND", text, "2D521")


def _put(table: Path, version: int, *actions: dict[str, Any]) -> bool:
    """Put a commit, whole, if there is none of this version; return whether it is ours."""
    draft = table / "_delta_log" / f".{uuid.uuid4().hex}.json"
    draft.write_text("".join(f"{json.dumps(action)}\n" for action in actions), encoding="utf-8")
    try:
        os.link(draft, _commit(draft.parent, version))
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


# An UPDATE or DELETE with a subquery becomes a MERGE on Sail, with such a mark in its predicate.
_MARK = re.compile(r"'(DELETE|UPDATE) [0-9a-f]{32}' IS NOT NULL")


def history(location: str, limit: int | None) -> Any:
    """Return DESCRIBE HISTORY of a Delta table as a pyarrow.Table, the newest commit first."""
    import pyarrow as pa
    from deltalake import DeltaTable

    texts = pa.map_(pa.string(), pa.string())
    columns = {
        "version": pa.int64(), "timestamp": pa.timestamp("us", "UTC"), "userId": pa.string(),
        "userName": pa.string(), "operation": pa.string(), "operationParameters": texts,
        "isBlindAppend": pa.bool_(), "operationMetrics": texts, "userMetadata": pa.string(),
        "engineInfo": pa.string(),
    }  # fmt: skip
    rows = [
        {**entry, "timestamp": entry.get("timestamp", 0) * 1000, **_recorded(entry)}
        for entry in DeltaTable(location).history(limit)
    ]
    return pa.Table.from_pylist(rows, pa.schema(columns))


def _recorded(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return operation, parameters and metrics of a commit; its own if it became a MERGE here."""
    operation = entry.get("operation")
    parameters, metrics = entry.get("operationParameters") or {}, entry.get("operationMetrics") or {}
    predicate = str(parameters.get("mergePredicate", ""))
    found = _MARK.search(predicate) if operation == "MERGE" else None
    if found is not None:
        operation, parameters = found.group(1), {"predicate": predicate}
        changed = found.group(1).capitalize().removesuffix("e") + "ed"  # Deleted, Updated
        kept = {key: value for key, value in metrics.items() if "Target" not in key}
        own = {
            f"num{changed}Rows": metrics.get(f"numTargetRows{changed}", 0),
            "numCopiedRows": metrics.get("numTargetRowsCopied", 0),
        }
        metrics = {**kept, **own}
    return {
        "operation": operation,
        "operationParameters": _texts(parameters),
        "operationMetrics": _texts(metrics),
    }


def _texts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in values.items()]


_SQL_TYPES = {"long": "bigint", "integer": "int", "short": "smallint", "byte": "tinyint"}


def sql_type(delta_type: Any) -> str:
    """Return the SQL name of a type of a Delta schema (Delta protocol, "Schema Serialization Format")."""
    if isinstance(delta_type, str):
        return _SQL_TYPES.get(delta_type, delta_type)
    if delta_type["type"] == "array":
        return f"array<{sql_type(delta_type['elementType'])}>"
    if delta_type["type"] == "map":
        return f"map<{sql_type(delta_type['keyType'])},{sql_type(delta_type['valueType'])}>"
    fields = ",".join(f"{field['name']}:{sql_type(field['type'])}" for field in delta_type["fields"])
    return f"struct<{fields}>"


_ARROW_TYPES = {
    "int8": "tinyint", "int16": "smallint", "int32": "int", "int64": "bigint",
    "uint8": "smallint", "uint16": "int", "uint32": "bigint", "uint64": "decimal(20,0)",
    "float": "float", "double": "double", "bool": "boolean", "date32[day]": "date", "null": "void",
    "string": "string", "large_string": "string", "string_view": "string",
    "binary": "binary", "large_binary": "binary", "binary_view": "binary",
}  # fmt: skip


def arrow_sql_type(kind: Any) -> str:
    """Return the SQL name of a pyarrow type."""
    import pyarrow.types as is_a

    simple = _ARROW_TYPES.get(str(kind))
    if simple is not None:
        return simple
    if is_a.is_timestamp(kind):
        return "timestamp" if kind.tz else "timestamp_ntz"
    if is_a.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if is_a.is_struct(kind):
        return "struct<" + ",".join(f"{f.name}:{arrow_sql_type(f.type)}" for f in kind) + ">"
    if is_a.is_map(kind):
        return f"map<{arrow_sql_type(kind.key_type)},{arrow_sql_type(kind.item_type)}>"
    if is_a.is_list(kind) or is_a.is_large_list(kind):
        return f"array<{arrow_sql_type(kind.value_type)}>"
    if is_a.is_duration(kind) or is_a.is_interval(kind):
        return "interval day to second"
    return "string"

"""Results of the Statement Execution API: in which format, in which chunks, in the answer or behind links."""

from __future__ import annotations

import base64
import csv
import datetime
import decimal
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from databricks.sdk.service import sql as shapes

from local_workspace.engine.texts import (
    interval_name,
    is_interval,
    is_variant,
    presentable,
    readable,
    text_of,
)
from local_workspace.errors import invalid, missing
from local_workspace.http import Json
from local_workspace.signed import Signer

_CHUNK_ROWS = 10_000
# Of Arrow, which clients fetch by several threads; Databricks' chunks are of some megabytes as well.
_CHUNK_BYTES = 8 << 20
_ATTACHED_BYTES = 1 << 20
# An answer links to so many chunks. Given them one by one, Databricks' SQL kernel (0.2.0) may lose the last:
# of its two requests for links at a time, the end that one finds ends the stream for the other.
_LINKS = 32
_CHOICES = {
    "format": ("JSON_ARRAY", "ARROW_STREAM", "CSV"),
    "disposition": ("INLINE", "EXTERNAL_LINKS", "INLINE_OR_EXTERNAL_LINKS"),
    "result_compression": ("NONE", "LZ4_FRAME"),
    "on_wait_timeout": ("CONTINUE", "CANCEL"),
}


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How a client wants a result. `INLINE_OR_EXTERNAL_LINKS` is what Databricks' own drivers ask for."""

    format: str = "JSON_ARRAY"
    disposition: str = "INLINE"
    lz4: bool = False
    row_limit: int = 0  # 0: none
    byte_limit: int = 0

    @staticmethod
    def of(body: Json) -> Delivery:
        """Return what a request asks for. Raises ApiError (400) for what there is not."""
        for name, known in _CHOICES.items():
            if body.get(name) not in (None, "", *known):
                raise invalid(f"{name} is one of {', '.join(known)}, not {body[name]!r}")
        wanted = Delivery(
            format=body.get("format") or "JSON_ARRAY",
            disposition=body.get("disposition") or "INLINE",
            lz4=body.get("result_compression") == "LZ4_FRAME",
            row_limit=_limit(body, "row_limit"),
            byte_limit=_limit(body, "byte_limit"),
        )
        if wanted.format != "JSON_ARRAY" and wanted.disposition == "INLINE":
            raise invalid(f"The format {wanted.format} needs the disposition EXTERNAL_LINKS")
        return wanted


def _limit(body: Json, name: str) -> int:
    value = body.get(name)
    if value is not None and not re.fullmatch("[0-9]{1,18}", str(value)):
        raise invalid(f"{name} must be an integer that is not negative, not {value!r}")
    return int(value or 0)


class Result:
    """The rows of a statement that succeeded, within the limits of its delivery, as chunks below `path`."""

    def __init__(self, table: Any, wanted: Delivery, path: str, signer: Signer) -> None:
        self._wanted, self._path, self._signer = wanted, path, signer
        limit, most = self._wanted.row_limit, self._wanted.byte_limit
        limited = table.slice(0, limit) if limit else table
        self._columns = _columns_of(table.schema)
        self._texts: list[list[str | None]] = []
        self._table: Any = None
        if self._wanted.format == "ARROW_STREAM":
            self._take_arrow(limited, most)
        else:
            self._texts = _within(_rows_of(limited), most)
            self._rows, self._chunk_rows = len(self._texts), _CHUNK_ROWS
        self._truncated = self._rows < table.num_rows
        self._starts = list(range(0, self._rows, self._chunk_rows))

    def _take_arrow(self, table: Any, most: int) -> None:
        """Keep the rows as Arrow; how many fit, and how many are a chunk, by their mean size."""
        size = max(1, table.nbytes // max(1, table.num_rows))
        self._table = presentable(table.slice(0, most // size) if most else table)
        self._rows, self._chunk_rows = self._table.num_rows, max(1, _CHUNK_BYTES // size)

    @property
    def _linked(self) -> bool:
        """Return whether the rows are behind links."""
        if self._wanted.disposition == "INLINE_OR_EXTERNAL_LINKS" and self._table is not None:
            return len(self._starts) > 1 or self._table.nbytes > _ATTACHED_BYTES
        return self._wanted.disposition == "EXTERNAL_LINKS" or self._wanted.format == "CSV"

    def describe(self) -> Json:
        """Return the answer's `manifest` and `result`, the latter with the first chunk."""
        # Databricks' drivers read two fields that the SDK's types leave out.
        manifest = self._manifest().as_dict()
        if self._wanted.lz4 and (self._linked or self._table is not None):
            manifest["result_compression"] = "LZ4_FRAME"
        if self._table is not None and not self._linked:
            attached = base64.b64encode(self.file(0)).decode()
            found = shapes.ResultData(chunk_index=0, row_offset=0, row_count=self._rows).as_dict()
            return {"manifest": manifest, "result": {**found, "attachment": attached}}
        return {"manifest": manifest, "result": self.chunk(0).as_dict()}

    def _manifest(self) -> shapes.ResultManifest:
        sizes = [self._size(index) for index in range(len(self._starts))] if self._linked else []
        return shapes.ResultManifest(
            format=shapes.Format(self._wanted.format),
            schema=shapes.ResultSchema(column_count=len(self._columns), columns=self._columns),
            total_chunk_count=len(self._starts),
            total_row_count=self._rows,
            total_byte_count=sum(sizes) if self._linked else None,
            truncated=self._truncated,
            chunks=[
                shapes.BaseChunkInfo(sizes[index] if sizes else None, index, self._count(index), at)
                for index, at in enumerate(self._starts)
            ]
            or [shapes.BaseChunkInfo(chunk_index=0, row_offset=0, row_count=0)],
        )

    def _count(self, index: int) -> int:
        """Return the number of rows of a chunk."""
        return min(self._chunk_rows, self._rows - index * self._chunk_rows)

    def _size(self, index: int) -> int:
        """Return the bytes of a chunk before compression."""
        if self._table is not None:
            size: int = self._table.slice(self._starts[index], self._chunk_rows).nbytes
            return size
        rows = self._texts[self._starts[index] :][: self._chunk_rows]
        return sum(len(value) for row in rows for value in row if value is not None)

    def chunk(self, index: int) -> shapes.ResultData:
        """Return one chunk, or the links to it and the next ones. Raises ApiError (400)."""
        known = len(self._starts)
        if not 0 <= index < max(1, known):
            raise invalid(f"chunk_index {index} does not exist: the result has {max(1, known)} chunks")
        if index >= known and self._linked:
            return shapes.ResultData()
        if self._linked:
            linked = range(index, min(index + _LINKS, known))
            return shapes.ResultData(external_links=[self._linked_chunk(each) for each in linked])
        # The SDK's type leaves out that a value may be NULL.
        values: Any = self._texts[index * self._chunk_rows :][: self._chunk_rows]
        found = shapes.ResultData(
            chunk_index=index, row_offset=index * self._chunk_rows, row_count=len(values), data_array=values
        )
        found.next_chunk_index, found.next_chunk_internal_link = self._next(index)
        return found

    def _next(self, index: int) -> tuple[int | None, str | None]:
        if index + 1 >= len(self._starts):
            return None, None
        return index + 1, f"{self._path}/{index + 1}"

    def _linked_chunk(self, index: int) -> shapes.ExternalLink:
        url, ends = self._signer.url("GET", f"{self._path}/{index}/data")
        following, path = self._next(index)
        return shapes.ExternalLink(
            external_link=url,
            expiration=datetime.datetime.fromtimestamp(ends, datetime.UTC).isoformat().replace("+00:00", "Z"),
            chunk_index=index,
            row_offset=self._starts[index],
            row_count=self._count(index),
            byte_count=self._size(index),
            next_chunk_index=following,
            next_chunk_internal_link=path,
        )

    def file(self, index: int) -> bytes:
        """Return the bytes behind the link to a chunk. Raises ApiError (404)."""
        if not 0 <= index < max(1, len(self._starts)):
            raise missing(f"There is no chunk {index}")
        at = index * self._chunk_rows
        if self._table is not None:
            data = _arrow(self._table.slice(at, self._chunk_rows))
        else:
            names = [str(column.name) for column in self._columns]
            data = _text(names, self._texts[at : at + self._chunk_rows], csv_=self._wanted.format == "CSV")
        return _packed(data) if self._wanted.lz4 else data


def _arrow(table: Any) -> bytes:
    """Return a table as an Arrow IPC stream."""
    import pyarrow as pa

    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _text(names: list[str], rows: list[list[str | None]], *, csv_: bool) -> bytes:
    """Return rows as JSON, or as CSV with the columns' names first."""
    if not csv_:
        return json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    sink = io.StringIO()
    writer = csv.writer(sink)
    writer.writerow(names)
    writer.writerows(["null" if value is None else value for value in row] for row in rows)
    return sink.getvalue().encode("utf-8", "replace")


def _packed(data: bytes) -> bytes:
    import lz4.frame  # type: ignore[import-untyped] # ships no types

    packed: bytes = lz4.frame.compress(data)
    return packed


def _within(rows: list[list[str | None]], limit: int) -> list[list[str | None]]:
    """Return the first rows whose values have at most `limit` bytes; all where it is 0."""
    if not limit:
        return rows
    total = 0
    for index, row in enumerate(rows):
        total += sum(len(value.encode()) for value in row if value is not None)
        if total > limit:
            return rows[:index]
    return rows


# --- values: parameters from text, columns and rows as JSON_ARRAY has them

_READERS: dict[str, Callable[[str], Any]] = {
    "STRING": str,
    "BOOLEAN": lambda text: {"true": True, "false": False}[text.lower()],
    "DOUBLE": float,
    "FLOAT": float,
    "DECIMAL": decimal.Decimal,
    "DATE": datetime.date.fromisoformat,
    "TIMESTAMP": datetime.datetime.fromisoformat,
    "TIMESTAMP_NTZ": datetime.datetime.fromisoformat,
    "VOID": lambda _text: None,
    **dict.fromkeys(("INT", "BIGINT", "LONG", "SMALLINT", "SHORT", "TINYINT", "BYTE"), int),
}


def parameters_of(parameters: Any) -> dict[str, Any] | list[Any] | None:
    """Parameters as Python values: by name, or in order where they have none, as drivers send them.

    Raises ApiError (400) for what cannot be read.
    """
    if not parameters:
        return None
    if not isinstance(parameters, list) or not all(isinstance(item, dict) for item in parameters):
        raise invalid("parameters must be a list of objects")
    values: dict[str, Any] = {}
    for position, item in enumerate(parameters):
        kind = str(item.get("type") or "STRING").upper()
        reader = _READERS.get(kind.partition("(")[0])
        if reader is None:
            raise invalid(f"Parameter {item.get('name')}: unknown type {kind}")
        text = item.get("value")
        name = str(item.get("name") or position)
        if name in values or bool(item.get("name")) != bool(parameters[0].get("name")):
            raise invalid(f"Parameter {name}: give each a name of its own, or none at all")
        try:
            values[name] = None if text is None else reader(str(text))
        except (KeyError, ValueError, ArithmeticError):
            raise invalid(f"Parameter {item.get('name')}: {text!r} is not a {kind}") from None
    return values if parameters[0].get("name") else list(values.values())


# By Arrow's name: the type's text in SQL, and the API's name where that is another.
_TYPES = {
    "int8": ("TINYINT", "BYTE"), "int16": ("SMALLINT", "SHORT"), "int32": ("INT", "INT"),
    "int64": ("BIGINT", "LONG"), "float": ("FLOAT", "FLOAT"), "double": ("DOUBLE", "DOUBLE"),
    "bool": ("BOOLEAN", "BOOLEAN"), "string": ("STRING", "STRING"), "large_string": ("STRING", "STRING"),
    "string_view": ("STRING", "STRING"), "binary": ("BINARY", "BINARY"), "large_binary": ("BINARY", "BINARY"),
    "date32[day]": ("DATE", "DATE"), "null": ("VOID", "NULL"),
}  # fmt: skip


def _columns_of(schema: Any) -> list[shapes.ColumnInfo]:
    """Column descriptions for an Arrow schema."""
    columns = []
    for position, column in enumerate(schema):
        text, name = _type(column.type)
        exact = name == "DECIMAL"
        described = shapes.ColumnInfo(
            name=column.name,
            position=position,
            type_text=text,
            type_name=shapes.ColumnInfoTypeName(name),
            type_precision=column.type.precision if exact else None,
            type_scale=column.type.scale if exact else None,
            type_interval_type=interval_name(column.type) if name == "INTERVAL" else None,
        )
        columns.append(described)
    return columns


def _type(kind: Any) -> tuple[str, str]:
    """The text of an Arrow type in SQL, and its name in the API (databricks-sdk, sql.ColumnInfoTypeName)."""
    import pyarrow.types as is_a

    if is_a.is_timestamp(kind):
        return "TIMESTAMP" if kind.tz else "TIMESTAMP_NTZ", "TIMESTAMP"
    if is_a.is_decimal(kind):
        return f"DECIMAL({kind.precision},{kind.scale})", "DECIMAL"
    if is_a.is_map(kind):
        return f"MAP<{_type(kind.key_type)[0]}, {_type(kind.item_type)[0]}>", "MAP"
    if is_variant(kind):
        return "VARIANT", "USER_DEFINED_TYPE"  # the API's list of names has none for it
    if is_a.is_struct(kind):
        return f"STRUCT<{', '.join(f'{item.name}: {_type(item.type)[0]}' for item in kind)}>", "STRUCT"
    if is_a.is_nested(kind):
        return f"ARRAY<{_type(kind.value_type)[0]}>", "ARRAY"
    if is_interval(kind):
        return f"INTERVAL {interval_name(kind)}", "INTERVAL"
    return _TYPES.get(str(kind)) or (str(kind).upper(), "USER_DEFINED_TYPE")


def _rows_of(table: Any) -> list[list[str | None]]:
    """All values of an Arrow table as strings, NULL as None."""
    columns = [
        [text_of(value, field.type) for value in column.to_pylist()]
        for column, field in zip(readable(table).itercolumns(), table.schema, strict=True)
    ]
    return [list(row) for row in zip(*columns, strict=True)] if columns else []

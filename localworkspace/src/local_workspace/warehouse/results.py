"""Arrow tables as the connector wants them: a Hive schema for the description, LZ4 frames of Arrow
batches.
"""

from __future__ import annotations

from typing import Any


def presentable(table: Any) -> Any:
    """`table` in the Arrow types that Databricks sends: no large or view types, intervals as text."""
    import pyarrow as pa

    fields = [field.with_type(_plain(field.type)) for field in table.schema]
    schema = pa.schema(fields)
    if schema.types == table.schema.types:
        return table
    columns = [_cast(column, field.type) for column, field in zip(table.itercolumns(), fields, strict=True)]
    return pa.Table.from_arrays(columns, schema=schema)


def _cast(column: Any, kind: Any) -> Any:
    import pyarrow as pa
    import pyarrow.types as is_a

    if is_a.is_duration(column.type) or is_a.is_interval(column.type):
        return pa.chunked_array([pa.array([None if v is None else str(v) for v in column.to_pylist()], kind)])
    return column if column.type == kind else column.cast(kind)


def _plain(kind: Any) -> Any:
    import pyarrow as pa
    import pyarrow.types as is_a

    if is_a.is_large_string(kind) or str(kind) == "string_view":
        return pa.string()
    if is_a.is_large_binary(kind) or str(kind) == "binary_view":
        return pa.binary()
    if is_a.is_duration(kind) or is_a.is_interval(kind):
        return pa.string()
    if is_a.is_unsigned_integer(kind):
        return {8: pa.int16(), 16: pa.int32(), 32: pa.int64()}.get(kind.bit_width, pa.decimal128(20, 0))
    return kind


def hive_schema(schema: Any) -> Any:
    """A Thrift TTableSchema for an Arrow schema."""
    from databricks.sql.thrift_api.TCLIService import ttypes

    columns = [
        ttypes.TColumnDesc(columnName=field.name, typeDesc=_type_desc(field.type), position=index, comment="")
        for index, field in enumerate(schema, start=1)
    ]
    return ttypes.TTableSchema(columns=columns)


_HIVE = {
    "bool": "BOOLEAN_TYPE", "int8": "TINYINT_TYPE", "int16": "SMALLINT_TYPE", "int32": "INT_TYPE",
    "int64": "BIGINT_TYPE", "float": "FLOAT_TYPE", "double": "DOUBLE_TYPE", "string": "STRING_TYPE",
    "binary": "BINARY_TYPE", "date32[day]": "DATE_TYPE", "null": "NULL_TYPE",
}  # fmt: skip


def _type_desc(kind: Any) -> Any:
    from databricks.sql.thrift_api.TCLIService import ttypes

    entry = ttypes.TPrimitiveTypeEntry(type=getattr(ttypes.TTypeId, hive_type(kind)))
    if hive_type(kind) == "DECIMAL_TYPE":
        qualifiers = {
            "precision": ttypes.TTypeQualifierValue(i32Value=kind.precision),
            "scale": ttypes.TTypeQualifierValue(i32Value=kind.scale),
        }
        entry.typeQualifiers = ttypes.TTypeQualifiers(qualifiers=qualifiers)
    return ttypes.TTypeDesc(types=[ttypes.TTypeEntry(primitiveEntry=entry)])


def hive_type(kind: Any) -> str:
    """The name of the Thrift type id for an Arrow type."""
    import pyarrow.types as is_a

    for test, name in (
        (is_a.is_timestamp, "TIMESTAMP_TYPE"),
        (is_a.is_decimal, "DECIMAL_TYPE"),
        (is_a.is_map, "MAP_TYPE"),
        (is_a.is_struct, "STRUCT_TYPE"),
        (is_a.is_nested, "ARRAY_TYPE"),
    ):
        if test(kind):
            return name
    return _HIVE.get(str(kind), "STRING_TYPE")


def page_rows(table: Any, offset: int, max_rows: int | None, max_bytes: int | None) -> int:
    """How many rows from `offset` on fit a page of so many rows and (about) bytes; at least one if any is
    left.
    """
    left: int = table.num_rows - offset
    if max_rows and max_rows > 0:
        left = min(left, max_rows)
    if max_bytes and max_bytes > 0 and table.num_rows:
        per_row = max(1, table.nbytes // table.num_rows)
        left = min(left, max(1, max_bytes // per_row))
    return left


def row_set(table: Any, offset: int, rows: int, *, lz4: bool) -> Any:
    """A Thrift TRowSet of `rows` rows from `offset` on."""
    import lz4.frame as frames  # type: ignore[import-untyped] # ships no types
    from databricks.sql.thrift_api.TCLIService import ttypes

    batches = []
    for batch in table.slice(offset, rows).to_batches():
        data = batch.serialize().to_pybytes()
        packed = frames.compress(data) if lz4 else data
        batches.append(ttypes.TSparkArrowBatch(batch=packed, rowCount=batch.num_rows))
    return ttypes.TRowSet(startRowOffset=offset, rows=[], arrowBatches=batches)

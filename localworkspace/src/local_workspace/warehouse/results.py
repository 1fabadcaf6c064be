"""Values of the Thrift service: parameters as SQL literals, results as Arrow, listings as tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import lz4.frame  # type: ignore[import-untyped] # ships no types
import pyarrow as pa
import pyarrow.types as is_a
from databricks.sql.thrift_api.TCLIService import ttypes

from local_workspace.engine import CatalogTree, ColumnInfo, EngineError, StatementResult, TableInfo
from local_workspace.engine.intervals import readable
from local_workspace.engine.literals import RawLiteral, string_literal
from local_workspace.engine.texts import is_variant, text_of

_TYPE = re.compile(r"[A-Za-z_ ]+(\(\s*\d+\s*(,\s*\d+\s*)?\))?")
_INTEGER = re.compile(r"[+-]?\d+")
# java.sql.Types, by SQL type name.
_JDBC = {
    "tinyint": -6, "smallint": 5, "int": 4, "bigint": -5, "float": 6, "double": 8, "decimal": 3, "string": 12,
    "boolean": 16, "date": 91, "timestamp": 93, "timestamp_ntz": 93, "binary": -2, "array": 2003,
    "struct": 2002, "map": 2000,
}  # fmt: skip
_TABLES = (
    "TABLE_CAT TABLE_SCHEM TABLE_NAME TABLE_TYPE REMARKS TYPE_CAT TYPE_SCHEM TYPE_NAME "
    "SELF_REFERENCING_COL_NAME REF_GENERATION"
)
# The columns of GetColumns, with their types where those are not STRING (JDBC's DatabaseMetaData.getColumns).
_COLUMNS = (
    "TABLE_CAT TABLE_SCHEM TABLE_NAME COLUMN_NAME DATA_TYPE:int TYPE_NAME COLUMN_SIZE:int "
    "BUFFER_LENGTH:tinyint DECIMAL_DIGITS:int NUM_PREC_RADIX:int NULLABLE:int REMARKS COLUMN_DEF "
    "SQL_DATA_TYPE:int SQL_DATETIME_SUB:int CHAR_OCTET_LENGTH:int ORDINAL_POSITION:int IS_NULLABLE "
    "SCOPE_CATALOG SCOPE_SCHEMA SCOPE_TABLE SOURCE_DATA_TYPE:smallint IS_AUTO_INCREMENT"
)
_ARROW = {"int": pa.int32(), "tinyint": pa.int8(), "smallint": pa.int16(), "": pa.string()}
# Bytes of a value, and decimal digits, as Spark's own Thrift server says them.
_SIZES = {
    "tinyint": 1, "smallint": 2, "int": 4, "bigint": 8, "float": 4, "double": 8, "boolean": 1, "date": 4,
    "timestamp": 8, "timestamp_ntz": 8,
}  # fmt: skip
_DIGITS = {
    "tinyint": 0, "smallint": 0, "int": 0, "bigint": 0, "boolean": 0, "float": 7, "double": 15,
    "timestamp": 6, "timestamp_ntz": 6,
}  # fmt: skip
_NUMBERS = frozenset({"tinyint", "smallint", "int", "bigint", "float", "double", "decimal"})
_PIECE = re.compile(
    r"(?P<field>`[^`]*`|[^\s<>,:()`]+)\s*:\s*|(?P<comma>,\s*)|(?P<rest>\([^)]*\)|[^<>,:`()]+|[<>])"
)
_HIVE = {
    "bool": "BOOLEAN_TYPE", "int8": "TINYINT_TYPE", "int16": "SMALLINT_TYPE", "int32": "INT_TYPE",
    "int64": "BIGINT_TYPE", "float": "FLOAT_TYPE", "double": "DOUBLE_TYPE", "string": "STRING_TYPE",
    "binary": "BINARY_TYPE", "date32[day]": "DATE_TYPE", "null": "NULL_TYPE",
}  # fmt: skip


def literals_of(parameters: Sequence[Any] | None) -> Mapping[str, RawLiteral] | list[RawLiteral] | None:
    """The literals of Thrift TSparkParameters: by name when they have names, in order when they have none."""
    if not parameters:
        return None
    if all(parameter.name for parameter in parameters):
        return {parameter.name: _literal(parameter) for parameter in parameters}
    return [_literal(parameter) for parameter in parameters]


def _literal(parameter: Any) -> RawLiteral:
    kind = (parameter.type or "STRING").upper()
    if kind.startswith("ARRAY"):
        return RawLiteral(f"array({', '.join(_literal(item) for item in parameter.arguments or [])})")
    if kind.startswith("MAP"):
        return RawLiteral(f"map({', '.join(_literal(item) for item in parameter.arguments or [])})")
    text = _text(parameter.value)
    if text is None or kind == "VOID":
        return RawLiteral("NULL")
    if kind == "STRING":
        return RawLiteral(string_literal(text))
    if not _TYPE.fullmatch(kind):
        raise EngineError.of("INVALID_PARAMETER_VALUE", f"{kind!r} is not a SQL type.", "22023")
    # A plain number may stand where a cast may not (LIMIT). -2147483648 is none: its absolute overflows.
    if kind == "INT" and _INTEGER.fullmatch(text) and abs(int(text)) < 2**31:
        return RawLiteral(str(int(text)))
    return RawLiteral(f"CAST({string_literal(text)} AS {kind})")


def _text(value: Any) -> str | None:
    """The value's text; Thrift parameters carry text, except from old clients."""
    if value is None or isinstance(value, str):
        return value
    if value.stringValue is not None:
        return str(value.stringValue)
    if value.booleanValue is not None:
        return "true" if value.booleanValue else "false"
    return None if value.doubleValue is None else repr(value.doubleValue)


def suited(result: StatementResult, native: Any) -> StatementResult:
    """Return a result in the types that a client takes (TSparkArrowTypes): the others' values as texts.

    These are arrays, maps and structs, as JSON, and the type of NULL.
    """
    table = result.table
    for index, field in enumerate(table.schema):
        nested = is_a.is_nested(field.type) and not native.complexTypesAsArrow and not is_variant(field.type)
        if nested or (is_a.is_null(field.type) and not native.nullTypeAsArrow):
            values = readable(table.select([index])).column(0).to_pylist()
            texts = pa.array([text_of(value, field.type) for value in values], pa.string())
            table = table.set_column(index, pa.field(field.name, pa.string()), texts)
    return replace(result, table=table)


def hive_schema(schema: Any) -> Any:
    """A Thrift TTableSchema for an Arrow schema."""
    columns = [
        ttypes.TColumnDesc(columnName=field.name, typeDesc=_type_desc(field.type), position=index, comment="")
        for index, field in enumerate(schema, start=1)
    ]
    return ttypes.TTableSchema(columns=columns)


def _type_desc(kind: Any) -> Any:
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
    """The number of rows from `offset` on that fit a page of so many rows and bytes; 1 if any is left."""
    left: int = table.num_rows - offset
    if max_rows and max_rows > 0:
        left = min(left, max_rows)
    if max_bytes and max_bytes > 0 and table.num_rows:
        per_row = max(1, table.nbytes // table.num_rows)
        left = min(left, max(1, max_bytes // per_row))
    return left


def row_set(table: Any, offset: int, rows: int, *, compress: bool) -> Any:
    """A Thrift TRowSet of `rows` rows from `offset` on."""
    batches = []
    for batch in table.slice(offset, rows).to_batches():
        data = batch.serialize().to_pybytes()
        packed = lz4.frame.compress(data) if compress else data
        batches.append(ttypes.TSparkArrowBatch(batch=packed, rowCount=batch.num_rows))
    return ttypes.TRowSet(startRowOffset=offset, rows=[], arrowBatches=batches)


def list_catalogs(tree: CatalogTree) -> Any:
    """One row a catalog."""
    return _table("TABLE_CAT", [(name,) for name in sorted(tree.catalogs())])


def list_schemas(tree: CatalogTree, catalog: str | None, schema: str | None) -> Any:
    """One row a schema that matches the patterns."""
    rows = [(name, each) for each, name in _schemas(tree, catalog, schema)]
    return _table("TABLE_SCHEM TABLE_CATALOG", rows)


def list_tables(
    tree: CatalogTree, catalog: str | None, schema: str | None, table: str | None, kinds: list[str] | None
) -> Any:
    """One row a table or view."""
    rows = [
        (info.name.catalog, info.name.schema, info.name.name, info.kind, info.comment or "", *[None] * 5)
        for info in _tables(tree, catalog, schema, table)
        if not kinds or info.kind in kinds
    ]
    return _table(_TABLES, rows)


def list_columns(
    tree: CatalogTree, catalog: str | None, schema: str | None, table: str | None, column: str | None
) -> Any:
    """One row a column."""
    rows: list[tuple[Any, ...]] = []
    for info in _tables(tree, catalog, schema, table):
        rows += [
            (info.name.catalog, info.name.schema, info.name.name, *_column(each, position))
            for position, each in enumerate(info.columns)
            if _matches(each.name, column)
        ]
    return _table(_COLUMNS, rows)


def _column(column: ColumnInfo, position: int) -> tuple[Any, ...]:
    """Return what GetColumns says of a column, after the table's name."""
    kind = re.split(r"[(<]", column.type)[0].lower()
    precision = re.fullmatch(r"decimal\((\d+),\s*(\d+)\)", column.type, re.IGNORECASE)
    size, digits = _SIZES.get(kind), _DIGITS.get(kind)
    if precision:
        size, digits = (8 if int(precision[1]) <= 18 else 16), int(precision[2])
    return (
        column.name, _JDBC.get(kind, 1111), type_name(column.type), size, None, digits,
        10 if kind in _NUMBERS else None, int(column.nullable), column.comment or "", column.default,
        *[None] * 3, position, "YES" if column.nullable else "NO", *[None] * 4, "NO",
    )  # fmt: skip


def type_name(text: str) -> str:
    """Return a type as GetColumns spells it: in capitals, but for the names of fields."""
    return "".join(
        f"{piece['field']}: " if piece["field"] else ", " if piece["comma"] else piece["rest"].upper()
        for piece in _PIECE.finditer(text)
    )


def _schemas(tree: CatalogTree, catalog: str | None, schema: str | None) -> Iterator[tuple[str, str]]:
    for each in sorted(tree.catalogs()):
        if _matches(each, catalog):
            yield from ((each, name) for name in tree.schemas(each) if _matches(name, schema))


def _tables(
    tree: CatalogTree, catalog: str | None, schema: str | None, table: str | None
) -> Iterator[TableInfo]:
    for each, name in _schemas(tree, catalog, schema):
        yield from (info for info in tree.infos(each, name) if _matches(info.name.name, table))


def _matches(name: str, pattern: str | None) -> bool:
    """Return whether a name matches a JDBC pattern (`%` any text, `_` any character, backslash escapes)."""
    if not pattern or pattern == "%":
        return True
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    spelled = "".join({"%": ".*", "_": "."}.get(part) or re.escape(part[-1]) for part in parts)
    return re.fullmatch(spelled, name, re.IGNORECASE) is not None


def _table(header: str, rows: list[tuple[Any, ...]]) -> Any:
    fields = [name.partition(":") for name in header.split()]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(fields)
    arrays = [pa.array(column, _ARROW[kind]) for column, (_, _, kind) in zip(columns, fields, strict=True)]
    return pa.Table.from_arrays(arrays, names=[name for name, _, _ in fields])

"""Thrift's calls and values: calls as bytes, parameters as SQL literals, results as Arrow, listings."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import lz4.frame  # type: ignore[import-untyped] # ships no types
import pyarrow as pa
import pyarrow.types as is_a
from databricks.sql.thrift_api.TCLIService import TCLIService, ttypes
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.Thrift import TApplicationException, TMessageType
from thrift.transport.TTransport import TMemoryBuffer

from local_workspace.engine import CatalogTree, ColumnInfo, EngineError, StatementResult, TableInfo
from local_workspace.engine.deltalog import arrow_sql_type
from local_workspace.engine.literals import RawLiteral, string_literal
from local_workspace.engine.show import rows_of
from local_workspace.engine.texts import is_variant, readable, text_of
from local_workspace.http import Connection

# Of the strict binary protocol: version 1, message type call (Thrift binary protocol specification).
_CALL = 0x80010001
_EXECUTE = b"ExecuteStatement"
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
    "TABLE_CAT TABLE_SCHEM TABLE_NAME COLUMN_NAME DATA_TYPE:int32 TYPE_NAME COLUMN_SIZE:int32 "
    "BUFFER_LENGTH:int8 DECIMAL_DIGITS:int32 NUM_PREC_RADIX:int32 NULLABLE:int32 REMARKS COLUMN_DEF "
    "SQL_DATA_TYPE:int32 SQL_DATETIME_SUB:int32 CHAR_OCTET_LENGTH:int32 ORDINAL_POSITION:int32 IS_NULLABLE "
    "SCOPE_CATALOG SCOPE_SCHEMA SCOPE_TABLE SOURCE_DATA_TYPE:int16 IS_AUTO_INCREMENT"
)
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


class NoCallError(Exception):
    """The bytes are no call of the service; the message is one line."""


def answer(service: Any, body: bytes, connection: Connection | None = None) -> bytes:
    """Let `service` answer the Thrift call in `body`. Raises `NoCallError` when it is none.

    A call that the service does not know gets Thrift's own answer to that.
    """
    outgoing = TMemoryBuffer()
    protocol = _protocol(outgoing)
    name, sequence, arguments = _read_call(body)
    handler = getattr(service, name, None)
    if arguments is None or handler is None:
        kind: int = TMessageType.EXCEPTION
        result: Any = TApplicationException(TApplicationException.UNKNOWN_METHOD, f"Unknown function {name}")
    else:
        kind, result = TMessageType.REPLY, getattr(TCLIService, f"{name}_result")()
        service.caller.connection = connection
        result.success = handler(arguments.req)
    protocol.writeMessageBegin(name, kind, sequence)
    result.write(protocol)
    protocol.writeMessageEnd()
    return bytes(outgoing.getvalue())


def _read_call(body: bytes) -> tuple[str, int, Any]:
    """Return name, sequence number and arguments of a call; no arguments for one that is not known."""
    protocol = _protocol(TMemoryBuffer(body))
    try:
        name, _, sequence = protocol.readMessageBegin()
        made = getattr(TCLIService, f"{name}_args", None)
        arguments = made() if name.isalpha() and made is not None else None
        if arguments is not None:
            arguments.read(protocol)
            if arguments.req is None:
                raise ValueError(f"{name} has no request")
            _require(arguments.req)
    except Exception as error:
        text = " ".join(f"{error}".split()) or "it ends too early"
        raise NoCallError(f"{type(error).__name__}: {text[:200]}") from error
    return name, sequence, arguments


def _require(value: Any) -> None:
    """Raise TProtocolException unless all required fields are there, in structs within as well."""
    value.validate()
    for field in vars(value).values():
        for each in field if isinstance(field, list) else [field]:
            if hasattr(each, "validate"):
                _require(each)


def sql_of(body: bytes) -> str | None:
    """The SQL text in the body of an ExecuteStatement call; None for anything else."""
    if len(body) < 8 or not body.startswith(struct.pack("!I", _CALL)):
        return None
    if body[4:8] != struct.pack("!I", len(_EXECUTE)) or not body.startswith(_EXECUTE, 8):
        return None

    try:
        statement: str = _read_call(body)[2].req.statement
    except NoCallError:  # it will be refused when it is answered
        return None
    return statement


def _protocol(transport: Any) -> Any:
    # thrift 0.25 caps strings at 16 MB; a statement or a result batch may be larger, and we are on loopback.
    return TBinaryProtocol(transport, string_length_limit=None, container_length_limit=None)


# --- parameters and results


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
    """Return the name of the Thrift type id for an Arrow type that is `presentable`."""
    name = re.split(r"[(<]", arrow_sql_type(kind))[0].upper()
    return {"TIMESTAMP_NTZ": "TIMESTAMP_TYPE", "VOID": "NULL_TYPE"}.get(name, f"{name}_TYPE")


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


# --- listings


def list_catalogs(tree: CatalogTree) -> StatementResult:
    """Return a row for each catalog."""
    return _listing("TABLE_CAT", [(name,) for name in sorted(tree.catalogs())])


def list_schemas(tree: CatalogTree, catalog: str | None, schema: str | None) -> StatementResult:
    """Return a row for each schema that matches the patterns."""
    rows = [(name, each) for each, name in _schemas(tree, catalog, schema)]
    return _listing("TABLE_SCHEM TABLE_CATALOG", rows)


def list_tables(
    tree: CatalogTree, catalog: str | None, schema: str | None, table: str | None, kinds: list[str] | None
) -> StatementResult:
    """Return a row for each table or view that matches the patterns."""
    rows = [
        (info.name.catalog, info.name.schema, info.name.name, info.kind, info.comment or "", *[None] * 5)
        for info in _tables(tree, catalog, schema, table)
        if not kinds or info.kind in kinds
    ]
    return _listing(_TABLES, rows)


def list_columns(
    tree: CatalogTree, catalog: str | None, schema: str | None, table: str | None, column: str | None
) -> StatementResult:
    """Return a row for each column that matches the patterns."""
    rows = [
        (info.name.catalog, info.name.schema, info.name.name, *_column(each, position))
        for info in _tables(tree, catalog, schema, table)
        for position, each in enumerate(info.columns)
        if _matches(each.name, column)
    ]
    return _listing(_COLUMNS, rows)


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


def _listing(header: str, rows: list[tuple[Any, ...]]) -> StatementResult:
    """Return rows under names that are strings, or of the type after the colon."""
    columns = (name.partition(":") for name in header.split())
    return rows_of({name: kind or "string" for name, _, kind in columns}, rows)

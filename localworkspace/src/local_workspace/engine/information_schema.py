"""`information_schema` of each catalog, and of `system` for all: what the folder tree says, as tables.

A statement that names one of these gets its rows as a temporary view of the engine's session, made anew each
time, under another name. Columns are those of Databricks' documentation ("Information schema"); of what the
local workspace has not (routines, tags, masks, privileges), there are the columns and no rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .catalog import CatalogTree, ColumnInfo, TableInfo
from .errors import EngineError, only_on_databricks, table_not_found
from .keys import Key
from .names import TableName, quote
from .statements import Statement, parsed, spliced, table_names

if TYPE_CHECKING:
    from .wire import ConnectClient

SCHEMA = "information_schema"
_ALL = "system"
# Names are strings; `:int` and `:time` are other types.
_WHO = "created:time created_by last_altered:time last_altered_by"
_TABLE = "table_catalog table_schema table_name"
_VOLUME = "volume_catalog volume_schema volume_name"
_CONSTRAINT = "constraint_catalog constraint_schema constraint_name"
_ROUTINE = "specific_catalog specific_schema specific_name"
_GRANT = "privilege_type is_grantable inherited_from"
_VIEWS: Mapping[str, str] = {
    "catalogs": f"catalog_name catalog_owner comment {_WHO}",
    "schemata": f"catalog_name schema_name schema_owner comment {_WHO}",
    "tables": f"""{_TABLE} table_type is_insertable_into commit_action table_owner comment {_WHO}
        data_source_format storage_sub_directory storage_path""",
    "columns": f"""{_TABLE} column_name ordinal_position:int column_default is_nullable full_data_type
        data_type character_maximum_length:int character_octet_length:int numeric_precision:int
        numeric_precision_radix:int numeric_scale:int datetime_precision:int interval_type
        interval_precision:int maximum_cardinality:int is_identity identity_generation identity_start
        identity_increment identity_maximum identity_minimum identity_cycle is_generated
        generation_expression is_system_time_period_start is_system_time_period_end
        system_time_period_timestamp_generation is_updatable partition_ordinal_position:int comment""",
    "views": f"""{_TABLE} view_definition check_option is_updatable is_insertable_into sql_path
        is_materialized""",
    "volumes": f"{_VOLUME} volume_type volume_owner comment storage_location {_WHO}",
    "table_constraints": f"""{_CONSTRAINT} {_TABLE} constraint_type is_deferrable initially_deferred enforced
        comment""",
    "check_constraints": f"{_CONSTRAINT} check_clause sql_path",
    "key_column_usage": f"""{_CONSTRAINT} {_TABLE} column_name ordinal_position:int
        position_in_unique_constraint:int""",
    "referential_constraints": f"""{_CONSTRAINT} unique_constraint_catalog unique_constraint_schema
        unique_constraint_name match_option update_rule delete_rule""",
    "constraint_column_usage": f"{_TABLE} column_name {_CONSTRAINT}",
    "constraint_table_usage": f"{_CONSTRAINT} {_TABLE}",
    "routines": f"""{_ROUTINE} routine_catalog routine_schema routine_name routine_owner routine_type
        data_type full_data_type routine_body routine_definition external_name external_language
        parameter_style is_deterministic sql_data_access is_null_call security_type sql_path comment
        {_WHO}""",
    "parameters": f"""{_ROUTINE} ordinal_position:int parameter_mode is_result as_locator parameter_name
        data_type full_data_type parameter_default comment""",
    # Two spellings: as documented, and as dbt reads them.
    "row_filters": f"""catalog_name schema_name {_TABLE} filter_catalog filter_schema filter_name
        filter_col_usage target_columns""",
    "column_masks": f"""catalog_name schema_name {_TABLE} column_name mask_catalog mask_schema mask_name
        mask_col_usage using_columns""",
    "catalog_tags": "catalog_name tag_name tag_value",
    "schema_tags": "catalog_name schema_name tag_name tag_value",
    "table_tags": "catalog_name schema_name table_name tag_name tag_value",
    "column_tags": "catalog_name schema_name table_name column_name tag_name tag_value",
    "volume_tags": "catalog_name schema_name volume_name tag_name tag_value",
    "catalog_privileges": f"grantor grantee catalog_name {_GRANT}",
    "schema_privileges": f"grantor grantee catalog_name schema_name {_GRANT}",
    "table_privileges": f"grantor grantee {_TABLE} {_GRANT}",
    "volume_privileges": f"grantor grantee {_VOLUME} {_GRANT}",
    "routine_privileges": f"grantor grantee {_ROUTINE} {_GRANT}",
}
_SQL_TYPES = {"": "string", "int": "int", "time": "timestamp"}
Row = Mapping[str, Any]


def served(statement: Statement, tree: CatalogTree, client: ConnectClient, current: str) -> Statement:
    """Return a statement that reads views of the session `client` in place of `information_schema`.

    `current` is the catalog of names without one.

    Raises `EngineError` for one that is not there, that is written to, or that a view is made of.
    """
    if SCHEMA not in statement.text.lower() or statement.tokens[0].upper in {"SHOW", "USE", "SET", "COMMENT"}:
        return statement
    from sqlglot import exp

    if (root := parsed(statement.text)) is None:
        return statement  # the engine says what is wrong with it
    places = []
    for table, parts, start, end in table_names(root):
        if is_view(parts):
            _refuse_change(root, table)
            named = table.alias or not isinstance(table.parent, (exp.From, exp.Join))
            view = quote(view_of(parts, tree, client, current))
            places.append((start, end, view if named else f"{view} {quote(parts[-1])}"))
    return Statement.parse(spliced(statement.text, places)) if places else statement


def _refuse_change(root: Any, table: Any) -> None:
    from sqlglot import exp

    if isinstance(root, exp.Create) and root.kind == "VIEW":
        raise only_on_databricks("A view over information_schema")
    if table.arg_key == "this" and isinstance(table.parent, (exp.DML, exp.Create, exp.Drop, exp.Alter)):
        raise EngineError.of("INSUFFICIENT_PERMISSIONS", "information_schema can only be read.", "42501")


def infos(catalog: str) -> Iterator[TableInfo]:
    """Yield the views of a catalog's information schema, as tables are described."""
    for view, columns in _VIEWS.items():
        named = [column.partition(":") for column in columns.split()]
        yield TableInfo(
            name=TableName(catalog, SCHEMA, view),
            kind="VIEW",
            columns=tuple(ColumnInfo(name=name, type=_SQL_TYPES[kind]) for name, _, kind in named),
            location="",
            created_at_ms=0,
            properties={},
        )


def is_view(parts: tuple[str, ...]) -> bool:
    """Tell whether the parts of a name name something in an information schema."""
    return len(parts) in {2, 3} and parts[-2].lower() == SCHEMA


def view_of(parts: tuple[str, ...], tree: CatalogTree, client: ConnectClient, current: str) -> str:
    """Make the temporary view for `[catalog.]information_schema.view`; return its name.

    Raises `EngineError` when there is no such catalog or view.
    """
    catalog = parts[0].lower() if len(parts) == 3 else current
    view = parts[-1].lower()
    if view not in _VIEWS or not (catalog == _ALL or tree.has_catalog(catalog)):
        raise table_not_found(".".join(map(quote, parts)))
    within = tree.catalogs() if catalog == _ALL else [catalog]
    make = _ROWS.get(view)
    rows = [row for each in within for row in make(tree, each, client.user_id)] if make else []
    name = f"__{catalog}_{SCHEMA}_{view}"
    client.create_view(name, _arrow(_VIEWS[view], rows))
    return name


def _arrow(columns: str, rows: list[Row]) -> Any:
    import pyarrow as pa

    types = {"": pa.string(), "int": pa.int32(), "time": pa.timestamp("us", "UTC")}
    fields = [(name, types[kind]) for name, _, kind in (each.partition(":") for each in columns.split())]
    return pa.Table.from_pylist([dict(row) for row in rows], pa.schema(fields))


# --- rows; what is not given is NULL


def _made(user: str, created_ms: int | None = None, altered_ms: int | None = None) -> Row:
    return {
        "created": None if created_ms is None else created_ms * 1000, "created_by": user,
        "last_altered": None if altered_ms is None else altered_ms * 1000, "last_altered_by": user,
    }  # fmt: skip


def _catalogs(tree: CatalogTree, catalog: str, user: str) -> Iterator[Row]:
    yield {
        "catalog_name": catalog, "catalog_owner": user, "comment": tree.comment(catalog), **_made(user)
    }  # fmt: skip


def _schemata(tree: CatalogTree, catalog: str, user: str) -> Iterator[Row]:
    for schema in tree.schemas(catalog):
        yield {
            "catalog_name": catalog, "schema_name": schema, "schema_owner": user,
            "comment": tree.comment(catalog, schema), **_made(user),
        }  # fmt: skip


def _infos(tree: CatalogTree, catalog: str) -> Iterator[TableInfo]:
    for schema in tree.schemas(catalog):
        yield from tree.infos(catalog, schema)


def _named(info: TableInfo) -> Row:
    name = info.name
    return {"table_catalog": name.catalog, "table_schema": name.schema, "table_name": name.name}


def _tables(tree: CatalogTree, catalog: str, user: str) -> Iterator[Row]:
    for info in _infos(tree, catalog):
        view = info.kind == "VIEW"
        yield {
            **_named(info), "table_type": info.table_type, "is_insertable_into": "NO" if view else "YES",
            "commit_action": "PRESERVE", "table_owner": user, "comment": info.comment,
            **_made(user, info.created_at_ms, tree.altered_ms(info.name)),
            "data_source_format": None if view else "DELTA", "storage_path": info.location or None,
        }  # fmt: skip


def _columns(tree: CatalogTree, catalog: str, _user: str) -> Iterator[Row]:
    for info in _infos(tree, catalog):
        for position, column in enumerate(info.columns):
            partition = column.name in info.partition_columns
            yield {
                **_named(info), "column_name": column.name, "ordinal_position": position,
                "column_default": column.default, "is_nullable": "YES" if column.nullable else "NO",
                "full_data_type": column.type, **_type(column), "is_identity": "NO", "is_generated": "NEVER",
                "is_system_time_period_start": "NO", "is_system_time_period_end": "NO",
                "is_updatable": "NO" if info.kind == "VIEW" else "YES", "comment": column.comment,
                "partition_ordinal_position":
                    info.partition_columns.index(column.name) if partition else None,
            }  # fmt: skip


# Decimal digits, or binary digits of a type, as documented for NUMERIC_PRECISION.
_NAMES = {"bigint": "LONG", "smallint": "SHORT", "tinyint": "BYTE"}
_BITS = {"tinyint": 8, "smallint": 16, "int": 32, "bigint": 64, "float": 24, "double": 53}


def _type(column: ColumnInfo) -> Row:
    base = re.split(r"[ (<]", column.type, maxsplit=1)[0]
    found: dict[str, Any] = {"data_type": _NAMES.get(base, base.upper())}
    decimal = re.fullmatch(r"decimal\((\d+),\s*(\d+)\)", column.type)
    if decimal:
        found |= {"numeric_precision": int(decimal[1]), "numeric_precision_radix": 10}
        found["numeric_scale"] = int(decimal[2])
    elif base in _BITS:
        found |= {"numeric_precision": _BITS[base], "numeric_precision_radix": 2}
        found["numeric_scale"] = None if base in {"float", "double"} else 0
    return found


def _view_texts(tree: CatalogTree, catalog: str, _user: str) -> Iterator[Row]:
    for info in _infos(tree, catalog):
        if info.kind == "VIEW":
            yield {
                **_named(info), "view_definition": info.view_definition, "check_option": "NONE",
                "is_updatable": "NO", "is_insertable_into": "NO", "is_materialized": "NO",
            }  # fmt: skip


def _volumes(tree: CatalogTree, catalog: str, user: str) -> Iterator[Row]:
    for path in sorted((tree.root / "Volumes" / catalog).glob("*/*")):
        if path.is_dir():
            yield {
                "volume_catalog": catalog, "volume_schema": path.parent.name, "volume_name": path.name,
                "volume_type": "MANAGED", "volume_owner": user, "storage_location": f"file://{path}",
                **_made(user),
            }  # fmt: skip


def _keys(tree: CatalogTree, catalog: str) -> Iterator[tuple[Key, Row]]:
    for info in _infos(tree, catalog):
        for key in info.keys:
            yield key, {**_named(info), **_constraint(info.name, key.name)}


def _constraint(table: TableName, name: str, prefix: str = "") -> Row:
    return {
        f"{prefix}constraint_catalog": table.catalog, f"{prefix}constraint_schema": table.schema,
        f"{prefix}constraint_name": name,
    }  # fmt: skip


def _table_constraints(tree: CatalogTree, catalog: str, _user: str) -> Iterator[Row]:
    said = {"is_deferrable": "YES", "initially_deferred": "YES", "enforced": "NO"}
    for key, row in _keys(tree, catalog):
        yield {**row, "constraint_type": key.kind, **said}


def _key_columns(tree: CatalogTree, catalog: str, _user: str) -> Iterator[Row]:
    for key, row in _keys(tree, catalog):
        for position, column in enumerate(key.columns, start=1):
            place = position if key.parent else None
            yield {
                **row, "column_name": column, "ordinal_position": position,
                "position_in_unique_constraint": place,
            }  # fmt: skip


def _references(tree: CatalogTree, catalog: str, _user: str) -> Iterator[Row]:
    for key, row in _keys(tree, catalog):
        parent = tree.info(key.parent) if key.parent else None
        primary = next((each for each in (parent.keys if parent else ()) if each.parent is None), None)
        if parent is not None and primary is not None:
            yield {
                **row, **_constraint(parent.name, primary.name, "unique_"), "match_option": "FULL",
                "update_rule": "NO ACTION", "delete_rule": "NO ACTION",
            }  # fmt: skip


def _used(tree: CatalogTree, catalog: str, _user: str) -> Iterator[Row]:
    """Yield the table and each column that a constraint stands on; of a foreign key, its parent's."""
    for key, row in _keys(tree, catalog):
        table = key.parent
        of = {} if table is None else dict(zip(_TABLE.split(), vars(table).values(), strict=True))
        for column in key.parent_columns if table else key.columns:
            yield {**row, **of, "column_name": column}


def _used_tables(tree: CatalogTree, catalog: str, user: str) -> Iterator[Row]:
    rows = ({k: v for k, v in row.items() if k != "column_name"} for row in _used(tree, catalog, user))
    yield from {tuple(row.values()): row for row in rows}.values()


_ROWS: Mapping[str, Callable[[CatalogTree, str, str], Iterator[Row]]] = {
    "catalogs": _catalogs,
    "schemata": _schemata,
    "tables": _tables,
    "columns": _columns,
    "views": _view_texts,
    "volumes": _volumes,
    "table_constraints": _table_constraints,
    "key_column_usage": _key_columns,
    "referential_constraints": _references,
    "constraint_column_usage": _used,
    "constraint_table_usage": _used_tables,
}

"""Unity Catalog API: catalogs, schemas and tables of the engine's folder tree; volumes, which are folders."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from databricks.sdk.service import catalog as shapes
from starlette.routing import Route

from local_workspace.engine import CatalogTree, ColumnInfo, TableInfo
from local_workspace.errors import ApiError, exists, invalid
from local_workspace.http import Call, Json, route
from local_workspace.layout import Layout
from local_workspace.options import USER
from local_workspace.state import Database, now_ms
from local_workspace.workspace import Workspace

Item = TypeVar("Item")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,254}")
_METASTORE = "local"
_PAGE = 1000
_TYPE_NAMES = {
    "bigint": "LONG", "int": "INT", "smallint": "SHORT", "tinyint": "BYTE", "string": "STRING",
    "double": "DOUBLE", "float": "FLOAT", "boolean": "BOOLEAN", "date": "DATE", "timestamp": "TIMESTAMP",
    "timestamp_ntz": "TIMESTAMP_NTZ", "binary": "BINARY", "decimal": "DECIMAL", "array": "ARRAY",
    "struct": "STRUCT", "map": "MAP", "char": "CHAR", "varchar": "STRING", "variant": "VARIANT",
    "interval": "INTERVAL", "void": "NULL",
}  # fmt: skip


class UnityCatalog:
    """The service's functions. A record in the database holds a volume's comment and dates."""

    def __init__(self, tree: CatalogTree, layout: Layout, database: Database) -> None:
        self._tree, self._layout, self._database = tree, layout, database

    # --- catalogs

    def list_catalogs(self, call: Call) -> shapes.ListCatalogsResponse:
        """All catalogs."""
        found, token = _page(call, self._tree.catalogs(), _catalog)
        return shapes.ListCatalogsResponse(catalogs=found, next_page_token=token)

    def get_catalog(self, call: Call) -> shapes.CatalogInfo:
        """One catalog."""
        name = call.text("name").lower()
        self._require_catalog(name)
        return _catalog(name)

    def create_catalog(self, call: Call) -> None:
        """Catalogs are fixed at the start of the workspace: raise ApiError (400)."""
        raise ApiError(
            400,
            "INVALID_STATE",
            f"The local workspace cannot add the catalog {call.body.get('name')!r} while it runs: "
            "start it with --catalog NAME",
        )

    # --- schemas

    def list_schemas(self, call: Call) -> shapes.ListSchemasResponse:
        """The schemas of a catalog."""
        catalog = call.text("catalog_name").lower()
        self._require_catalog(catalog)
        found, token = _page(call, self._tree.schemas(catalog), lambda name: _schema(catalog, name))
        return shapes.ListSchemasResponse(schemas=found, next_page_token=token)

    def get_schema(self, call: Call) -> shapes.SchemaInfo:
        """One schema."""
        catalog, schema = _parts(call, 2)
        self._require_schema(catalog, schema)
        return _schema(catalog, schema)

    def create_schema(self, call: Call) -> shapes.SchemaInfo:
        """Make a schema."""
        catalog, schema = call.text("catalog_name").lower(), _new_name(call)
        self._require_catalog(catalog)
        if not self._tree.create_schema(catalog, schema):
            raise exists(f"Schema '{catalog}.{schema}' already exists")
        return _schema(catalog, schema)

    def delete_schema(self, call: Call) -> None:
        """Drop a schema; with everything in it when `force`."""
        catalog, schema = _parts(call, 2)
        self._require_schema(catalog, schema)
        if self._tree.tables(catalog, schema) and not call.flag("force"):
            raise ApiError(400, "INVALID_STATE", f"Schema '{catalog}.{schema}' is not empty")
        self._tree.drop_schema(catalog, schema, cascade=True)

    # --- tables

    def list_tables(self, call: Call) -> shapes.ListTablesResponse:
        """The tables of a schema, with their columns unless `omit_columns`."""
        catalog, schema = self._schema_of(call)
        omit = call.flag("omit_columns")

        def show(name: str) -> shapes.TableInfo | None:
            found = self._tree.table(catalog, schema, name)
            return _table(catalog, schema, name, found, columns=not omit) if found else None

        tables, token = _page(call, self._tree.tables(catalog, schema), show)
        return shapes.ListTablesResponse(tables=tables, next_page_token=token)

    def get_table(self, call: Call) -> shapes.TableInfo:
        """One table with its columns."""
        catalog, schema, name = _parts(call, 3)
        found = self._find_table(catalog, schema, name)
        if found is None:
            raise _absent("Table", f"{catalog}.{schema}.{name}")
        return _table(catalog, schema, name, found, columns=True)

    def table_exists(self, call: Call) -> shapes.TableExistsResponse:
        """Tell whether a table exists."""
        return shapes.TableExistsResponse(table_exists=self._find_table(*_parts(call, 3)) is not None)

    def _find_table(self, catalog: str, schema: str, name: str) -> TableInfo | None:
        return self._tree.table(catalog, schema, name) if self._tree.has_schema(catalog, schema) else None

    # --- volumes

    def create_volume(self, call: Call) -> shapes.VolumeInfo:
        """Make a managed volume."""
        kind, name = call.text("volume_type"), _new_name(call)
        catalog, schema = self._schema_of(call)
        if kind != "MANAGED":
            raise invalid(f"volume_type {kind} is not supported by the local workspace: use MANAGED")
        try:
            self._folder(catalog, schema, name).mkdir(parents=True)
        except FileExistsError:
            raise exists(f"Volume '{catalog}.{schema}.{name}' already exists") from None
        now = now_ms()
        self._record(
            f"{catalog}.{schema}.{name}",
            {"comment": call.body.get("comment"), "created_at": now, "updated_at": now},
        )
        return self._volume(catalog, schema, name)

    def list_volumes(self, call: Call) -> shapes.ListVolumesResponseContent:
        """The volumes of a schema."""
        catalog, schema = self._schema_of(call)
        parent = self._folder(catalog, schema, "")
        names = [path.name for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
        found, token = _page(call, names, lambda name: self._volume(catalog, schema, name))
        return shapes.ListVolumesResponseContent(volumes=found, next_page_token=token)

    def get_volume(self, call: Call) -> shapes.VolumeInfo:
        """One volume."""
        return self._volume(*self._volume_of(call))

    def update_volume(self, call: Call) -> shapes.VolumeInfo:
        """Change a volume's comment."""
        catalog, schema, name = self._volume_of(call)
        full_name = f"{catalog}.{schema}.{name}"
        changed = {"comment": call.body["comment"]} if "comment" in call.body else {}
        self._record(full_name, {**self._recorded(full_name), **changed, "updated_at": now_ms()})
        return self._volume(catalog, schema, name)

    def delete_volume(self, call: Call) -> None:
        """Drop a volume with its files."""
        catalog, schema, name = self._volume_of(call)
        shutil.rmtree(self._folder(catalog, schema, name))
        self._database.run("DELETE FROM volumes WHERE full_name = ?", f"{catalog}.{schema}.{name}")

    def _folder(self, catalog: str, schema: str, name: str) -> Path:
        return self._layout.volumes / catalog / schema / name

    def _volume_of(self, call: Call) -> list[str]:
        """The parts of a volume's name. Raises ApiError (404) when it does not exist."""
        parts = _parts(call, 3)
        if not self._folder(*parts).is_dir():
            raise _absent("Volume", ".".join(parts))
        return parts

    def _record(self, full_name: str, record: Json) -> None:
        self._database.run("INSERT OR REPLACE INTO volumes VALUES (?, ?)", full_name, json.dumps(record))

    def _recorded(self, full_name: str) -> Json:
        row = self._database.row("SELECT doc FROM volumes WHERE full_name = ?", full_name)
        record: Json = json.loads(row[0]) if row else {}
        return record

    def _volume(self, catalog: str, schema: str, name: str) -> shapes.VolumeInfo:
        full_name = f"{catalog}.{schema}.{name}"
        return shapes.VolumeInfo(
            name=name,
            catalog_name=catalog,
            schema_name=schema,
            full_name=full_name,
            volume_type=shapes.VolumeType.MANAGED,
            volume_id=_id(full_name),
            owner=USER,
            created_by=USER,
            metastore_id=_METASTORE,
            storage_location=f"file://{self._folder(catalog, schema, name)}",
            **self._recorded(full_name),
        )

    # --- names

    def _require_catalog(self, catalog: str) -> None:
        if not self._tree.has_catalog(catalog):
            raise _absent("Catalog", catalog)

    def _require_schema(self, catalog: str, schema: str) -> None:
        self._require_catalog(catalog)
        if not _NAME.fullmatch(schema) or not self._tree.has_schema(catalog, schema):
            raise _absent("Schema", f"{catalog}.{schema}")

    def _schema_of(self, call: Call) -> tuple[str, str]:
        """The `catalog_name` and `schema_name` of a request. Raises ApiError (404) unless they exist."""
        catalog, schema = call.text("catalog_name").lower(), call.text("schema_name").lower()
        self._require_schema(catalog, schema)
        return catalog, schema


def _catalog(name: str) -> shapes.CatalogInfo:
    return shapes.CatalogInfo(
        name=name,
        full_name=name,
        catalog_type=shapes.CatalogType.MANAGED_CATALOG,
        owner=USER,
        metastore_id=_METASTORE,
        securable_type=shapes.SecurableType.CATALOG,
    )


def _schema(catalog: str, name: str) -> shapes.SchemaInfo:
    return shapes.SchemaInfo(
        name=name,
        catalog_name=catalog,
        full_name=f"{catalog}.{name}",
        catalog_type=shapes.CatalogType.MANAGED_CATALOG,
        owner=USER,
        metastore_id=_METASTORE,
        schema_id=_id(f"{catalog}.{name}"),
    )


def _table(catalog: str, schema: str, name: str, table: TableInfo, *, columns: bool) -> shapes.TableInfo:
    full_name = f"{catalog}.{schema}.{name}"
    view = table.view_definition is not None
    return shapes.TableInfo(
        name=name,
        catalog_name=catalog,
        schema_name=schema,
        full_name=full_name,
        table_type=shapes.TableType.VIEW if view else shapes.TableType.MANAGED,
        owner=USER,
        metastore_id=_METASTORE,
        table_id=_id(full_name),
        created_at=table.created_at_ms,
        created_by=USER,
        comment=table.comment,
        properties=dict(table.properties),
        view_definition=table.view_definition,
        data_source_format=None if view else shapes.DataSourceFormat.DELTA,
        storage_location=None if view else f"file://{table.location}",
        columns=[_column(at, column) for at, column in enumerate(table.columns)] if columns else None,
    )


def _column(position: int, column: ColumnInfo) -> shapes.ColumnInfo:
    text = column.type.lower()
    base = re.split(r"[ (<]", text, maxsplit=1)[0]
    decimal = re.fullmatch(r"decimal\((\d+),\s*(\d+)\)", text)
    field = {"name": column.name, "type": text, "nullable": column.nullable, "metadata": {}}
    return shapes.ColumnInfo(
        name=column.name,
        position=position,
        type_text=text,
        type_name=shapes.ColumnTypeName(_TYPE_NAMES.get(base, "USER_DEFINED_TYPE")),
        type_json=json.dumps(field),
        type_precision=int(decimal[1]) if decimal else None,
        type_scale=int(decimal[2]) if decimal else None,
        nullable=column.nullable,
        comment=column.comment or None,
    )


def _page(
    call: Call, names: Iterable[str], show: Callable[[str], Item | None]
) -> tuple[list[Item], str | None]:
    """One page of a listing, and the token of the next: the last name of this one."""
    limit = min(call.number("max_results", 0) or _PAGE, _PAGE)
    after = call.query.get("page_token", "")
    ordered = sorted(name for name in names if name > after)
    found = [item for name in ordered[:limit] if (item := show(name)) is not None]
    return found, ordered[limit - 1] if len(ordered) > limit else None


def _parts(call: Call, count: int) -> list[str]:
    """The parts of the full name in the path. Raises ApiError (400)."""
    found = call.text("full_name").lower().split(".")
    if len(found) != count or not all(_NAME.fullmatch(part) for part in found):
        raise invalid(f"'{call.text('full_name')}' is not a name with {count} parts")
    return found


def _new_name(call: Call) -> str:
    """A new object's name, folded as Unity Catalog does. Raises ApiError (400)."""
    name = call.text("name")
    if not _NAME.fullmatch(name):
        raise invalid(f"Invalid name {name!r}: use letters, digits, underscores and dashes")
    return name.lower()


def _id(full_name: str) -> str:
    """A stable id for an object."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, full_name))


def _absent(kind: str, full_name: str) -> ApiError:
    """404 for an object that does not exist; the code is Unity Catalog's."""
    return ApiError(404, f"{kind.upper()}_DOES_NOT_EXIST", f"{kind} '{full_name}' does not exist.")


def routes(workspace: Workspace) -> list[Route]:
    """The routes of `/api/2.1/unity-catalog`."""
    service = UnityCatalog(workspace.engine.catalog, workspace.layout, workspace.database)
    base = "/api/2.{minor:int}/unity-catalog"
    return [
        route("GET", f"{base}/catalogs", service.list_catalogs),
        route("POST", f"{base}/catalogs", service.create_catalog),
        route("GET", f"{base}/catalogs/{{name}}", service.get_catalog),
        route("GET", f"{base}/schemas", service.list_schemas),
        route("POST", f"{base}/schemas", service.create_schema),
        route("GET", f"{base}/schemas/{{full_name}}", service.get_schema),
        route("DELETE", f"{base}/schemas/{{full_name}}", service.delete_schema),
        route("GET", f"{base}/tables", service.list_tables),
        route("GET", f"{base}/tables/{{full_name}}", service.get_table),
        route("GET", f"{base}/tables/{{full_name}}/exists", service.table_exists),
        route("GET", f"{base}/volumes", service.list_volumes),
        route("POST", f"{base}/volumes", service.create_volume),
        route("GET", f"{base}/volumes/{{full_name}}", service.get_volume),
        route("PATCH", f"{base}/volumes/{{full_name}}", service.update_volume),
        route("DELETE", f"{base}/volumes/{{full_name}}", service.delete_volume),
    ]

"""Unity Catalog API: catalogs, schemas and tables of the engine's folder tree."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from databricks.sdk.service import catalog as shapes
from starlette.routing import Route

from local_workspace.engine import ColumnInfo, TableInfo
from local_workspace.errors import ApiError, exists, invalid
from local_workspace.http import Call, Json, route
from local_workspace.options import USER
from local_workspace.state import now_ms
from local_workspace.workspace import Workspace

Item = TypeVar("Item")

BASE = "/api/2.{minor:int}/unity-catalog"
METASTORE = "local"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,254}")
_PAGE = 1000
_TYPE_NAMES = {
    "bigint": "LONG", "int": "INT", "smallint": "SHORT", "tinyint": "BYTE", "string": "STRING",
    "double": "DOUBLE", "float": "FLOAT", "boolean": "BOOLEAN", "date": "DATE", "timestamp": "TIMESTAMP",
    "timestamp_ntz": "TIMESTAMP_NTZ", "binary": "BINARY", "decimal": "DECIMAL", "array": "ARRAY",
    "struct": "STRUCT", "map": "MAP", "char": "CHAR", "varchar": "STRING", "variant": "VARIANT",
    "interval": "INTERVAL", "void": "NULL",
}  # fmt: skip


class Securables:
    """The folder tree, and a record in the database for what folders cannot say: owner, dates, properties."""

    def __init__(self, workspace: Workspace) -> None:
        self.tree, self._database = workspace.engine.catalog, workspace.database

    def record(self, full_name: str, **changes: object) -> None:
        """Change what is kept of an object; the first time is its making."""
        now = now_ms()
        kept = {"created_at": now, **self.recorded(full_name), **changes, "updated_at": now}
        self._database.run("INSERT OR REPLACE INTO volumes VALUES (?, ?)", full_name, json.dumps(kept))

    def recorded(self, full_name: str) -> Json:
        """Return the record of an object; empty if there is none."""
        row = self._database.row("SELECT doc FROM volumes WHERE full_name = ?", full_name)
        record: Json = json.loads(row[0]) if row else {}
        return record

    def forget(self, full_name: str) -> None:
        """Drop what is kept of an object and of what is in it."""
        self._database.run(
            "DELETE FROM volumes WHERE full_name = ?1 OR substr(full_name, 1, length(?1) + 1) = ?1 || '.'",
            full_name,
        )

    def volumes(self, catalog: str, schema: str) -> Path:
        """The folder of a schema's volumes, which may be missing."""
        return self.tree.root / "Volumes" / catalog / schema

    def catalog(self, name: str) -> str:
        """A catalog's name in lower case. Raises ApiError (404) unless there is such a catalog."""
        if not self.tree.has_catalog(name.lower()):
            raise absent("Catalog", name.lower())
        return name.lower()

    def schema(self, catalog: str, name: str) -> tuple[str, str]:
        """The names of a catalog and its schema in lower case. Raises ApiError (404) unless both exist."""
        found, schema = self.catalog(catalog), name.lower()
        if not _NAME.fullmatch(schema) or not self.tree.has_schema(found, schema):
            raise absent("Schema", f"{found}.{schema}")
        return found, schema

    def schema_of(self, call: Call) -> tuple[str, str]:
        """The `catalog_name` and `schema_name` of a request. Raises ApiError (404) unless they exist."""
        return self.schema(call.text("catalog_name"), call.text("schema_name"))


def page(
    call: Call, names: Iterable[str], show: Callable[[str], Item | None]
) -> tuple[list[Item], str | None]:
    """One page of a listing, and the token of the next: the last name of this one."""
    limit = min(call.number("max_results", 0) or _PAGE, _PAGE)
    after = call.query.get("page_token", "")
    ordered = sorted(name for name in names if name > after)
    found = [item for name in ordered[:limit] if (item := show(name)) is not None]
    return found, ordered[limit - 1] if len(ordered) > limit else None


def parts(call: Call, count: int) -> list[str]:
    """The parts of the full name in the path. Raises ApiError (400)."""
    found = call.text("full_name").lower().split(".")
    if len(found) != count or not all(_NAME.fullmatch(part) for part in found):
        raise invalid(f"'{call.text('full_name')}' is not a name with {count} parts")
    return found


def new_name(call: Call, field: str = "name") -> str:
    """A new object's name, folded as Unity Catalog does. Raises ApiError (400)."""
    name = call.text(field)
    if not _NAME.fullmatch(name):
        raise invalid(f"Invalid name {name!r}: use letters, digits, underscores and dashes")
    return name.lower()


def object_id(full_name: str) -> str:
    """A stable id for an object."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, full_name))


def absent(kind: str, full_name: str) -> ApiError:
    """404 for an object that does not exist; the code is Unity Catalog's."""
    return ApiError(404, f"{kind.upper()}_DOES_NOT_EXIST", f"{kind} '{full_name}' does not exist.")


class UnityCatalog:
    """The service's functions."""

    def __init__(self, securables: Securables) -> None:
        self._securables, self._tree = securables, securables.tree

    # --- catalogs

    def list_catalogs(self, call: Call) -> shapes.ListCatalogsResponse:
        """All catalogs."""
        found, token = page(call, self._tree.catalogs(), _catalog)
        return shapes.ListCatalogsResponse(catalogs=found, next_page_token=token)

    def get_catalog(self, call: Call) -> shapes.CatalogInfo:
        """One catalog."""
        return _catalog(self._securables.catalog(call.text("name")))

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
        catalog = self._securables.catalog(call.text("catalog_name"))
        found, token = page(call, self._tree.schemas(catalog), lambda name: self._schema(catalog, name))
        return shapes.ListSchemasResponse(schemas=found, next_page_token=token)

    def get_schema(self, call: Call) -> shapes.SchemaInfo:
        """One schema."""
        return self._schema(*self._securables.schema(*parts(call, 2)))

    def create_schema(self, call: Call) -> shapes.SchemaInfo:
        """Make a schema."""
        schema, catalog = new_name(call), self._securables.catalog(call.text("catalog_name"))
        if not self._tree.create_schema(catalog, schema):
            raise exists(f"Schema '{catalog}.{schema}' already exists")
        self._securables.forget(f"{catalog}.{schema}")  # what SQL may have left of a former one
        return self._change(catalog, schema, call)

    def update_schema(self, call: Call) -> shapes.SchemaInfo:
        """Change a schema's comment, owner or properties."""
        return self._change(*self._securables.schema(*parts(call, 2)), call)

    def _change(self, catalog: str, schema: str, call: Call) -> shapes.SchemaInfo:
        if "comment" in call.body:
            self._tree.set_comment(call.body["comment"], catalog, schema)
        kept = {field: call.body[field] for field in ("owner", "properties") if field in call.body}
        self._securables.record(f"{catalog}.{schema}", **kept)
        return self._schema(catalog, schema)

    def _schema(self, catalog: str, name: str) -> shapes.SchemaInfo:
        full_name = f"{catalog}.{name}"
        return shapes.SchemaInfo(
            name=name,
            catalog_name=catalog,
            full_name=full_name,
            catalog_type=shapes.CatalogType.MANAGED_CATALOG,
            comment=self._tree.comment(catalog, name),
            created_by=USER,
            updated_by=USER,
            browse_only=False,
            metastore_id=METASTORE,
            schema_id=object_id(full_name),
            **{"owner": USER, **self._securables.recorded(full_name)},
        )

    def delete_schema(self, call: Call) -> None:
        """Drop a schema; with everything in it when `force`."""
        catalog, schema = self._securables.schema(*parts(call, 2))
        volumes = self._securables.volumes(catalog, schema)
        full = self._tree.tables(catalog, schema) or (volumes.is_dir() and any(volumes.iterdir()))
        if full and not call.flag("force"):
            raise ApiError(400, "INVALID_STATE", f"Schema '{catalog}.{schema}' is not empty")
        self._tree.drop_schema(catalog, schema, cascade=True)
        shutil.rmtree(volumes, ignore_errors=True)
        self._securables.forget(f"{catalog}.{schema}")

    # --- tables

    def list_tables(self, call: Call) -> shapes.ListTablesResponse:
        """The tables of a schema, with their columns unless `omit_columns`."""
        catalog, schema = self._securables.schema_of(call)
        omit = call.flag("omit_columns")

        def show(name: str) -> shapes.TableInfo | None:
            found = self._tree.table(catalog, schema, name)
            if found is None:
                return None
            shown = _table([catalog, schema, name], found, columns=not omit)
            if call.flag("omit_properties"):
                shown.properties = None
            if call.flag("omit_username"):
                shown.owner = shown.created_by = None
            return shown

        tables, token = page(call, self._tree.tables(catalog, schema), show)
        return shapes.ListTablesResponse(tables=tables, next_page_token=token)

    def get_table(self, call: Call) -> shapes.TableInfo:
        """One table with its columns."""
        return _table(parts(call, 3), self._existing_table(call), columns=True)

    def delete_table(self, call: Call) -> None:
        """Drop a table or view."""
        found = self._existing_table(call)
        drop = self._tree.drop_table if found.view_definition is None else self._tree.drop_view
        drop(found.name)

    def table_exists(self, call: Call) -> shapes.TableExistsResponse:
        """Tell whether a table exists."""
        return shapes.TableExistsResponse(table_exists=self._table(call) is not None)

    def _table(self, call: Call) -> TableInfo | None:
        catalog, schema, name = parts(call, 3)
        return self._tree.table(catalog, schema, name) if self._tree.has_schema(catalog, schema) else None

    def _existing_table(self, call: Call) -> TableInfo:
        found = self._table(call)
        if found is None:
            raise absent("Table", ".".join(parts(call, 3)))
        return found


def _catalog(name: str) -> shapes.CatalogInfo:
    return shapes.CatalogInfo(
        name=name,
        full_name=name,
        catalog_type=shapes.CatalogType.MANAGED_CATALOG,
        owner=USER,
        metastore_id=METASTORE,
        securable_type=shapes.SecurableType.CATALOG,
    )


def _table(name: Sequence[str], table: TableInfo, *, columns: bool) -> shapes.TableInfo:
    full_name, view = ".".join(name), table.view_definition is not None
    return shapes.TableInfo(
        name=name[2],
        catalog_name=name[0],
        schema_name=name[1],
        full_name=full_name,
        table_type=shapes.TableType.VIEW if view else shapes.TableType.MANAGED,
        owner=USER,
        metastore_id=METASTORE,
        table_id=object_id(full_name),
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


def routes(workspace: Workspace) -> list[Route]:
    """The routes of `/api/2.1/unity-catalog`."""
    service, base = UnityCatalog(Securables(workspace)), BASE
    return [
        route("GET", f"{base}/catalogs", service.list_catalogs),
        route("POST", f"{base}/catalogs", service.create_catalog),
        route("GET", f"{base}/catalogs/{{name}}", service.get_catalog),
        route("GET", f"{base}/schemas", service.list_schemas),
        route(
            "POST",
            f"{base}/schemas",
            service.create_schema,
            refuses="storage_root custom_max_retention_hours",
        ),
        route(
            "PATCH",
            f"{base}/schemas/{{full_name}}",
            service.update_schema,
            refuses="new_name custom_max_retention_hours enable_predictive_optimization",
        ),
        route("GET", f"{base}/schemas/{{full_name}}", service.get_schema),
        route("DELETE", f"{base}/schemas/{{full_name}}", service.delete_schema),
        route("GET", f"{base}/tables", service.list_tables),
        route("GET", f"{base}/tables/{{full_name}}", service.get_table, refuses="include_delta_metadata"),
        route("DELETE", f"{base}/tables/{{full_name}}", service.delete_table),
        route("GET", f"{base}/tables/{{full_name}}/exists", service.table_exists),
    ]

"""Unity Catalog API: catalogs, schemas, tables; a view of the engine's folder tree."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterable

from starlette.routing import Route

from local_workspace.errors import ApiError, exists, invalid
from local_workspace.seam import Catalog, Column, Table
from local_workspace.services.identity import USER
from local_workspace.web import Call, Json, route

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,254}")
METASTORE = "local"
_PAGE = 1000


class Objects:
    """Catalogs, schemas and tables."""

    def __init__(self, tree: Catalog) -> None:
        self._tree = tree

    def catalogs(self, call: Call) -> Json:
        """All catalogs."""
        return page(call, "catalogs", self._tree.catalogs(), self._catalog)

    def catalog(self, call: Call) -> Json:
        """One catalog."""
        name = call.text("name").lower()
        require_catalog(self._tree, name)
        return self._catalog(name)

    def no_catalog(self, call: Call) -> Json:
        """Catalogs are fixed at the start of the workspace."""
        raise ApiError(
            400,
            "INVALID_STATE",
            f"The local workspace cannot add the catalog {call.body.get('name')!r} while it runs: "
            "start it with --catalog NAME",
        )

    def schemas(self, call: Call) -> Json:
        """The schemas of a catalog."""
        catalog = call.text("catalog_name").lower()
        require_catalog(self._tree, catalog)
        names = self._tree.schemas(catalog)
        return page(call, "schemas", names, lambda name: self._schema(catalog, name))

    def schema(self, call: Call) -> Json:
        """One schema."""
        catalog, schema = parts(call, 2)
        require_schema(self._tree, catalog, schema)
        return self._schema(catalog, schema)

    def create_schema(self, call: Call) -> Json:
        """Make a schema."""
        catalog, schema = call.text("catalog_name").lower(), checked(call.text("name"))
        require_catalog(self._tree, catalog)
        if not self._tree.create_schema(catalog, schema):
            raise exists(f"Schema '{catalog}.{schema}' already exists")
        return self._schema(catalog, schema)

    def delete_schema(self, call: Call) -> Json:
        """Drop a schema; with everything in it when `force`."""
        catalog, schema = parts(call, 2)
        require_schema(self._tree, catalog, schema)
        if self._tree.tables(catalog, schema) and not call.flag("force"):
            raise ApiError(400, "INVALID_STATE", f"Schema '{catalog}.{schema}' is not empty")
        self._tree.drop_schema(catalog, schema, cascade=True)
        return {}

    def tables(self, call: Call) -> Json:
        """The tables of a schema, with their columns unless `omit_columns`."""
        catalog, schema = call.text("catalog_name").lower(), call.text("schema_name").lower()
        require_schema(self._tree, catalog, schema)
        omit = call.flag("omit_columns")

        def show(name: str) -> Json | None:
            found: Table | None = self._tree.table(catalog, schema, name)
            return table_document(catalog, schema, name, found, columns=not omit) if found else None

        return page(call, "tables", self._tree.tables(catalog, schema), show)

    def table(self, call: Call) -> Json:
        """One table with its columns."""
        catalog, schema, name = parts(call, 3)
        found = self._tree.table(catalog, schema, name) if self._tree.has_schema(catalog, schema) else None
        if found is None:
            raise absent("Table", f"{catalog}.{schema}.{name}")
        return table_document(catalog, schema, name, found, columns=True)

    def table_exists(self, call: Call) -> Json:
        """Whether a table exists."""
        catalog, schema, name = parts(call, 3)
        there = self._tree.has_schema(catalog, schema) and self._tree.table(catalog, schema, name) is not None
        return {"table_exists": there}

    def _catalog(self, name: str) -> Json:
        return {
            "name": name,
            "full_name": name,
            "catalog_type": "MANAGED_CATALOG",
            "owner": USER,
            "metastore_id": METASTORE,
            "securable_type": "CATALOG",
        }

    def _schema(self, catalog: str, name: str) -> Json:
        return {
            "name": name,
            "catalog_name": catalog,
            "full_name": f"{catalog}.{name}",
            "catalog_type": "MANAGED_CATALOG",
            "owner": USER,
            "metastore_id": METASTORE,
            "schema_id": identity(f"{catalog}.{name}"),
        }


def table_document(catalog: str, schema: str, name: str, table: Table, *, columns: bool) -> Json:
    """A table as Unity Catalog shows it."""
    full_name = f"{catalog}.{schema}.{name}"
    view = table.view_definition is not None
    document: Json = {
        "name": name,
        "catalog_name": catalog,
        "schema_name": schema,
        "full_name": full_name,
        "table_type": "VIEW" if view else "MANAGED",
        "owner": USER,
        "metastore_id": METASTORE,
        "table_id": identity(full_name),
        "created_at": table.created_at_ms,
        "created_by": USER,
        "comment": table.comment,
        "properties": dict(table.properties),
    }
    if view:
        document["view_definition"] = table.view_definition
    else:
        document |= {"data_source_format": "DELTA", "storage_location": f"file://{table.location}"}
    if columns:
        document["columns"] = [_column(at, column) for at, column in enumerate(table.columns)]
    return {key: value for key, value in document.items() if value is not None}


_TYPE_NAMES = {
    "bigint": "LONG", "int": "INT", "smallint": "SHORT", "tinyint": "BYTE", "string": "STRING",
    "double": "DOUBLE", "float": "FLOAT", "boolean": "BOOLEAN", "date": "DATE", "timestamp": "TIMESTAMP",
    "timestamp_ntz": "TIMESTAMP_NTZ", "binary": "BINARY", "decimal": "DECIMAL", "array": "ARRAY",
    "struct": "STRUCT", "map": "MAP", "char": "CHAR", "varchar": "STRING", "variant": "VARIANT",
    "interval": "INTERVAL", "void": "NULL",
}  # fmt: skip


def _column(position: int, column: Column) -> Json:
    text = column.type.lower()
    base = re.split(r"[ (<]", text, maxsplit=1)[0]
    document: Json = {
        "name": column.name,
        "position": position,
        "type_text": text,
        "type_name": _TYPE_NAMES.get(base, "USER_DEFINED_TYPE"),
        "type_json": json.dumps(
            {"name": column.name, "type": text, "nullable": column.nullable, "metadata": {}}
        ),
        "nullable": column.nullable,
    }
    if decimal := re.fullmatch(r"decimal\((\d+),\s*(\d+)\)", text):
        document |= {"type_precision": int(decimal[1]), "type_scale": int(decimal[2])}
    return document | ({"comment": column.comment} if column.comment else {})


def page(call: Call, field: str, names: Iterable[str], show: Callable[[str], Json | None]) -> Json:
    """One page of a listing; `page_token` is the last name of the page before."""
    limit = min(call.number("max_results", 0) or _PAGE, _PAGE)
    after = call.query.get("page_token", "")
    ordered = sorted(name for name in names if name > after)
    shown = [document for name in ordered[:limit] if (document := show(name)) is not None]
    reply: Json = {field: shown} if shown else {}
    return reply | ({"next_page_token": ordered[limit - 1]} if len(ordered) > limit else {})


def parts(call: Call, count: int) -> list[str]:
    """The parts of a full name in the path. Raises ApiError (400)."""
    found = call.text("full_name").lower().split(".")
    if len(found) != count or not all(NAME.fullmatch(part) for part in found):
        raise invalid(f"'{call.text('full_name')}' is not a name with {count} parts")
    return found


def checked(name: str) -> str:
    """A new object's name, folded as Unity Catalog does. Raises ApiError (400)."""
    if not NAME.fullmatch(name):
        raise invalid(f"Invalid name {name!r}: use letters, digits, underscores and dashes")
    return name.lower()


def identity(full_name: str) -> str:
    """A stable id for an object."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, full_name))


def absent(kind: str, full_name: str) -> ApiError:
    """404 for an object that does not exist; the code is Unity Catalog's."""
    return ApiError(404, f"{kind.upper()}_DOES_NOT_EXIST", f"{kind} '{full_name}' does not exist.")


def require_catalog(tree: Catalog, catalog: str) -> None:
    """Raises ApiError (404) unless the catalog exists."""
    if not tree.has_catalog(catalog):
        raise absent("Catalog", catalog)


def require_schema(tree: Catalog, catalog: str, schema: str) -> None:
    """Raises ApiError (404) unless catalog and schema exist."""
    require_catalog(tree, catalog)
    if not NAME.fullmatch(schema) or not tree.has_schema(catalog, schema):
        raise absent("Schema", f"{catalog}.{schema}")


def routes(tree: Catalog) -> list[Route]:
    """The routes of `/api/2.1/unity-catalog` for catalogs, schemas and tables."""
    objects = Objects(tree)
    base = "/api/2.{minor:int}/unity-catalog"
    return [
        route("GET", f"{base}/catalogs", objects.catalogs),
        route("POST", f"{base}/catalogs", objects.no_catalog),
        route("GET", f"{base}/catalogs/{{name}}", objects.catalog),
        route("GET", f"{base}/schemas", objects.schemas),
        route("POST", f"{base}/schemas", objects.create_schema),
        route("GET", f"{base}/schemas/{{full_name}}", objects.schema),
        route("DELETE", f"{base}/schemas/{{full_name}}", objects.delete_schema),
        route("GET", f"{base}/tables", objects.tables),
        route("GET", f"{base}/tables/{{full_name}}", objects.table),
        route("GET", f"{base}/tables/{{full_name}}/exists", objects.table_exists),
    ]

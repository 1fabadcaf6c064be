"""Unity Catalog API: volumes. A volume is a folder; a record holds its comment and dates."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from starlette.routing import Route

from local_workspace.errors import exists, invalid
from local_workspace.layout import Layout
from local_workspace.seam import Catalog
from local_workspace.services.catalog import METASTORE, absent, checked, identity, page, parts, require_schema
from local_workspace.services.identity import USER
from local_workspace.state import Database
from local_workspace.web import Call, Json, route


class Volumes:
    """The service's functions."""

    def __init__(self, layout: Layout, tree: Catalog, database: Database, now: Callable[[], int]) -> None:
        self._layout, self._tree, self._database, self._now = layout, tree, database, now

    def create(self, call: Call) -> Json:
        """Make a managed volume."""
        catalog, schema = call.text("catalog_name").lower(), call.text("schema_name").lower()
        name, kind = checked(call.text("name")), call.text("volume_type")
        require_schema(self._tree, catalog, schema)
        if kind != "MANAGED":
            raise invalid(f"volume_type {kind} is not supported by the local workspace: use MANAGED")
        try:
            self._folder(catalog, schema, name).mkdir(parents=True)
        except FileExistsError:
            raise exists(f"Volume '{catalog}.{schema}.{name}' already exists") from None
        now = self._now()
        record = {"comment": call.body.get("comment"), "created_at": now, "updated_at": now}
        self._database.run(
            "INSERT OR REPLACE INTO volumes VALUES (?, ?)", f"{catalog}.{schema}.{name}", json.dumps(record)
        )
        return self._document(catalog, schema, name)

    def list(self, call: Call) -> Json:
        """The volumes of a schema."""
        catalog, schema = call.text("catalog_name").lower(), call.text("schema_name").lower()
        require_schema(self._tree, catalog, schema)
        parent = self._folder(catalog, schema, "")
        names = [path.name for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
        return page(call, "volumes", names, lambda name: self._document(catalog, schema, name))

    def get(self, call: Call) -> Json:
        """One volume."""
        catalog, schema, name = parts(call, 3)
        self._require(catalog, schema, name)
        return self._document(catalog, schema, name)

    def update(self, call: Call) -> Json:
        """Change a volume's comment."""
        catalog, schema, name = parts(call, 3)
        self._require(catalog, schema, name)
        record = self._record(catalog, schema, name) | {"updated_at": self._now()}
        record |= {"comment": call.body["comment"]} if "comment" in call.body else {}
        self._database.run(
            "INSERT OR REPLACE INTO volumes VALUES (?, ?)", f"{catalog}.{schema}.{name}", json.dumps(record)
        )
        return self._document(catalog, schema, name)

    def delete(self, call: Call) -> Json:
        """Drop a volume with its files."""
        catalog, schema, name = parts(call, 3)
        self._require(catalog, schema, name)
        shutil.rmtree(self._folder(catalog, schema, name))
        self._database.run("DELETE FROM volumes WHERE full_name = ?", f"{catalog}.{schema}.{name}")
        return {}

    def _folder(self, catalog: str, schema: str, name: str) -> Path:
        return self._layout.volumes / catalog / schema / name

    def _require(self, catalog: str, schema: str, name: str) -> None:
        if not self._folder(catalog, schema, name).is_dir():
            raise absent("Volume", f"{catalog}.{schema}.{name}")

    def _record(self, catalog: str, schema: str, name: str) -> Json:
        row = self._database.row("SELECT doc FROM volumes WHERE full_name = ?", f"{catalog}.{schema}.{name}")
        record: Json = json.loads(row[0]) if row else {}
        return record

    def _document(self, catalog: str, schema: str, name: str) -> Json:
        full_name = f"{catalog}.{schema}.{name}"
        document = {
            "name": name,
            "catalog_name": catalog,
            "schema_name": schema,
            "full_name": full_name,
            "volume_type": "MANAGED",
            "volume_id": identity(full_name),
            "owner": USER,
            "created_by": USER,
            "metastore_id": METASTORE,
            "storage_location": f"file://{self._folder(catalog, schema, name)}",
            **self._record(catalog, schema, name),
        }
        return {key: value for key, value in document.items() if value is not None}


def routes(layout: Layout, tree: Catalog, database: Database, now: Callable[[], int]) -> list[Route]:
    """The routes of `/api/2.1/unity-catalog/volumes`."""
    volumes = Volumes(layout, tree, database, now)
    base = "/api/2.{minor:int}/unity-catalog/volumes"
    return [
        route("GET", base, volumes.list),
        route("POST", base, volumes.create),
        route("GET", f"{base}/{{full_name}}", volumes.get),
        route("PATCH", f"{base}/{{full_name}}", volumes.update),
        route("DELETE", f"{base}/{{full_name}}", volumes.delete),
    ]

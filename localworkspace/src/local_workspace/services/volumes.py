"""Unity Catalog API: volumes, which are folders."""

from __future__ import annotations

import shutil
from pathlib import Path

from databricks.sdk.service import catalog as shapes
from starlette.routing import Route

from local_workspace.errors import exists, invalid
from local_workspace.http import Call, Json, route
from local_workspace.options import USER
from local_workspace.services.unity_catalog import (
    BASE,
    METASTORE,
    Securables,
    absent,
    new_name,
    object_id,
    page,
    parts,
)
from local_workspace.workspace import Workspace


class Volumes:
    """The service's functions."""

    def __init__(self, securables: Securables) -> None:
        self._securables = securables

    def create_volume(self, call: Call) -> shapes.VolumeInfo:
        """Make a managed volume."""
        kind, name = call.text("volume_type"), new_name(call)
        catalog, schema = self._securables.schema_of(call)
        if kind != "MANAGED":
            raise invalid(f"volume_type {kind} is not supported by the local workspace: use MANAGED")
        full_name = f"{catalog}.{schema}.{name}"
        try:
            self._folder(catalog, schema, name).mkdir(parents=True)
        except FileExistsError:
            raise exists(f"Volume '{full_name}' already exists") from None
        self._securables.record(full_name, comment=call.body.get("comment"))
        return self._volume(catalog, schema, name)

    def list_volumes(self, call: Call) -> shapes.ListVolumesResponseContent:
        """The volumes of a schema."""
        catalog, schema = self._securables.schema_of(call)
        parent = self._securables.volumes(catalog, schema)
        names = [path.name for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
        found, token = page(call, names, lambda name: self._volume(catalog, schema, name))
        return shapes.ListVolumesResponseContent(volumes=found, next_page_token=token)

    def get_volume(self, call: Call) -> shapes.VolumeInfo:
        """One volume."""
        return self._volume(*self._volume_of(call))

    def update_volume(self, call: Call) -> shapes.VolumeInfo:
        """Change a volume's comment, owner or name."""
        catalog, schema, name = self._volume_of(call)
        full_name = f"{catalog}.{schema}.{name}"
        changed: Json = {field: call.body[field] for field in ("comment", "owner") if field in call.body}
        if call.body.get("new_name"):
            renamed = new_name(call, "new_name")
            target = self._folder(catalog, schema, renamed)
            if target.exists():
                raise exists(f"Volume '{catalog}.{schema}.{renamed}' already exists")
            changed = {**self._securables.recorded(full_name), **changed}
            self._folder(catalog, schema, name).rename(target)
            self._securables.forget(full_name)
            name, full_name = renamed, f"{catalog}.{schema}.{renamed}"
        self._securables.record(full_name, **changed)
        return self._volume(catalog, schema, name)

    def delete_volume(self, call: Call) -> None:
        """Drop a volume with its files."""
        catalog, schema, name = self._volume_of(call)
        shutil.rmtree(self._folder(catalog, schema, name))
        self._securables.forget(f"{catalog}.{schema}.{name}")

    def _folder(self, catalog: str, schema: str, name: str) -> Path:
        return self._securables.volumes(catalog, schema) / name

    def _volume_of(self, call: Call) -> list[str]:
        """The parts of a volume's name. Raises ApiError (404) when it does not exist."""
        found = parts(call, 3)
        if not self._folder(*found).is_dir():
            raise absent("Volume", ".".join(found))
        return found

    def _volume(self, catalog: str, schema: str, name: str) -> shapes.VolumeInfo:
        full_name = f"{catalog}.{schema}.{name}"
        return shapes.VolumeInfo(
            name=name,
            catalog_name=catalog,
            schema_name=schema,
            full_name=full_name,
            volume_type=shapes.VolumeType.MANAGED,
            volume_id=object_id(full_name),
            created_by=USER,
            updated_by=USER,
            metastore_id=METASTORE,
            storage_location=f"file://{self._folder(catalog, schema, name)}",
            **{"owner": USER, **self._securables.recorded(full_name)},
        )


def routes(workspace: Workspace) -> list[Route]:
    """The routes of `/api/2.1/unity-catalog/volumes`."""
    service, base = Volumes(Securables(workspace)), f"{BASE}/volumes"
    one = f"{base}/{{full_name}}"
    return [
        route("GET", base, service.list_volumes),
        route("POST", base, service.create_volume, refuses="storage_location"),
        route("GET", one, service.get_volume),
        route("PATCH", one, service.update_volume),
        route("DELETE", one, service.delete_volume),
    ]

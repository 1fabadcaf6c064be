"""Objects of Unity Catalog: their names, their listings, and what is kept of them beside the folders."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from local_workspace.engine import CatalogTree
from local_workspace.errors import ApiError, invalid
from local_workspace.http import Call, Json
from local_workspace.state import Database, now_ms

Item = TypeVar("Item")

METASTORE = "local"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,254}")
_PAGE = 1000


class Securables:
    """The folder tree, and a record in the database for what folders cannot say: owner, dates, properties."""

    def __init__(self, tree: CatalogTree, database: Database) -> None:
        self.tree, self._database = tree, database

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

    def require_catalog(self, catalog: str) -> None:
        """Raise ApiError (404) unless there is such a catalog."""
        if not self.tree.has_catalog(catalog):
            raise absent("Catalog", catalog)

    def require_schema(self, catalog: str, schema: str) -> None:
        """Raise ApiError (404) unless there is such a schema."""
        self.require_catalog(catalog)
        if not _NAME.fullmatch(schema) or not self.tree.has_schema(catalog, schema):
            raise absent("Schema", f"{catalog}.{schema}")

    def schema_of(self, call: Call) -> tuple[str, str]:
        """The `catalog_name` and `schema_name` of a request. Raises ApiError (404) unless they exist."""
        catalog, schema = call.text("catalog_name").lower(), call.text("schema_name").lower()
        self.require_schema(catalog, schema)
        return catalog, schema


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

"""The catalog: a folder tree `<root>/tables/<catalog>/<schema>/<table>/_delta_log`, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .deltalog import DeltaLogs, TableShape, sql_type
from .errors import EngineError, catalog_not_found, schema_not_found, table_not_found
from .keys import PROPERTY, Key, keys_in
from .names import TableName, folded, folder_of, is_name, name_of
from .paths import PathPolicy

# The comment of the schema or catalog in whose folder it is.
_COMMENT_FILE = ".comment.json"
# The prefix of temporary tables, which are not listed.
DRAFT = "_draft_"


@dataclass(frozen=True, kw_only=True)
class ColumnInfo:
    """One column; `type` is its SQL name, `default` its DEFAULT expression."""

    name: str
    type: str
    nullable: bool = True
    comment: str | None = None
    default: str | None = None


@dataclass(frozen=True, kw_only=True)
class TableInfo:
    """A table or view; `created_at_ms` since the epoch, `location` a folder (empty for a view)."""

    name: TableName
    kind: str
    columns: tuple[ColumnInfo, ...]
    location: str
    created_at_ms: int
    comment: str | None = None
    properties: dict[str, str]
    partition_columns: tuple[str, ...] = ()
    view_definition: str | None = None
    external: bool = False
    keys: tuple[Key, ...] = ()

    @property
    def table_type(self) -> str:
        """The type as Unity Catalog names it: MANAGED, EXTERNAL or VIEW."""
        return "VIEW" if self.kind == "VIEW" else "EXTERNAL" if self.external else "MANAGED"


@dataclass(frozen=True, kw_only=True)
class ViewDefinition:
    """A persisted view: `query` with every table name written out in full."""

    query: str
    text: str
    columns: tuple[ColumnInfo, ...]
    comment: str | None = None
    created_at_ms: int = 0


class CatalogTree:
    """Catalogs, schemas, tables and views under one root; safe for threads; names are case-insensitive."""

    def __init__(
        self,
        root: Path,
        catalogs: tuple[str, ...],
        *,
        ascii_folders: bool = True,
        allowed: Sequence[Path] = (),
    ) -> None:
        self.root = root.resolve()
        self.paths = PathPolicy(root=self.root, allowed=tuple(folder.resolve() for folder in allowed))
        self._folder_of = folder_of if ascii_folders else str
        self._tables = self.root / "tables"
        self.logs = DeltaLogs()
        self._locks: dict[object, threading.RLock] = {}
        self._guard = threading.Lock()
        self._views: dict[Path, tuple[int, ViewDefinition]] = {}
        self._tables.mkdir(parents=True, exist_ok=True)
        kept = sorted(path.name for path in self._tables.iterdir() if path.is_dir() and path.name[0] != ".")
        self._catalogs = tuple(dict.fromkeys([*(folded(name) for name in catalogs), *kept]))
        for name in self._catalogs:
            (self._tables / name / "default").mkdir(parents=True, exist_ok=True)

    # --- catalogs and schemas

    def catalogs(self) -> list[str]:
        """Return the catalogs, the default one first."""
        return list(self._catalogs)

    def has_catalog(self, catalog: str) -> bool:
        """Tell whether the workspace was started with this catalog."""
        return catalog.lower() in self._catalogs

    def schemas(self, catalog: str) -> list[str]:
        """Return the schemas of a catalog, sorted; raises when there is no such catalog."""
        self._require_catalog(catalog)
        folders = (self._tables / catalog.lower()).iterdir()
        return sorted(path.name for path in folders if path.is_dir() and path.name[0] != ".")

    def has_schema(self, catalog: str, schema: str) -> bool:
        """Tell whether the schema exists."""
        path = f"{self._tables}/{catalog.lower()}/{schema.lower()}"
        return self.has_catalog(catalog) and is_name(schema) and os.path.isdir(path)  # noqa: PTH112 - asked often

    def schema_path(self, catalog: str, schema: str) -> Path:
        """Return the folder of a schema."""
        return self._tables / catalog.lower() / schema.lower()

    def create_schema(self, catalog: str, schema: str) -> bool:
        """Create a schema; False when it was there already."""
        self._require_catalog(catalog)
        path = self.schema_path(catalog, folded(schema))
        if path.is_dir():
            return False
        path.mkdir(parents=True, exist_ok=True)
        return True

    def drop_schema(self, catalog: str, schema: str, *, cascade: bool = False) -> None:
        """Drop a schema; one that has tables only with `cascade`."""
        self.require_schema(catalog, schema)
        if not cascade and self.tables(catalog, schema):
            raise EngineError.of(
                "SCHEMA_NOT_EMPTY", f"Cannot drop a schema `{catalog}`.`{schema}` because it contains "
                "objects. Use DROP SCHEMA … CASCADE.", "2BP01",
            )  # fmt: skip
        self._remove(self.schema_path(catalog, schema))

    def comment(self, catalog: str, schema: str = "") -> str | None:
        """Return the comment of a schema, or of a catalog; None when it has none."""
        try:
            text = (self.schema_path(catalog, schema) / _COMMENT_FILE).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        comment: str | None = json.loads(text)["comment"]
        return comment

    def set_comment(self, comment: str | None, catalog: str, schema: str = "") -> None:
        """Set or take back the comment of a schema, or of a catalog; raises when there is no such thing."""
        self.require_schema(catalog, schema or "default")
        write_json(self.schema_path(catalog, schema) / _COMMENT_FILE, {"comment": comment})

    def require_schema(self, catalog: str, schema: str) -> None:
        """Raise unless the schema exists."""
        self._require_catalog(catalog)
        if not self.has_schema(catalog, schema):
            raise schema_not_found(catalog, schema)

    def _require_catalog(self, catalog: str) -> None:
        if not self.has_catalog(catalog):
            raise catalog_not_found(catalog)

    # --- tables and views

    def tables(self, catalog: str, schema: str) -> list[str]:
        """Return the names of a schema's tables and views, sorted; raises when there is no such schema."""
        self.require_schema(catalog, schema)
        found = set()
        for path in self.schema_path(catalog, schema).iterdir():
            name = name_of(path.name.removesuffix(".view.json").removesuffix(".table.json"))
            if not name.startswith((".", DRAFT)) and self.exists(
                TableName(catalog.lower(), schema.lower(), name)
            ):
                found.add(name)
        return sorted(found)

    def exists(self, name: TableName) -> bool:
        """Tell whether there is a table or view, be it one that cannot be read."""
        try:
            return self.signature(name) is not None
        except EngineError:
            return True

    def infos(self, catalog: str, schema: str) -> Iterator[TableInfo]:
        """Yield the metadata of a schema's tables and views, sorted, but for those that cannot be read."""
        for name in self.tables(catalog, schema):
            with suppress(EngineError):
                info = self.table(catalog, schema, name)
                if info is not None:  # dropped meanwhile
                    yield info

    def table(self, catalog: str, schema: str, name: str) -> TableInfo | None:
        """Return the metadata of a table or view; None when there is none."""
        return self.info(TableName(catalog.lower(), schema.lower(), name.lower()))

    def info(self, name: TableName) -> TableInfo | None:
        """Return the metadata of a table or view by its full name; None when there is none."""
        shape = self.shape(name)
        if shape is not None:
            return _table_info(name, shape, str(self.location(name)), self._sidecar(name, "table").exists())
        view = self.view(name)
        if view is None:
            return None
        return TableInfo(
            name=name, kind="VIEW", columns=view.columns, location="", created_at_ms=view.created_at_ms,
            comment=view.comment, properties={}, view_definition=view.text,
        )  # fmt: skip

    def require_info(self, name: TableName) -> TableInfo:
        """Return the metadata of a table or view; raises when there is none."""
        info = self.info(name)
        if info is None:
            raise table_not_found(name.sql)
        return info

    def signature(self, name: TableName) -> str | None:
        """Return a text that changes whenever a session must learn a table or view anew; None without one."""
        if not is_name(name.name) or not self.has_catalog(name.catalog) or not self._stored(name):
            return None
        shape = self.shape(name)
        if shape is not None:
            return shape.signature
        view = self.view(name)
        return None if view is None else f"view:{view.query}"

    def _stored(self, name: TableName) -> bool:
        """Tell whether anything is kept under a name. It is asked of every word of a statement."""
        path = f"{self._tables}/{name.catalog}/{name.schema}/{self._folder_of(name.name)}"
        return any(os.path.lexists(path + suffix) for suffix in ("", ".table.json", ".view.json"))

    def shape(self, name: TableName) -> TableShape | None:
        """Return the Delta metadata of a table; None when there is no such table."""
        return self.logs.shape(self.location(name))

    def require(self, name: TableName) -> TableShape:
        """Return the Delta metadata of a table; raises when there is none."""
        shape = self.shape(name)
        if shape is None:
            raise table_not_found(name.sql)
        return shape

    def location(self, name: TableName) -> Path:
        """Return the folder of a table: its place in the tree, or where its external location points."""
        schema = self.schema_path(name.catalog, name.schema)
        pointer = self._sidecar(name, "table")
        if pointer.exists():
            return Path(json.loads(pointer.read_text(encoding="utf-8"))["location"])
        return schema / self._folder_of(name.name)

    def altered_ms(self, name: TableName) -> int:
        """Return when a table or view was last changed, in milliseconds since the epoch."""
        log = self.location(name) / "_delta_log"
        path = log if log.exists() else self._sidecar(name, "view")
        return int(path.stat().st_mtime * 1000)

    def register_external(self, name: TableName, location: Path) -> None:
        """Point a name at a Delta table outside the tree."""
        write_json(self._sidecar(name, "table"), {"location": str(location)})

    def drop_table(self, name: TableName) -> None:
        """Remove a table; its files too, unless they are external."""
        pointer = self._sidecar(name, "table")
        if pointer.exists():
            pointer.unlink()
        else:
            self._remove(self.location(name))

    def rename(self, old: TableName, new: TableName) -> None:
        """Give a table another name, within or across schemas."""
        self.require_schema(new.catalog, new.schema)
        pointer = self._sidecar(old, "table")
        if pointer.exists():
            pointer.rename(self._sidecar(new, "table"))
        else:
            self.location(old).rename(self.location(new))

    def discard_unborn(self, name: TableName) -> None:
        """Remove what a failed CREATE left behind: a folder without a committed table."""
        path = self.schema_path(name.catalog, name.schema) / self._folder_of(name.name)
        if path.is_dir() and self.shape(name) is None:
            self._remove(path)

    # --- views

    def view(self, name: TableName) -> ViewDefinition | None:
        """Return a persisted view; None when there is none."""
        path = self._sidecar(name, "view")
        try:
            changed = path.stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return None
        known = self._views.get(path)
        if known is None or known[0] != changed:
            data = json.loads(path.read_text(encoding="utf-8"))
            columns = tuple(ColumnInfo(**column) for column in data.pop("columns"))
            known = (changed, ViewDefinition(columns=columns, **data))
            self._views[path] = known
        return known[1]

    def save_view(self, name: TableName, view: ViewDefinition) -> None:
        """Create or replace a persisted view."""
        write_json(self._sidecar(name, "view"), asdict(view))

    def drop_view(self, name: TableName) -> None:
        """Remove a persisted view."""
        self._sidecar(name, "view").unlink()

    # --- files

    @contextmanager
    def lock(self, key: object) -> Iterator[None]:
        """Serialise DDL on one table: the engine has no protection of its own between two sessions."""
        with self._guard:
            lock = self._locks.setdefault(key, threading.RLock())
        with lock:
            yield

    def _sidecar(self, name: TableName, kind: str) -> Path:
        return self.schema_path(name.catalog, name.schema) / f"{self._folder_of(name.name)}.{kind}.json"

    def _remove(self, path: Path) -> None:
        """Rename away, then delete: readers see a whole table or none."""
        trash = self._tables / ".trash" / uuid.uuid4().hex
        trash.parent.mkdir(exist_ok=True)
        try:
            path.rename(trash)
        except FileNotFoundError:
            return
        shutil.rmtree(trash, ignore_errors=True)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a file as a whole, in place of what is there: readers see the one or the other."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    draft.write_text(json.dumps(data), encoding="utf-8")
    draft.replace(path)


def _table_info(name: TableName, shape: TableShape, location: str, external: bool) -> TableInfo:
    columns = tuple(
        ColumnInfo(
            name=field["name"],
            type=sql_type(field["type"]),
            nullable=field["nullable"],
            comment=field["metadata"].get("comment"),
            default=field["metadata"].get("CURRENT_DEFAULT"),
        )
        for field in shape.schema["fields"]
    )
    return TableInfo(
        name=name, kind="TABLE", columns=columns, location=location, created_at_ms=shape.created_at_ms,
        comment=shape.description, partition_columns=shape.partition_columns, external=external,
        properties={key: value for key, value in shape.properties.items() if key != PROPERTY},
        keys=keys_in(shape.properties),
    )  # fmt: skip
